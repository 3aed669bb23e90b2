"""Tuning with parity: every arm gets the recipe and the same points of the same space.

A trial is a run, or several with different seeds, at a share of the study's epochs, in a folder of
its own that follows from its settings. What is tried does not depend on what was found, so that an
interrupted tuning makes the same choices again, and finished runs are not repeated. The best trials
run again with further seeds, and the best mean over all of them is taken. Trials see training and
validation data only, and seeds that the study itself does not use.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any

from kanzoo.rundir import Config
from kanzoo.settings import StudyConfig
from kanzoo.study import space
from kanzoo.study.plan import Cell, at_seed, check_number
from kanzoo.study.selection import Run
from kanzoo.study.space import SEED_OFFSET, Settings

Compose = Callable[[list[str]], dict[str, Any]]
NOT_RUN = "not run"


@dataclass
class Trial:
    """Settings and what their runs reached on validation data, by seed.

    scores: a run that failed has what a prediction without skill reaches, None where that is
    unknown. first: their mean before the best trials ran again. reasons: why runs failed.
    config_hash: that of its runs. The first trial is the recipe.
    """

    number: int
    settings: Settings
    scores: list[float | None] = field(default_factory=list)
    first: float | None = None
    reasons: list[str] = field(default_factory=list)
    config_hash: str = ""

    @property
    def value(self) -> float | None:
        """The mean over all runs, None where the score of one is unknown."""
        return _mean(self.scores)

    @property
    def worked(self) -> bool:
        """Whether a run of it has finished."""
        return len(self.reasons) < len(self.scores)


@dataclass
class Tuning:
    """The trials of a cell, judged by a metric on validation data.

    kinds: the kinds of cell that share its runs, and so its tuning.
    """

    cell: Cell
    metric: str
    mode: str
    kinds: list[tuple[str, ...]]
    trials: list[Trial] = field(default_factory=list)

    def ranked(self) -> list[Trial]:
        """The trials that worked and have most runs, best first; of equal ones the earlier."""
        most = max((len(trial.scores) for trial in self.trials), default=0)
        sign = -1.0 if self.mode == "max" else 1.0
        known = [
            (sign * trial.value, trial.number, trial)
            for trial in self.trials
            if trial.worked and len(trial.scores) == most and trial.value is not None
        ]
        return [trial for *_, trial in sorted(known)]

    @property
    def best(self) -> Trial | None:
        """What is taken, None where no trial worked."""
        return next(iter(self.ranked()), None)

    @property
    def is_tuned(self) -> bool:
        """Whether there was a choice."""
        return self.best is not None and len(self.trials) > 1

    @property
    def words(self) -> list[str]:
        """The best settings as overrides; none, which means the recipe, where no trial worked."""
        return space.words(self.best.settings) if self.best else []


def outcome(cell: Cell, metric: str) -> tuple[float | None, str]:
    """The validation metric of a run, or why there is none."""
    result = cell.folder.result()
    if result is None:
        return None, cell.folder.failure or NOT_RUN
    value = result["val"][metric]
    return (value, "") if math.isfinite(value) else (None, f"validation {metric} is {value}")


@dataclass(frozen=True)
class TrialRuns:
    """What trials run by: `run` runs cells by whatever engine, `outcome` tells what came of them.

    known: finished trials by the hash of their configuration, which are not run again.
    """

    run: Run
    known: Mapping[str, Trial] = field(default_factory=dict)
    outcome: Callable[[Cell, str], tuple[float | None, str]] = outcome


def check_space(
    cells: Iterable[Cell], study: StudyConfig, folder: Path, compose: Compose
) -> list[Cell]:
    """One trial of every kind of cell; `ValueError` for settings that a cell does not have."""
    trials = []
    for cell in cells:
        allowed = space.space_of(cell, study.tune)
        settings = space.corner(allowed, space.recipe(cell, allowed))
        trials += trial_cells(cell, settings, study, folder, compose, range(1))
    return trials


def tune(
    tunings: Sequence[Tuning], study: StudyConfig, folder: Path, by: TrialRuns, compose: Compose
) -> None:
    """Fill in the trials of every kind of cell, in runs below `folder`."""
    options = study.tune
    finalists = min(options.finalists, options.trials) if options.finalists > 1 else 0
    runs = options.trials * options.seeds + finalists * options.finalist_seeds
    check_number("the tuning", len(tunings) * runs)
    for tuning in tunings:
        allowed = space.space_of(tuning.cell, options)
        tried = space.points(allowed, options.trials - 1, options.seed)
        usual = space.recipe(tuning.cell, allowed)
        settings = [usual, *(each for each in tried if each != usual)]
        tuning.trials = [Trial(number, each) for number, each in enumerate(settings)]
    wanted = [(tuning, trial) for tuning in tunings for trial in tuning.trials]
    _score(wanted, range(options.seeds), study, folder, by, compose)
    for _, trial in wanted:
        trial.first = trial.value
    if options.finalists > 1:
        wanted = [(t, trial) for t in tunings for trial in t.ranked()[: options.finalists]]
        further = range(options.seeds, options.seeds + options.finalist_seeds)
        _score(wanted, further, study, folder, by, compose)


def trial_cells(
    cell: Cell, settings: Mapping[str, Any], study: StudyConfig, folder: Path, compose: Compose,
    runs: Iterable[int],
) -> list[Cell]:  # fmt: skip
    """Runs of a trial by number: other seeds, fewer epochs, no test, below the tuning's folder.

    Data that the study shows in phases are shown at once: what is tuned is how well they are
    learned, not how little of them is forgotten by learning little.
    """
    shared = [word for word in cell.overrides if not word.startswith("logger")]
    words = [*shared, *space.words(dict(settings))]
    words += _shortened(compose(words), study.tune.epochs)
    words += [f"evaluation.{k}=[]" for k in cell.config["evaluation"] if k != "test"]
    if cell.config["training_set"]["phases"] > 1:
        words.append("training_set.phases=1")
    words += ["evaluation.test=false", "logger=csv", "name=trials", f"runs={folder}"]
    moved = replace(cell, config=compose(words), overrides=tuple(words))
    return [at_seed(moved, study.first_seed + SEED_OFFSET + number) for number in runs]


def _shortened(config: Config, share: float) -> list[str]:
    """Overrides for a share of the epochs, in which grids change at the same shares of training."""
    planned = config["trainer"]["max_epochs"]
    epochs = max(1, round(share * planned))
    words = [f"trainer.max_epochs={epochs}"]
    if grid := config["callbacks"]["grid"]:
        refine = [[epoch * epochs // planned, size] for epoch, size in grid["refine"]]
        until = round(grid["update_until"] * epochs / planned)
        words += [f"callbacks.grid.refine={refine}", f"callbacks.grid.update_until={until}"]
    return words


def _score(
    wanted: Sequence[tuple[Tuning, Trial]], runs: range, study: StudyConfig, folder: Path,
    by: TrialRuns, compose: Compose,
) -> None:  # fmt: skip
    """Run what is wanted with the seeds of these numbers, and add the scores."""
    rows: list[tuple[Tuning, Trial, list[Cell]]] = []
    for tuning, trial in wanted:
        row = trial_cells(tuning.cell, trial.settings, study, folder, compose, runs)
        trial.config_hash = row[0].folder.config_hash
        if not _recall(trial, by.known.get(trial.config_hash), runs):
            rows.append((tuning, trial, row))
    by.run([cell for *_, row in rows for cell in row])
    no_skill: dict[tuple[str | int, ...], float] = {}
    for tuning, _, row in rows:
        for cell in row:
            reference = (cell.folder.result() or {}).get("reference", {}).get("val", {})
            if tuning.metric in reference:
                no_skill |= dict.fromkeys(_alike(cell), reference[tuning.metric])
    for tuning, trial, row in rows:
        for cell in row:
            score, reason = by.outcome(cell, tuning.metric)
            if reason:
                trial.reasons.append(reason)
                score = next((no_skill[key] for key in _alike(cell) if key in no_skill), None)
            trial.scores.append(score)


def _alike(cell: Cell) -> tuple[tuple[str | int, ...], ...]:
    """What runs share that have the same prediction without skill, the nearest first."""
    return (cell.data, cell.model, cell.seed), (cell.data, cell.model), (cell.data,)


def _recall(trial: Trial, known: Trial | None, runs: range) -> bool:
    """Add the scores that an earlier trial of the same configuration has; whether it has them."""
    if known is None or len(known.scores) < runs.stop:
        return False
    trial.scores += known.scores[runs.start : runs.stop]
    if len(known.scores) == runs.stop:  # one that ran again had worked before
        trial.reasons = list(known.reasons)
    return True


def _mean(scores: Sequence[float | None]) -> float | None:
    known = [score for score in scores if score is not None]
    return mean(known) if known and len(known) == len(scores) else None
