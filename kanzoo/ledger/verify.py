"""Whether what a ledger says follows from its runs, and its runs from their results and items."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kanzoo.files import read_json
from kanzoo.ledger.store import DAMAGES, Items, Ledger, conclusions, items_by_run, read_ledger
from kanzoo.ledger.tuned import check_trials
from kanzoo.settings import StudyConfig
from kanzoo.study.controls import chooses_model, control_arms, is_borrowing
from kanzoo.study.plan import arms_of
from kanzoo.study.results import COSTS

# Scores from the items of a run: exact, but for the precision in which items are kept.
SCORES: dict[str, Callable[[Items], float]] = {
    "accuracy": lambda items: float(items["correct"].mean()),
    "mse": lambda items: float(items["loss"].mean(dtype=float)),
    "rmse": lambda items: math.sqrt(items["loss"].mean(dtype=float)),
    "bits_per_char": lambda items: (
        float(np.average(items["loss"].astype(float), weights=items["count"])) / math.log(2)
    ),
}
SAMPLES = ("accuracy", "rmse")  # which have an item a test sample
NEAR = 3e-5  # relative, of a score to that of its items
ALIKE = 1e-6  # of what follows from the same runs elsewhere: where an optimum lies is known so well


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
    for name, text in computed.items():
        path = folder / name
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
        "arm": {**study.arms, **control_arms(study)},
        "match": study.match,
        "seed": range(study.first_seed, study.first_seed + study.seeds),
        "status": ("finished", "diverged"),
    }
    for key, allowed in declared.items():
        if row[key] not in allowed:
            return f"{key} {row[key]} is not of the study"
    if not isinstance(row["test"], float):
        return f"its test score {row['test']!r} is no number"
    if words := _foreign_words(row, study):
        return f"its command is not that of arm {row['arm']}, which has {words}"
    if row["status"] == "diverged":
        least = row.get("no_skill", row["test"])
        is_known = not math.isnan(row["test"]) and not math.isnan(least)
        wrong = is_known and row["test"] != least
        return f"it diverged, but its test score is not that of no skill, {least}" if wrong else ""
    result = json.loads(row["result"])
    found = {"test": result["test"][row["metric"]], "val": result["val"][row["metric"]]}
    found |= {"metric": result["metric"], "mode": result["mode"]}
    found |= {key: result[key] for key in (*COSTS, "flops_sparse") if key in row}
    for name in (key for key in row if key.startswith("test_") and key != "test_set"):
        parts = name.removeprefix("test_").rsplit("_", 1)
        at = result.get("corrupted", {}).get(parts[0], {}).get(parts[-1], {})
        found[name] = result["test"].get(name.removeprefix("test_"), at.get(row["metric"]))
    for name, value in found.items():
        if row[name] != value and not (value is None and row[name] != row[name]):
            return f"{name} is {_short(row[name])}, its result says {_short(value)}"
    if row["metric"] in SCORES:
        if not items:
            return "it has no items"
        count, size = len(next(iter(items.values()))), row.get("n_test", "")
        if row["metric"] in SAMPLES and size == size != "" and count != size:
            return f"it has {count} items of {size:.0f} test samples"
        score = SCORES[row["metric"]](items)
        if not math.isclose(score, row["test"], rel_tol=NEAR, abs_tol=NEAR**2):
            return f"test is {_short(row['test'])}, its items give {_short(score)}"
    return ""


def _foreign_words(row: dict[str, Any], study: StudyConfig) -> str:
    """The first overrides of a row's arm, model, data and seed that its command does not have."""
    words = {*shlex.split(row["command"])}
    own = [w for w in arms_of(study)[row["arm"]] if not is_borrowing(w)]
    own += [] if chooses_model(own) else study.models[row["model"]]
    own += [f"data={row['data']}", f"seed={row['seed']}"]
    return " ".join(word for word in own if word not in words)


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
        if abs(written - computed) <= ALIKE * max(1.0, abs(computed)):
            return ""
    elif written == computed:
        return ""
    return f"{path or 'the file'} is {str(written)[:60]}, not {str(computed)[:60]}"
