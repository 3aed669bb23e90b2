"""Whether what a ledger says follows from its runs, and its runs from their results and items."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kanzoo.files import read_json
from kanzoo.ledger.commands import says, wrong_command
from kanzoo.ledger.store import (
    CONCLUSIONS,
    DAMAGES,
    Items,
    Ledger,
    conclusions,
    items_by_run,
    read_ledger,
)
from kanzoo.ledger.tuned import check_trials
from kanzoo.study.plan import arms_of
from kanzoo.study.results import COSTS

# Scores from the items of a run: exact, but for the precision in which items are kept.
SCORES: dict[str, Callable[[Items], float]] = {
    "accuracy": lambda items: float(items["correct"].mean()),
    "mse": lambda items: float(items["loss"].mean(dtype=float)),
    "rmse": lambda items: math.sqrt(items["loss"].mean(dtype=float)),
    "bits_per_char": lambda items: _mean_loss(items) / math.log(2),
}
SAMPLES = ("accuracy", "rmse")  # which have an item a test sample
NEAR = 3e-5  # relative, of a score to that of its items
NEAR_LOSS = 1e-4  # which was summed in single precision
SPLIT = {"n_train": "train", "n_val": "val", "n_test": "test",
         "test_set": "test_set", "is_ordered": "is_ordered"}  # fmt: skip
# Of what follows from the same runs elsewhere: where an optimum lies is known so well.
ALIKE, ALIKE_ZERO = 1e-6, 1e-10


def check_ledger(folder: Path) -> int:
    """Recompute what a ledger concludes, and return the number of its runs.

    Raises `ValueError` with the first thing that does not follow: rows that the study does not
    declare, scores that are not those of the run's result or of its items, verdicts and aggregates.
    """
    ledger = read_ledger(folder)
    items = items_by_run(ledger)
    for row in ledger.runs.to_dict("records"):
        values = items.get((row["config_hash"], row["seed"]), {})
        try:
            wrong = _wrong_row({str(k): v for k, v in row.items()}, ledger, values)
        except DAMAGES as error:
            wrong = f"its result cannot be read: {error!r}"
        if wrong:
            raise ValueError(
                f"{folder / 'runs.csv'}: run {row['config_hash']} of seed {row['seed']}: {wrong}"
            )
    known = {*zip(ledger.runs["config_hash"], ledger.runs["seed"], strict=True)}
    if foreign := [run for run in items if run not in known]:
        digest, seed = foreign[0]
        raise ValueError(f"{folder / 'items.npz'}: no row for run {digest} of seed {seed}")
    check_trials(folder, ledger)
    try:
        computed = conclusions(ledger)
    except DAMAGES as error:
        raise ValueError(f"{folder} cannot be judged: {error!r}") from error
    for name in CONCLUSIONS:
        path, text = folder / name, computed.get(name, "null")
        try:
            written = read_json(path) if path.is_file() else None
        except ValueError as error:
            raise ValueError(f"{path} is not readable JSON: {error}") from error
        if wrong := _difference(written, json.loads(text)):
            raise ValueError(f"{path} does not follow from its runs: {wrong}")
    return len(ledger.runs)


def _wrong_row(row: dict[str, Any], ledger: Ledger, items: Items) -> str:
    """What is wrong with a row, empty if nothing is."""
    study = ledger.study
    declared = {
        "data": study.data,
        "model": study.models,
        "arm": arms_of(study),
        "match": study.match,
        "seed": range(study.first_seed, study.first_seed + study.seeds),
        "status": ("finished", "diverged"),
    }
    for key, allowed in declared.items():
        if row[key] not in allowed:
            return f"{key} {row[key]} is not of the study"
    if not isinstance(row["test"], float):
        return f"its test score {row['test']!r} is no number"
    if wrong := wrong_command(row, study):
        return wrong
    if row["status"] == "diverged":
        least = row.get("no_skill", row["test"])
        is_known = not math.isnan(row["test"]) and not math.isnan(least)
        is_other = is_known and row["test"] != least
        return f"it diverged, but its test score is not that of no skill, {least}" * is_other
    result = json.loads(row["result"])
    said = [(name, row[name], value) for name, value in _of_result(row, result).items()]
    said += [(f"{k} of its command", v, result.get(k)) for k, v in says(row).items()]
    for name, ours, theirs in said:
        if ours != theirs and not (theirs is None and ours != ours):
            return f"{name} is {_short(ours)}, its result says {_short(theirs)}"
    return _wrong_items(row, result, items) if row["metric"] in SCORES else ""


def _of_result(row: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    """What the columns of a row must be, by the result of its run."""
    metric, split = row["metric"], result["split"]
    found = {"test": result["test"][metric], "val": result["val"][metric]}
    found |= {key: result[key] for key in ("metric", "mode", "config_hash")}
    found |= {key: result[key] for key in (*COSTS, "flops_sparse") if key in row}
    found["sizes"] = result["sizes"] + (", trunk changed" if result["trunk_changed"] else "")
    found |= {key: result[key] or "" for key in ("layers", "basis", "machine") if key in row}
    found |= {key: split[part] for key, part in SPLIT.items()}
    for name in row:
        if name.startswith("test_") and name != "test_set":
            key = name.removeprefix("test_")
            kind, _, severity = key.rpartition("_")
            at = result.get("corrupted", {}).get(kind, {}).get(severity, {})
            found[name] = result["test"].get(key, at.get(metric))
        elif name.startswith("no_skill"):
            key = name.removeprefix("no_skill").removeprefix("_") or metric
            found[name] = result["reference"].get("test", {}).get(key)
    return found


def _wrong_items(row: dict[str, Any], result: dict[str, Any], items: Items) -> str:
    """What is wrong with the test items of a run, empty if nothing is."""
    if not items:
        return "it has no items"
    for name, values in items.items():
        if values.ndim != 1 or not np.isfinite(values).all():
            return f"its items {name} are not a finite number each"
        if name.endswith("correct") and values.dtype != bool:
            return f"its items {name} are not true or false"
    sizes = {len(values) for values in items.values()}
    count = result["split"]["test"]
    if len(sizes) > 1 or (row["metric"] in SAMPLES and sizes != {count}):
        return f"it has {', '.join(map(str, sorted(sizes)))} items of {count} test samples"
    score = SCORES[row["metric"]](items)
    if not math.isclose(score, row["test"], rel_tol=NEAR, abs_tol=NEAR**2):
        return f"test is {_short(row['test'])}, its items give {_short(score)}"
    loss = result["test"].get("loss")
    if "loss" in items and not math.isclose(_mean_loss(items), loss, rel_tol=NEAR_LOSS):
        return f"its loss is {_short(loss)}, its items give {_short(_mean_loss(items))}"
    return ""


def _mean_loss(items: Items) -> float:
    return float(np.average(items["loss"].astype(float), weights=items.get("count")))


def _short(value: Any) -> str:
    return f"{value:.9g}" if isinstance(value, float) else str(value)[:60]


def _difference(written: Any, computed: Any, path: str = "") -> str:
    """The first value that differs, empty where none does; numbers up to rounding."""
    if isinstance(written, dict) and isinstance(computed, dict):
        for key in dict.fromkeys([*written, *computed]):
            if text := _difference(written.get(key), computed.get(key), f"{path}.{key}".strip(".")):
                return text
        return ""
    if isinstance(written, list) and isinstance(computed, list) and len(written) == len(computed):
        for i, (a, b) in enumerate(zip(written, computed, strict=True)):
            if text := _difference(a, b, f"{path}[{i}]"):
                return text
        return ""
    if isinstance(written, float) and isinstance(computed, float):
        if math.isclose(written, computed, rel_tol=ALIKE, abs_tol=ALIKE_ZERO):
            return ""
    elif written == computed:
        return ""
    return f"{path or 'the file'} is {str(written)[:60]}, not {str(computed)[:60]}"
