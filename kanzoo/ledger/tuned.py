"""Whether the trials of a ledger are those of its runs, and their choice is what the runs took."""

from __future__ import annotations

import shlex
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from kanzoo.ledger.store import DAMAGES, TRIALS, Ledger
from kanzoo.study.plan import active_axes
from kanzoo.study.tune import NOT_RUN

COLUMNS = ("data", "model", "arm", "match")
NEEDED = (*COLUMNS, "trial", "config_hash", "value", "scores", "failed", "reason", "chosen")
NEAR = 1e-9  # relative, of a mean to that of its scores


def check_trials(folder: Path, ledger: Ledger) -> None:
    """Raise a `ValueError` with the first thing in `trials.csv` that does not fit the runs.

    Every tuned kind of run has as many trials as any other, one of them chosen: the best mean of
    those with most seeds. The commands of its runs have the chosen settings.
    """
    path = folder / TRIALS
    tuned = ledger.runs[ledger.runs.get("is_tuned", pd.Series(False, ledger.runs.index)).eq(True)]
    if not path.is_file():
        if len(tuned):
            raise ValueError(f"{folder} has tuned runs, but no {TRIALS}")
        return
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        wrong = _wrong(table, tuned, ledger)
    except (*DAMAGES, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if wrong:
        raise ValueError(f"{path}: {wrong}")


def _wrong(table: pd.DataFrame, tuned: pd.DataFrame, ledger: Ledger) -> str:
    axes = active_axes(ledger.study)
    if missing := [name for name in (*NEEDED, *axes) if name not in table]:
        return f"it lacks the columns {', '.join(missing)}"
    table = table[~table["reason"].str.contains(NOT_RUN)]
    kinds = [*COLUMNS, *axes]
    groups = {_key(key): group for key, group in table.groupby(kinds, sort=False)}
    sizes = [len(group) for group in groups.values()]
    known: set[str] = set()  # runs of kinds that have trials: others may share them
    for key, runs in tuned.groupby(kinds, sort=False):
        if (group := groups.get(_key(key))) is None:
            continue
        known |= {*runs["config_hash"]}
        where = " ".join(filter(None, _key(key)))
        if len(group) != max(sizes) or group["config_hash"].duplicated().any():
            return f"{where} has {len(group)} trials, others have {max(sizes)}"
        if text := _wrong_choice(group, runs):
            return f"{where}: {text}"
    lost = tuned[~tuned["config_hash"].isin(known)]
    if len(lost):
        return f"no trials of {' '.join(filter(None, lost[kinds].iloc[0]))}, which is tuned"
    return ""


def _key(values: Any) -> tuple[str, ...]:
    return tuple(map(str, values))


def _wrong_choice(group: pd.DataFrame, runs: pd.DataFrame) -> str:
    """What is wrong with the trials of a kind of run, empty if nothing is."""
    ranked = []
    sign = -1.0 if runs["mode"].iloc[0] == "max" else 1.0
    rows = group.to_dict("records")
    most = max(len(row["scores"].split()) for row in rows)
    for row in rows:
        scores = row["scores"].split()
        if "-" in scores or not scores:
            continue
        mean = fmean(map(float, scores))
        if abs(mean - float(row["value"])) > NEAR * max(1.0, abs(mean)):
            return f"trial {row['trial']} has the value {row['value']}, its scores give {mean:.9g}"
        if len(scores) == most and int(row["failed"]) < most:
            ranked.append((sign * mean, int(row["trial"]), row))
    if not ranked:
        return ""  # the recipe holds
    best = min(ranked, key=lambda each: each[:2])[2]
    chosen = [row["trial"] for row in rows if row["chosen"] == "True"]
    if chosen != [best["trial"]]:
        return f"trial {', '.join(chosen) or 'none'} is chosen, the best is {best['trial']}"
    settings = [f"{key}={value}" for key, value in best.items() if "." in str(key) and value]
    for command in runs["command"].drop_duplicates():
        words = shlex.split(command)
        if other := [word for word in settings if word not in words]:
            return f"{other[0]} is chosen, which a run does not have: {command}"
    return ""
