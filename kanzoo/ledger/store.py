"""A ledger: `study.yaml`, `runs.csv`, `items.npz`, `verdicts.json`, `aggregate.json`.

`runs.csv` has a row a run, by the hash of its configuration and its seed: what statistics read, and
the result of the run as JSON. `items.npz` holds the values of the run's test items under
`HASH/seedS/NAME`. Verdicts and aggregates follow from these files, so that they can be checked.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kanzoo.files import read_arrays, read_json
from kanzoo.settings import StudyConfig
from kanzoo.study.judge import judge
from kanzoo.study.plan import active_axes
from kanzoo.study.record import FILE, Record, read_record
from kanzoo.study.results import COSTS
from kanzoo.study.verdict import Verdict

KEY = ["config_hash", "seed"]
TEXTS = (
    *("data", "domain", "model", "arm", "layers", "basis", "match", "status", "reason", "metric"),
    *("mode", "run_dir", "command", "sizes", "roles", "test_set", "config_hash", "result"),
    *("machine", "wandb", "phases", "source"),
)
NEEDED = (
    *(*KEY, "data", "domain", "model", "arm", "layers", "basis", "match", "status", "reason"),
    *("metric", "mode", "command", "test", "val", "result"),
)
NUMBERS = ("flops_sparse", "n_train", "n_val", "n_test", "is_ordered", "is_tuned", "items")
# What reading says to what is not as it was written.
DAMAGES = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
LEFT_OUT = ("items", "run_dir", "source")  # which are of this machine
TRIALS = "trials.csv"
CONCLUSIONS = ("verdicts.json", "aggregate.json")
Items = dict[str, np.ndarray]


@dataclass(frozen=True)
class Ledger:
    """The runs of a study, a row each, and the values of their test items."""

    record: Record
    runs: pd.DataFrame
    items: Items

    @property
    def study(self) -> StudyConfig:
        return self.record.study


def read_ledger(folder: Path) -> Ledger:
    """The ledger in a folder; `ValueError` where there is none that can be read."""
    for name in (FILE, "runs.csv", "items.npz"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} is not a ledger: it has no {name}")
    record = read_record(folder)
    texts = [*TEXTS, *active_axes(record.study)]
    try:
        header = pd.read_csv(folder / "runs.csv", dtype=str, nrows=0)
        check_columns(folder / "runs.csv", [*header], active_axes(record.study))
        runs = read_table(folder / "runs.csv", texts)
        items = read_arrays(folder / "items.npz")
    except (*DAMAGES, pd.errors.ParserError, pd.errors.EmptyDataError, OSError) as error:
        raise ValueError(f"{folder} holds a damaged ledger: {error}") from error
    if runs.empty:
        raise ValueError(f"{folder / 'runs.csv'} has no runs")
    if not runs["config_hash"].str.fullmatch("[0-9a-f]{8}").all():  # which name files
        raise ValueError(f"{folder / 'runs.csv'} has a config_hash that is none")
    if wrong := [name for name in items if not re.fullmatch(r"[0-9a-f]{8}/seed\d+/[\w.-]+", name)]:
        raise ValueError(f"{folder / 'items.npz'} has items of no run: {wrong[0]}")
    runs = in_order(runs, record.study)
    twice = runs.duplicated(cell_of(record.study))
    if twice.any():
        raise ValueError(f"{folder / 'runs.csv'} has a run twice: {runs[twice]['command'].iloc[0]}")
    return Ledger(record, runs, items)


def check_columns(path: Path, names: list[str], axes: list[str]) -> None:
    """Raise a `ValueError` unless a table of runs has the columns it needs and no others."""
    if missing := [name for name in (*NEEDED, *axes) if name not in names]:
        raise ValueError(f"{path} lacks the columns {', '.join(missing)}")
    known = {*NEEDED, *axes, *TEXTS, *COSTS, *NUMBERS}
    foreign = [n for n in names if n not in known and not n.startswith(("test_", "no_skill"))]
    if foreign:
        raise ValueError(f"{path} has columns that no run has: {', '.join(foreign)}")


def read_verdicts(folder: Path) -> list[dict[str, Any]]:
    """What `verdicts.json` of a ledger holds; `ValueError` for what is of another version."""
    path = folder / "verdicts.json"
    needed = {each.name for each in fields(Verdict)} - {"axes"}
    try:
        judged = read_json(path)
        is_known = isinstance(judged, list) and all(needed <= v.keys() for v in judged)
    except (ValueError, AttributeError):
        is_known = False
    if not is_known:
        raise ValueError(f"{path} holds no verdicts of this version: see scripts/ledger.py check")
    return list(judged)


def seeds_of(ledger: Ledger, row: Mapping[str, Any]) -> pd.DataFrame:
    """The runs of a row's arm: those that differ from it by their seed."""
    runs = ledger.runs
    for key in ("data", "model", "arm", "match", *active_axes(ledger.study)):
        runs = runs[runs[key] == row[key]]
    return runs


def cell_of(study: StudyConfig) -> list[str]:
    """What tells rows apart: arms of several tasks may share a run, such as linear models."""
    return [*KEY, "data", "model", "arm", "match", *active_axes(study)]


def read_study(folder: Path) -> Ledger:
    """The finished runs below the folder of a study, as a ledger."""
    report = folder / "report" / "results.csv"
    if not report.is_file() or not (folder / FILE).is_file():
        raise ValueError(f"{folder} is not the folder of a reported study: it has no {report.name}")
    record = read_record(folder)
    table = read_table(report, [*TEXTS, *active_axes(record.study)])
    table = table[table["status"].isin(["finished", "diverged"])].reset_index(drop=True)
    items: Items = {}
    hashes, results = [], []
    for path in (folder / name for name in table["run_dir"]):
        digest = path.parent.name.rpartition("-")[2]
        result = path / "result.json"
        hashes.append(digest)
        text = read_json(result) if result.is_file() else {}
        results.append(json.dumps(text, sort_keys=True, separators=(",", ":")) if text else "")
        if (path / "items.npz").is_file():
            arrays = read_arrays(path / "items.npz")
            items |= {f"{digest}/{path.name}/{name}": array for name, array in arrays.items()}
    commands = table["command"].map(_anywhere)
    runs = table.assign(command=commands, config_hash=hashes, result=results)
    return Ledger(record, runs.drop(columns=[c for c in LEFT_OUT if c in runs]), items)


def _anywhere(command: str) -> str:
    """A command with the usual folder of runs, not that of this machine; it keeps what is there."""
    words = [word for word in shlex.split(command) if word != "overwrite=true"]
    return shlex.join("runs=runs" if word.startswith("runs=") else word for word in words)


def read_table(path: Path, texts: Iterable[str]) -> pd.DataFrame:
    """A CSV file whose numbers are those that were written, to the last digit."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    words = {"True": True, "False": False, "": ""}
    for name in set(table) - {*texts}:
        values = table[name].tolist()
        if set(values) <= set(words) and any(values):
            table[name] = pd.Series([words[value] for value in values], dtype=object)
            continue
        with contextlib.suppress(ValueError):
            table[name] = [float(value) if value else float("nan") for value in values]
    if wrong := [seed for seed in table["seed"] if not (isinstance(seed, float) and seed % 1 == 0)]:
        raise ValueError(f"{path} has a seed that is no whole number: {wrong[0]!r}")
    return table.astype({"seed": int})


def in_order(runs: pd.DataFrame, study: StudyConfig) -> pd.DataFrame:
    """The rows in the order of a ledger, whatever order they came in: what is drawn follows it."""
    keys = ["data", "model", "match", *active_axes(study), "arm", "seed"]
    return runs.sort_values(keys, kind="stable", ignore_index=True)


def conclusions(ledger: Ledger) -> dict[str, str]:
    """What follows from the runs: `verdicts.json`, and `aggregate.json` if there is any."""
    with tempfile.TemporaryDirectory() as folder:
        judged, aggregate = judge(ledger.study, with_items(ledger, Path(folder)))
    texts = dict(zip(CONCLUSIONS, ([v.to_dict() for v in judged], aggregate), strict=True))
    return {k: json.dumps(v, indent=1, allow_nan=False) for k, v in texts.items() if v is not None}


def with_items(ledger: Ledger, folder: Path) -> pd.DataFrame:
    """The runs with the items of each in a file of its own below `folder`, as statistics read."""
    paths = []
    by_run = items_by_run(ledger)
    for digest, seed in zip(ledger.runs["config_hash"], ledger.runs["seed"], strict=True):
        items = by_run.get((digest, seed), {})
        path = folder / digest / f"seed{seed}.npz"
        if items and not path.is_file():
            path.parent.mkdir(exist_ok=True)
            np.savez(path, allow_pickle=False, **items)
        paths.append(str(path) if items else "")
    return ledger.runs.assign(items=paths).reset_index(drop=True)


def items_by_run(ledger: Ledger) -> dict[tuple[str, int], Items]:
    """The values of the test items by their name, of every run by its hash and seed."""
    by_run: dict[tuple[str, int], Items] = {}
    for key, values in ledger.items.items():
        by_run.setdefault(run_of(key), {})[key.rpartition("/")[2]] = values
    return by_run


def run_of(key: str) -> tuple[str, int]:
    """The hash and the seed of the run that an array of items is of."""
    digest, seed, _ = key.split("/")
    return digest, int(seed.removeprefix("seed"))


def restored(ledger: Ledger) -> Mapping[tuple[str, int], dict[str, Any]]:
    """The results of the finished runs of a ledger, by hash and seed."""
    rows = ledger.runs[ledger.runs["status"].eq("finished")]
    each = zip(rows["config_hash"], rows["seed"], rows["result"], strict=True)
    return {(digest, int(seed)): json.loads(text) for digest, seed, text in each if text}


def diverged(ledger: Ledger) -> Mapping[tuple[str, int], str]:
    """Why the runs of a ledger that diverged did, by hash and seed."""
    rows = ledger.runs[ledger.runs["status"].eq("diverged")]
    each = zip(rows["config_hash"], rows["seed"], rows["reason"], strict=True)
    return {(digest, int(seed)): str(reason) for digest, seed, reason in each}
