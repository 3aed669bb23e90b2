"""Results of a study's cells as the table that statistics and report read."""

import json
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kanzoo import registry
from kanzoo.data.corruption import CORRUPTIONS
from kanzoo.errors import DIVERGED
from kanzoo.files import csv_of
from kanzoo.settings import MetricConfig
from kanzoo.study.pairs import MAY_LACK
from kanzoo.study.plan import Cell

Axes = tuple[str, ...]
_CORRUPTED = re.compile(rf"test_({'|'.join(CORRUPTIONS)})_(.+)")

COSTS = ("params", "flops", "step_time_ms", "peak_memory_mb", "train_seconds", "epochs")
SIZES = ("train", "val", "test")
COUNTS = ("params", "flops", "flops_sparse", "epochs", *(f"n_{name}" for name in SIZES))


def collect(
    cells: Iterable[Cell],
    study_folder: Path,
    axes: Sequence[str] = (),
    tuned: Collection[tuple[str, ...]] = (),
) -> pd.DataFrame:
    """A row a cell; one without a result failed, with the reason, or is waiting for its turn.

    `axes` are the further axes that get a column, `tuned` the kinds of cells that were tuned. Test
    metrics beside the one that selects are in columns `test_NAME`, those on corrupted inputs in
    `test_KIND_SEVERITY`. A run that diverged has the scores of the prediction without skill of its
    data, `no_skill` and `no_skill_NAME`, where a finished run of the same model has them,
    which may have data of its own, and of the same seed, if there is one.
    """
    table = pd.DataFrame(
        [_row(cell, study_folder, axes) | {"is_tuned": cell.kind in tuned} for cell in cells]
    )
    # Also where no cell has finished yet.
    absent = [name for name in ("test", "val", "sizes", "no_skill", *COSTS) if name not in table]
    table = table.assign(**dict.fromkeys(absent, float("nan")))
    return with_no_skill(table)


def with_no_skill(table: pd.DataFrame) -> pd.DataFrame:
    """The table with scores of the prediction without skill for runs that diverged."""
    lost = table["status"].eq("diverged")
    if not lost.any():
        return table
    for name in [str(column) for column in table if str(column).startswith("no_skill")]:
        known = table[name].copy()
        for alike in (["data", "model", "seed"], ["data", "model"], ["data"]):
            table[name] = table[name].fillna(
                known.groupby([table[key] for key in alike]).transform("median")
            )
        column = "test" + name.removeprefix("no_skill")
        table.loc[lost, column] = table.loc[lost, name]
    for column in filter(_CORRUPTED.fullmatch, map(str, table)):
        table.loc[lost, column] = table.loc[lost, "no_skill"]
    return table


def as_csv(table: pd.DataFrame) -> str:
    """Results as CSV, counts as whole numbers also where some cells have none."""
    numbers = {name: pd.to_numeric(table[name]) for name in COUNTS if name in table}
    counts = {name: "Int64" for name, n in numbers.items() if (n.dropna() % 1 == 0).all()}
    return csv_of(table.drop(columns="items", errors="ignore").astype(counts))


def judged(
    results: pd.DataFrame, metrics: dict[str, MetricConfig], controls: Collection[str] = ()
) -> tuple[pd.DataFrame, Axes]:
    """What verdicts are about: a row a run and judged value, and the axes that this adds.

    `metrics` are the further test metrics to judge, with their modes. Values on corrupted inputs
    are told apart by the axes `corruption` and `severity`, other metrics by the axis `metric`.
    These and the arms in `controls` are the secondary family. A value that is not finite, as on
    inputs of which a network makes nothing, is a divergence too.
    """
    family = results["arm"].isin(controls).map({True: "secondary", False: "primary"})
    parts = [results.assign(corruption="clean", severity="0", family=family)]
    for name, options in metrics.items():
        column = f"test_{name}"
        if column not in results and results["status"].eq("finished").any():
            raise ValueError(f"no finished run has the metric {name!r} of study.metrics")
        changes = {
            "metric": name,
            "mode": options.mode,
            "test": results.get(column, float("nan")),
            "no_skill": results.get(f"no_skill_{name}", float("nan")),
            "family": "secondary",
        }
        parts.append(parts[0].assign(**changes))
    corrupted = [_CORRUPTED.fullmatch(str(c)) for c in results]
    for parsed in filter(None, corrupted):
        changes = {"corruption": parsed[1], "severity": parsed[2], "test": results[parsed[0]]}
        parts.append(results.assign(**changes, family="secondary"))
    axes: Axes = (("metric",) if metrics else ()) + (
        ("corruption", "severity") if any(corrupted) else ()
    )
    values = pd.concat(parts, ignore_index=True)
    scores = pd.to_numeric(values["test"], errors="coerce")
    lost = values["status"].eq("finished") & ~np.isfinite(scores) & ~values["metric"].isin(MAY_LACK)
    if lost.any() and "no_skill" in values:
        lost &= np.isfinite(pd.to_numeric(values["no_skill"], errors="coerce"))
        values.loc[lost, "status"] = "diverged"
        values.loc[lost, "test"] = values.loc[lost, "no_skill"]
    return values, axes


def _row(cell: Cell, study_folder: Path, axes: Sequence[str]) -> dict[str, Any]:
    path = cell.folder.path
    result = cell.folder.result()
    # Data sets of one study may be for different tasks.
    objective = registry.locate(cell.config["task"]["_target_"])
    dataset = registry.locate(cell.config["data"]["_target_"])
    row: dict[str, Any] = {
        "data": cell.data,
        "domain": dataset.domain,  # type: ignore[attr-defined]
        "model": cell.model,
        "arm": cell.arm,
        "layers": cell.config["choices"]["layers"],
        "basis": cell.config["choices"]["basis"] if cell.config["layers"]["kan_roles"] else "",
        "match": cell.match,
        **{name: value for name, value in cell.axes if name in axes},
        "seed": cell.seed,
        "status": "waiting",
        "reason": "",
        "metric": objective.monitor,  # type: ignore[attr-defined]
        "mode": objective.mode,  # type: ignore[attr-defined]
        "run_dir": str(path.relative_to(study_folder)),
        "command": cell.command,
    }
    if result is None:
        if reason := cell.folder.failure:
            row["reason"] = reason
            row["status"] = "diverged" if reason.startswith(DIVERGED) else "failed"
        return row
    (path / "failure.txt").unlink(missing_ok=True)
    row |= {
        "status": "finished",
        "metric": result["metric"],
        "mode": result["mode"],
        "test": result["test"][result["metric"]],
        "val": result["val"][result["metric"]],
        "sizes": result["sizes"] + (", trunk changed" if result["trunk_changed"] else ""),
        "roles": " ".join(result["kan_roles"]),
        "flops_sparse": result["flops_sparse"],
    }
    row["source"] = result.get("source", "")
    # Times of runs that were trained together are not known.
    row |= {key: float("nan") if result[key] is None else result[key] for key in COSTS}
    row |= {key: result.get(key) or "" for key in ("machine", "wandb")}
    row |= _split(result, path)
    others = {k: v for k, v in result["test"].items() if k not in ("loss", result["metric"])}
    row |= {f"test_{name}": value for name, value in others.items()}
    for kind, severities in result.get("corrupted", {}).items():
        for severity, scores in severities.items():
            row[f"test_{kind}_{severity}"] = scores[result["metric"]]
    if "phases" in result:
        row["phases"] = json.dumps(result["phases"])
    return row


def _split(result: dict[str, Any], path: Path) -> dict[str, Any]:
    """What statistics have to know of the data, of the reference and of the items of a run."""
    facts = result.get("split", {})
    row: dict[str, Any] = {f"n_{part}": facts.get(part, float("nan")) for part in SIZES}
    row |= {name: facts.get(name, "") for name in ("test_set", "is_ordered")}
    row["items"] = str(path / "items.npz") if facts else ""
    for name, value in result.get("reference", {}).get("test", {}).items():
        row["no_skill" if name == result["metric"] else f"no_skill_{name}"] = value
    return row
