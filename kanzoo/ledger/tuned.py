"""Whether the trials of a ledger are those of its runs, and their choice is what the runs took."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from kanzoo.ledger.commands import declared_words
from kanzoo.ledger.store import DAMAGES, TRIALS, Ledger
from kanzoo.settings import TuneConfig
from kanzoo.study.overrides import key_of
from kanzoo.study.plan import active_axes
from kanzoo.study.tune import NOT_RUN

COLUMNS = ("data", "model", "arm", "match")
NEEDED = (
    *(*COLUMNS, "trial", "config_hash", "first", "value", "scores", "failed", "reason", "chosen"),
)
NEAR = 1e-9  # relative, of a mean to that of its scores


def check_trials(folder: Path, ledger: Ledger) -> None:
    """Raise a `ValueError` with the first thing in `trials.csv` that does not fit the runs.

    Every tuned kind of run has as many trials as the study says, of settings in its space. The best
    of them ran again, and the best mean of these is chosen: the commands of the runs have its
    settings.
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
    count = ledger.study.tune.trials
    # Of choices alone, points may be drawn twice, or be the recipe.
    is_range = any("choices" not in each for each in ledger.study.tune.space.values())
    known: set[str] = set()  # runs of kinds that have trials: others may share them
    for key, runs in tuned.groupby(kinds, sort=False):
        if (group := groups.get(_key(key))) is None:
            continue
        known |= {*runs["config_hash"]}
        where = " ".join(filter(None, _key(key)))
        different = group["config_hash"].nunique()
        if is_range and not len(group) == different == count:
            return f"{where} has {different} different trials, the study says {count}"
        if text := _wrong_choice(group, runs, ledger):
            return f"{where}: {text}"
    lost = tuned[~tuned["config_hash"].isin(known)]
    if len(lost):
        return f"no trials of {' '.join(filter(None, lost[kinds].iloc[0]))}, which is tuned"
    return ""


def _key(values: Any) -> tuple[str, ...]:
    return tuple(map(str, values))


def _wrong_choice(group: pd.DataFrame, runs: pd.DataFrame, ledger: Ledger) -> str:
    """What is wrong with the trials of a kind of run, empty if nothing is."""
    options = ledger.study.tune
    rows = group.to_dict("records")
    tuned = {*options.space, *options.extra.get(rows[0]["arm"], {})}
    ranked: list[tuple[float, float, int, dict[Any, Any]]] = []
    sign = -1.0 if runs["mode"].iloc[0] == "max" else 1.0
    for row in rows:
        if foreign := [key for key in row if "." in str(key) and row[key] and key not in tuned]:
            return f"trial {row['trial']} has {foreign[0]}, which the study does not tune"
        scores = row["scores"].split()
        if "-" in scores or not scores:
            continue
        values = [float(score) for score in scores]
        for name, mean in (("value", fmean(values)), ("first", fmean(values[: options.seeds]))):
            if not abs(mean - float(row[name])) <= NEAR * max(1.0, abs(mean)) < math.inf:
                return (
                    f"trial {row['trial']} has the {name} {row[name]}, its scores give {mean:.9g}"
                )
        if int(row["failed"]) < len(values):
            ranked.append(
                (sign * fmean(values), sign * float(row["first"]), int(row["trial"]), row)
            )
    most = max(len(row["scores"].split()) for row in rows)
    last = [each for each in ranked if len(each[3]["scores"].split()) == most]
    if wrong := _wrong_finalists(ranked, last, options):
        return wrong
    best = min(last, key=lambda each: (each[0], each[2]))[3] if last else {"trial": ""}
    chosen = ", ".join(row["trial"] for row in rows if row["chosen"] == "True")
    if chosen != best["trial"]:
        return f"trial {chosen or 'none'} is chosen, the best is {best['trial'] or 'none'}"
    for run in runs.drop_duplicates("command").to_dict("records"):
        words = shlex.split(run["command"])
        lost = [w for k in tuned if best.get(k) and (w := f"{k}={best[k]}") not in words]
        if lost:
            return f"{lost[0]} is chosen, which a run does not have: {run['command']}"
        own = declared_words({str(k): v for k, v in run.items()}, ledger.study)
        free = [w for w in words if key_of(w) in tuned and w not in own]
        if more := [w for w in free if not best.get(key_of(w))]:
            return f"{more[0]} is not chosen, which a run has: {run['command']}"
    return ""


def _wrong_finalists(ranked: list[Any], last: list[Any], options: TuneConfig) -> str:
    """Whether others ran again than those that were best before."""
    rest = [each for each in ranked if each not in last]
    if options.finalists < 2 or not rest or not last:
        return ""
    worst = max(last, key=lambda each: each[1])
    best = min(rest, key=lambda each: each[1])
    if len(last) > options.finalists or best[1] < worst[1]:
        return f"trial {worst[2]} ran again, trial {best[2]} did not and was better before"
    return ""
