"""`study.yaml`: what a study's folder was made by, so that no other study goes on in it."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from kanzoo.checks import build
from kanzoo.rundir import FORMAT, flatten, read_config, write_atomic
from kanzoo.settings import StudyConfig

FILE = "study.yaml"
# Words for readers, and what may grow.
FREE = ("title", "question", "seeds")


def check_record(study: StudyConfig, folder: Path) -> None:
    """Raise a `ValueError` that names the keys in which the folder's study differs.

    A study may get more seeds, not fewer: to look at fewer is to choose among results.
    """
    if not (folder / FILE).is_file():
        return
    saved = read_record(folder)
    old, new = (_flat(values) for values in (saved, study))
    keys = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
    if study.seeds < saved.seeds:
        keys.append(f"seeds ({saved.seeds} there)")
    if keys:
        raise ValueError(
            f"{folder} holds a study of another configuration; these keys differ: "
            f"{', '.join(keys)}; choose another study.name or set overwrite=true"
        )


def read_record(folder: Path) -> StudyConfig:
    """The study whose folder this is; `ValueError` for a file of another format."""
    return build(StudyConfig, read_config(folder / FILE), f"{folder / FILE}: ")


def write_record(study: StudyConfig, folder: Path) -> None:
    """Write `study.yaml`, in one step."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"format": FORMAT, **asdict(study)}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    write_atomic(folder / FILE, text)


def _flat(study: StudyConfig) -> dict[str, Any]:
    kept = {key: value for key, value in asdict(study).items() if key not in FREE}
    return {key: str(value) for key, value in flatten(kept).items()}
