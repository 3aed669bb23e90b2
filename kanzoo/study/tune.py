"""Tuning with parity: every arm gets the same number of trials, sampler and space.

A trial is a run, or several with different seeds, in a folder of its own that follows from its
settings, so that an interrupted tuning goes on where it was: the sampler makes the same choices
again and finished runs are not repeated. Trials see training and validation data only, and seeds
that the study itself does not use.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from kanzoo.checks import check_name
from kanzoo.rundir import flatten, write_atomic
from kanzoo.settings import StudyConfig
from kanzoo.study.plan import Cell, arms_of, at_seed

SEED_OFFSET = 1000
Compose = Callable[[list[str]], dict[str, Any]]


@dataclass
class Tuning:
    """The trials of one kind of cell, judged by a metric on validation data."""

    cell: Cell
    metric: str
    mode: str
    trials: list[dict[str, Any]] = field(default_factory=list)

    @property
    def best(self) -> dict[str, Any] | None:
        """The first of the best trials, None where none worked."""
        worked = [trial for trial in self.trials if trial["value"] is not None]
        sign = -1.0 if self.mode == "max" else 1.0
        return min(worked, key=lambda trial: sign * trial["value"], default=None)

    @property
    def words(self) -> list[str]:
        """The best settings as overrides; none, which means the recipe, where no trial worked."""
        best = self.best
        return [_word(item) for item in best["settings"].items()] if best else []


def check_tuning(study: StudyConfig) -> None:
    """Raise a `ValueError` of one line for a tuning that is unfair or cannot be."""
    tune = study.tune
    if not tune.trials:
        return
    if not tune.space:
        raise ValueError("study.tune.space is empty: there is nothing to tune")
    if study.seeds > SEED_OFFSET:
        raise ValueError(f"study.seeds must be at most {SEED_OFFSET} where arms are tuned")
    arms = arms_of(study)
    for arm, space in tune.extra.items():
        check_name("arm of study.tune.extra", arm, arms)
        if space and not tune.allow_extra:
            raise ValueError(
                f"study.tune.extra gives {arm} more freedom than the other arms have "
                f"({', '.join(space)}); if that is meant, set study.tune.allow_extra=true"
            )
    for space in (tune.space, *tune.extra.values()):
        for key, dimension in space.items():
            _check_dimension(key, dimension)


def check_space(
    cells: Iterable[Cell], study: StudyConfig, folder: Path, compose: Compose
) -> list[Cell]:
    """One trial of every kind of cell; `ValueError` for settings that a cell does not have."""
    ends = ("low", "choices")
    trials = []
    for cell in cells:
        space = space_of(cell, study)
        edge = {k: next(d[end] for end in ends if end in d) for k, d in space.items()}
        settings = {k: v[0] if isinstance(v, list) else v for k, v in edge.items()}
        trials.append(trial_cells(cell, settings, study, folder, compose)[0])
    return trials


def tune(
    tunings: list[Tuning],
    study: StudyConfig,
    folder: Path,
    run: Callable[[list[Cell]], None],
    compose: Compose,
) -> None:
    """Fill in the trials of every kind of cell and keep the record in `folder`.

    `run` runs cells by whatever engine.
    """
    import optuna  # a second to import, and few studies tune

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    options = study.tune
    spaces = [space_of(tuning.cell, study) for tuning in tunings]
    searches = []
    for tuning, space in zip(tunings, spaces, strict=True):
        search = optuna.create_study(
            direction="maximize" if tuning.mode == "max" else "minimize",
            sampler=optuna.samplers.TPESampler(seed=options.seed),
        )
        if (usual := _usual(tuning.cell, space)) is not None:
            search.enqueue_trial(usual)
        searches.append(search)
    done = 0
    while done < options.trials:
        size = min(options.batch, options.trials - done)
        jobs = []
        for tuning, space, search in zip(tunings, spaces, searches, strict=True):
            for _ in range(size):
                trial = search.ask()
                chosen = _suggest(trial, space)
                runs = trial_cells(tuning.cell, chosen, study, folder, compose)
                jobs.append((tuning, search, trial, chosen, runs))
        run([cell for *_, runs in jobs for cell in runs])
        for tuning, search, trial, chosen, runs in jobs:
            value, reason = _value(runs, tuning.metric)
            if value is None:
                search.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                search.tell(trial, value)
            tuning.trials.append(
                {"trial": trial.number, "metric": tuning.metric, "value": value, "reason": reason,
                 "settings": chosen}
            )  # fmt: skip
        done += size
        _write(tunings, study, folder)


def space_of(cell: Cell, study: StudyConfig) -> dict[str, dict[str, Any]]:
    """What is tuned for a cell, and where."""
    options = study.tune
    return {**options.space, **options.extra.get(cell.arm, {})}


def trial_cells(
    cell: Cell, settings: Mapping[str, Any], study: StudyConfig, folder: Path, compose: Compose
) -> list[Cell]:
    """The runs of one trial: other seeds, no test, and a folder below that of the tuning."""
    words = [*cell.overrides, *map(_word, settings.items())]
    words += [f"evaluation.{k}=[]" for k in cell.config["evaluation"] if k != "test"]
    words += ["evaluation.test=false", "name=trials", f"runs={folder}"]
    moved = replace(cell, config=compose(words), overrides=tuple(words))
    first = study.first_seed + SEED_OFFSET
    return [at_seed(moved, first + index) for index in range(study.tune.seeds)]


def _word(item: tuple[str, Any]) -> str:
    return f"{item[0]}={'null' if item[1] is None else item[1]}"


def _check_dimension(key: str, dimension: Any) -> None:
    wrong = ValueError(
        f"study.tune: {key} must have choices, or low and high (with log: true for a logarithmic "
        f"scale), got {dimension}"
    )
    if not isinstance(dimension, dict):
        raise wrong
    if set(dimension) == {"choices"} and dimension["choices"]:
        return
    if not {"low", "high"} <= set(dimension) <= {"low", "high", "log"}:
        raise wrong
    low, high = dimension["low"], dimension["high"]
    if not low < high or (dimension.get("log") and low <= 0):
        raise wrong


def _suggest(trial: Any, space: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The settings of a trial, rounded to what a command line shows."""
    settings = {}
    for key, dimension in space.items():
        if "choices" in dimension:
            choices = dimension["choices"]
            settings[key] = choices[trial.suggest_categorical(key, list(range(len(choices))))]
        else:
            value = trial.suggest_float(
                key, dimension["low"], dimension["high"], log=dimension.get("log", False)
            )
            settings[key] = float(f"{value:.4g}")
    return settings


def _usual(cell: Cell, space: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """The recipe as it is, as a first trial; None where the space does not hold it."""
    values = flatten({k: v for k, v in cell.config.items() if isinstance(v, dict)})
    usual: dict[str, Any] = {}
    for key, dimension in space.items():
        value = values.get(key)
        if "choices" in dimension:
            if value not in dimension["choices"]:
                return None
            usual[key] = dimension["choices"].index(value)
        elif value is None or not dimension["low"] <= value <= dimension["high"]:
            return None
        else:
            usual[key] = value
    return usual


def _value(cells: list[Cell], metric: str) -> tuple[float | None, str]:
    """Mean validation metric over the runs of a trial, or None and why there is none."""
    values = []
    for cell in cells:
        result = cell.folder.result()
        if result is None:
            failure = cell.folder.path / "failure.txt"
            return None, failure.read_text().strip() if failure.is_file() else "not run"
        values.append(result["val"][metric])
    mean = sum(values) / len(values)
    return (mean, "") if math.isfinite(mean) else (None, f"validation {metric} is {mean}")


def _write(tunings: list[Tuning], study: StudyConfig, folder: Path) -> None:
    """`trials.csv`, a row a trial, and `tuning.json`, what was allowed and what was best."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {**_place(tuning.cell), **{k: v for k, v in trial.items() if k != "settings"},
         **trial["settings"]}
        for tuning in tunings
        for trial in tuning.trials
    ]  # fmt: skip
    best = [
        {**_place(tuning.cell), "space": space_of(tuning.cell, study), "trials": len(tuning.trials),
         "best": tuning.best}
        for tuning in tunings
    ]  # fmt: skip
    write_atomic(folder / "trials.csv", pd.DataFrame(rows).to_csv(index=False))
    record = {"options": asdict(study.tune), "best": best}
    write_atomic(folder / "tuning.json", json.dumps(record, indent=1) + "\n")


def _place(cell: Cell) -> dict[str, str]:
    place = {"data": cell.data, "model": cell.model, "arm": cell.arm, "match": cell.match}
    return {**place, **dict(cell.axes)}
