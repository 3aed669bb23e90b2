"""Ledgers that grow: by the runs of a study, and by those of other ledgers of one protocol."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from functools import reduce
from pathlib import Path

import pandas as pd

from kanzoo.files import csv_of, write_arrays, write_atomic
from kanzoo.ledger.store import (
    CONCLUSIONS,
    KEY,
    TRIALS,
    Ledger,
    cell_of,
    conclusions,
    in_order,
    read_ledger,
    read_study,
    run_of,
)
from kanzoo.ledger.verify import check_ledger
from kanzoo.study.record import FILE, join_records, write_joined
from kanzoo.study.results import as_csv
from kanzoo.study.tune import NOT_RUN

RESULTS_OF_TRIALS = ("first", "value", "scores", "failed", "reason", "chosen")
FILES = (FILE, "runs.csv", "items.npz", TRIALS, *CONCLUSIONS)


def add(study: Path, folder: Path) -> int:
    """Add the finished runs of a study to its ledger; the number of rows that are new.

    Raises `ValueError`, and leaves the ledger as it is, for runs of another study, with other
    results, or that do not pass its check.
    """
    fresh = read_study(study)
    before = read_ledger(folder) if (folder / "runs.csv").is_file() else None
    joined = join(before, fresh, folder) if before else fresh
    _write(joined, [folder / TRIALS, study / "tuning" / TRIALS], folder)
    return len(joined.runs) - (len(before.runs) if before else 0)


def merge(others: list[Path], folder: Path) -> int:
    """Write the runs of several ledgers of one protocol as one; the number of its rows.

    A ledger that is in `folder` already is one of them. Raises as `add` does.
    """
    paths = [*others, *([folder] if (folder / "runs.csv").is_file() else [])]
    ledgers = sorted(((read_ledger(path), path) for path in paths), key=lambda each: _size(each[0]))
    joined = ledgers[0][0]
    for other, path in ledgers[1:]:
        try:
            joined = join(joined, other, path)
        except ValueError as error:
            _, is_other, keys = str(error).partition("these keys differ: ")
            if not is_other:
                raise
            raise ValueError(
                f"{path} is of another protocol; these keys differ: {keys.partition(';')[0]}"
            ) from error
    _write(joined, [path / TRIALS for path in paths], folder)
    return len(joined.runs)


def join(first: Ledger, second: Ledger, where: Path) -> Ledger:
    """The runs of two ledgers of one study; of a run in both, scores must be the same.

    It is that of the first ledger, with its items, but for one that diverged: what this costs
    follows from other runs. `where` the second lies is for errors.
    """
    by = cell_of(first.study)
    record = join_records(first.record, second.record, where)
    both = first.runs.merge(second.runs, on=by, suffixes=("", "_other"))
    has_ended = both["status"].eq("finished") & both["status_other"].eq("finished")
    differs = both["status"].ne(both["status_other"])
    for name in ("test", "val"):
        ours, theirs = both[name], both[f"{name}_other"]
        differs |= has_ended & ours.ne(theirs) & ~(ours.isna() & theirs.isna())
    if differs.any():
        row = both[differs].iloc[0]
        results = [
            f"{row['test' + k]:.6g} (validation {row['val' + k]:.6g}, {row['status' + k]})"
            for k in ("", "_other")
        ]
        raise ValueError(
            f"run {row['config_hash']} of seed {row['seed']} has two results, "
            f"{' and '.join(results)}: repeat it by {row['command']}"
        )
    diverged = second.runs[second.runs["status"].eq("diverged")]
    runs = pd.concat([diverged, first.runs, second.runs]).drop_duplicates(by)
    known = {*zip(*(first.runs[key] for key in KEY), strict=True)}
    items = {name: values for name, values in second.items.items() if run_of(name) not in known}
    return Ledger(record, runs, {**first.items, **items})


def _write(ledger: Ledger, trials: Iterable[Path], folder: Path) -> None:
    """Write all files of a ledger, the same bytes for the same runs, once they pass its check."""
    tables = [pd.read_csv(p, dtype=str, keep_default_na=False) for p in trials if p.is_file()]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        made = Path(temporary) / folder.name
        made.mkdir()
        write_joined(ledger.record, made)
        write_atomic(made / "runs.csv", as_csv(in_order(ledger.runs, ledger.study)))
        items = {name: ledger.items[name] for name in sorted(ledger.items)}
        write_arrays(made / "items.npz", items)
        if tables:
            write_atomic(made / TRIALS, csv_of(_joined_trials(tables)))
        try:
            for name, text in conclusions(read_ledger(made)).items():
                write_atomic(made / name, text)
            check_ledger(made)
        except ValueError as error:
            raise ValueError(str(error).replace(str(made), str(folder))) from error
        folder.mkdir(exist_ok=True)
        for name in FILES:
            if (made / name).is_file():
                shutil.move(made / name, folder / name)
            else:
                (folder / name).unlink(missing_ok=True)


def _joined_trials(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """The trials of these tables as one, each where it has run most."""
    table = pd.concat(tables, ignore_index=True).fillna("")
    table = table[~table["reason"].str.contains(NOT_RUN)]
    keys = [name for name in table if name not in RESULTS_OF_TRIALS]
    for _, group in table.groupby(keys, sort=False):
        if len(group) > 1:
            reduce(_longer, group["scores"])
    runs = table["scores"].str.count(" ")
    last = table.assign(_runs=runs).sort_values("_runs", kind="stable")
    kept = last.drop_duplicates(keys, keep="last").index
    return table.loc[sorted(kept)]


def _longer(first: str, second: str) -> str:
    """Of the scores of one trial in two tables those of more seeds; they begin alike."""
    short, long = sorted((first, second), key=lambda scores: len(scores.split()))
    if long.split()[: len(short.split())] != short.split():
        raise ValueError(f"{TRIALS}: a trial has two results, {first} and {second}")
    return long


def _size(ledger: Ledger) -> tuple[int, ...]:
    """What orders ledgers from the smallest study to the largest."""
    study = ledger.study
    return study.seeds, len(study.arms), len(study.data), len(ledger.runs)
