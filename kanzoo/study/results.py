"""Results of a study's cells as the table that statistics and report read."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from kanzoo import registry
from kanzoo.data.corruption import CORRUPTIONS
from kanzoo.study.plan import Cell

Axes = tuple[str, ...]

COSTS = ("params", "flops", "step_time_ms", "peak_memory_mb", "train_seconds", "epochs")


def collect(cells: Iterable[Cell], study_folder: Path, axes: Sequence[str] = ()) -> pd.DataFrame:
    """A row a cell; what is not there yet counts as failed, with the reason.

    `axes` are the further axes that get a column. Test metrics beside the one that selects are in
    columns `test_NAME`, those on corrupted inputs in `test_KIND_SEVERITY`.
    """
    table = pd.DataFrame([_row(cell, study_folder, axes) for cell in cells])
    # Also where no cell has finished yet.
    absent = [name for name in ("test", "val", "width", *COSTS) if name not in table]
    return table.assign(**dict.fromkeys(absent, float("nan")))


def judged(results: pd.DataFrame, metrics: dict[str, dict[str, Any]]) -> tuple[pd.DataFrame, Axes]:
    """What verdicts are about: a row a run and judged value, and the axes that this adds.

    `metrics` are the further test metrics to judge, with their modes. Values on corrupted inputs
    are told apart by the axes `corruption` and `severity`, other metrics by the axis `metric`.
    """
    parts = [results.assign(corruption="clean", severity="0")]
    for name, options in metrics.items():
        column = f"test_{name}"
        if column not in results and results["status"].eq("finished").any():
            raise ValueError(f"no finished run has the metric {name!r} of study.metrics")
        values = results.get(column, float("nan"))
        changes = {"metric": name, "mode": options["mode"], "test": values}
        parts.append(parts[0].assign(**changes))
    corrupted = [re.fullmatch(rf"test_({'|'.join(CORRUPTIONS)})_(.+)", str(c)) for c in results]
    for found in filter(None, corrupted):
        changes = {"corruption": found[1], "severity": found[2], "test": results[found[0]]}
        parts.append(results.assign(**changes))
    axes: Axes = (("metric",) if metrics else ()) + (
        ("corruption", "severity") if any(corrupted) else ()
    )
    return pd.concat(parts, ignore_index=True), axes


def _row(cell: Cell, study_folder: Path, axes: Sequence[str]) -> dict[str, Any]:
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
        **{name: value for name, value in cell.axes if name in axes},
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
        "width": result["sizes"] + (", trunk changed" if result["trunk_changed"] else ""),
        "roles": " ".join(result["kan_roles"]),
        "flops_sparse": result["flops_sparse"],
    }
    row |= {key: result[key] for key in COSTS}
    others = {k: v for k, v in result["test"].items() if k not in ("loss", result["metric"])}
    row |= {f"test_{name}": value for name, value in others.items()}
    for kind, severities in result.get("corrupted", {}).items():
        for severity, scores in severities.items():
            row[f"test_{kind}_{severity}"] = scores[result["metric"]]
    if "phases" in result:
        row["phases"] = json.dumps(result["phases"])
    return row
