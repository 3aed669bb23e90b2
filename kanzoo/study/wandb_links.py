"""Links that let Weights & Biases find all runs of a study."""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from kanzoo.study.plan import Cell


def link_wandb_runs(cells: Iterable[Cell], study_folder: Path) -> None:
    """Link every offline run into `STUDY/wandb`, the folder that `wandb sync` reads.

    The runs themselves stay in the folders of their cells; links are relative, so that a study can
    be moved. Where links cannot be made, nothing happens: they are a convenience.
    """
    links = study_folder / "wandb"
    for cell in cells:
        for run in cell.folder.path.glob("wandb/offline-run-*"):
            links.mkdir(exist_ok=True)
            with contextlib.suppress(OSError):
                (links / run.name).symlink_to(os.path.relpath(run, links))
