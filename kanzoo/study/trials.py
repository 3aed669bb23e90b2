"""The record of a tuning: a table, a file of JSON, and a journal that Optuna's dashboard opens."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from kanzoo.files import csv_of, write_atomic
from kanzoo.settings import TuneConfig
from kanzoo.study.space import Space, sampler, space_of
from kanzoo.study.tune import NOT_RUN, Trial, Tuning

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

JOURNAL = "journal.log"


def write_trials(tunings: Sequence[Tuning], options: TuneConfig, folder: Path) -> None:
    """Write `trials.csv`, `tuning.json` and `journal.log`, each in one step.

    A trial that failed or diverged stands there with the score of a prediction without skill.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = [_row(tuning, trial) for tuning in tunings for trial in tuning.trials]
    write_atomic(folder / "trials.csv", csv_of(pd.DataFrame(rows)))
    kinds = [
        {**_columns(tuning), "space": space_of(tuning.cell, options), "trials": len(tuning.trials),
         "best": _row(tuning, tuning.best) if tuning.best else None}
        for tuning in tunings
    ]  # fmt: skip
    record = {"options": vars(options), "sampler": sampler(options), "best": kinds}
    write_atomic(folder / "tuning.json", json.dumps(record, indent=1) + "\n")
    _write_journal(tunings, options, folder / JOURNAL)


def read_trials(path: Path) -> dict[str, Trial]:
    """The trials of a `trials.csv` that have run, by the hash of their configuration."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    if "config_hash" not in table:
        return {}
    known = {}
    for row in table.to_dict("records"):
        scores = [None if s == "-" else float(s) for s in row["scores"].split()]
        reasons = [row["reason"]] * int(row["failed"])
        if NOT_RUN not in row["reason"]:
            known[row["config_hash"]] = Trial(0, {}, scores, reasons=reasons)
    return known


def _row(tuning: Tuning, trial: Trial) -> dict[str, Any]:
    """A trial: `value` is the mean of its `scores` by seed; those that ran again have more."""
    return {
        **_columns(tuning), "trial": trial.number, "config_hash": trial.config_hash,
        "metric": tuning.metric, "first": trial.first,
        "value": trial.value,
        "scores": " ".join("-" if s is None else repr(s) for s in trial.scores),
        "failed": len(trial.reasons), "reason": "; ".join(dict.fromkeys(trial.reasons)),
        "chosen": trial is tuning.best, **trial.settings,
    }  # fmt: skip


def _columns(tuning: Tuning) -> dict[str, str]:
    cell = tuning.cell
    columns = {"data": cell.data, "model": cell.model, "arm": cell.arm, "match": cell.match}
    return {**columns, **dict(cell.axes)}


def _write_journal(tunings: Sequence[Tuning], options: TuneConfig, path: Path) -> None:
    """A study for every kind of cell, by its name; written anew from the runs."""
    import optuna  # a second to import, and few studies tune
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:  # Optuna keeps locks beside it
        temporary = Path(folder, path.name)
        storage = JournalStorage(JournalFileBackend(str(temporary)))
        for tuning in tunings:
            directions = optuna.study.StudyDirection
            direction = directions.MAXIMIZE if tuning.mode == "max" else directions.MINIMIZE
            name = " ".join(filter(None, tuning.cell.kind))
            study = optuna.create_study(study_name=name, storage=storage, direction=direction)
            study.set_user_attr("metric", f"validation {tuning.metric}")
            study.set_user_attr("sampler", sampler(options))
            study.add_trials(
                [_frozen(tuning, t, space_of(tuning.cell, options)) for t in tuning.trials]
            )
        write_atomic(path, temporary.read_bytes())


def _frozen(tuning: Tuning, trial: Trial, space: Space) -> FrozenTrial:
    """A trial as Optuna knows it; a value of the recipe that the space lacks is a note alone."""
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
    from optuna.trial import TrialState, create_trial

    params: dict[str, Any] = {}
    distributions: dict[str, BaseDistribution] = {}
    for key, value in trial.settings.items():
        dimension = space[key]
        if "choices" in dimension:
            if value in dimension["choices"]:
                distributions[key] = CategoricalDistribution(list(map(str, dimension["choices"])))
                params[key] = str(
                    dimension["choices"][dimension["choices"].index(value)]
                )  # 1.0 is 1
        elif value is not None and dimension["low"] <= value <= dimension["high"]:
            distributions[key] = FloatDistribution(**dimension)
            params[key] = value
    return create_trial(
        state=TrialState.FAIL if trial.value is None else TrialState.COMPLETE,
        value=trial.value,
        params=params,
        distributions=distributions,
        user_attrs={"settings": trial.settings, "scores": trial.scores, "reasons": trial.reasons,
                    "chosen": trial is tuning.best},
    )  # fmt: skip
