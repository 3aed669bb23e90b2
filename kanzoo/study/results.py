"""Results of a study's cells as the table that statistics and report read."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from kanzoo import registry
from kanzoo.study.plan import Cell

COSTS = ("params", "flops", "step_time_ms", "peak_memory_mb", "train_seconds", "epochs")


def collect(cells: Iterable[Cell], study_folder: Path) -> pd.DataFrame:
    """A row a cell; what is not there yet counts as failed, with the reason."""
    return pd.DataFrame([_row(cell, study_folder) for cell in cells])


def _row(cell: Cell, study_folder: Path) -> dict[str, Any]:
    path = cell.folder.path
    result = cell.folder.result()
    # Data sets of one study may be for different tasks.
    objective = registry.locate(cell.config["task"]["_target_"])
    row: dict[str, Any] = {
        "data": cell.data,
        "model": cell.model,
        "arm": cell.arm,
        "layers": cell.config["choices"]["layers"],
        "basis": cell.config["choices"]["basis"] if cell.config["layers"]["kan_roles"] else "",
        "match": cell.match,
        "seed": cell.seed,
        "status": "failed",
        "reason": "",
        "metric": objective.monitor,  # type: ignore[attr-defined]
        "mode": objective.mode,  # type: ignore[attr-defined]
        "run_dir": str(path.relative_to(study_folder)),
        "command": cell.command,
    }
    if result is None:
        failure = path / "failure.txt"
        row["reason"] = failure.read_text().strip() if failure.is_file() else "not run"
        return row
    (path / "failure.txt").unlink(missing_ok=True)
    row |= {
        "status": "finished",
        "metric": result["metric"],
        "mode": result["mode"],
        "test": result["test"][result["metric"]],
        "val": result["val"][result["metric"]],
        "width": _sizes(result["options"]),
    }
    return row | {key: result[key] for key in COSTS}


def _sizes(options: dict[str, Any]) -> str:
    numbers = {k: v for k, v in options.items() if isinstance(v, int | float)}
    return " ".join(f"{name}={value:g}" for name, value in numbers.items())
