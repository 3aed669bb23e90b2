"""What a comparison is made of: its cells, checked, the tuning of its arms, and its report."""

import shlex
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from kanzoo import registry
from kanzoo.checks import build
from kanzoo.run.command import command_words, user_errors
from kanzoo.run.config import Composer
from kanzoo.rundir import Config
from kanzoo.settings import StudyConfig
from kanzoo.study.engines.base import Engine
from kanzoo.study.margins import margins_of
from kanzoo.study.overrides import tuning_order
from kanzoo.study.parity import check_distinct, check_parity
from kanzoo.study.plan import (
    Cell,
    arms_of,
    check_study,
    distinct,
    first_of_kinds,
    plan_cells,
    same_runs,
)

if TYPE_CHECKING:
    from kanzoo.run.prepare import Prepared
    from kanzoo.study.run import Runner
    from kanzoo.study.tune import TrialRuns, Tuning


def report(config: Config, cells: list[Cell], tunings: "list[Tuning]") -> int:
    """Write the report, print the verdicts and return the number of failed cells."""
    from kanzoo.study.report.summary import summarise

    return summarise(config, study_folder(config), cells, tunings, command_of(config))


def command_of(config: Config) -> str:
    """The command that repeats what is running now."""
    words = command_words() or [f"study={config['choices']['study']}"]
    return shlex.join(["python", "scripts/compare.py", *words])


def study_of(config: Config) -> StudyConfig:
    """The study that a configuration describes, of the kinds that it must have."""
    from kanzoo.study.selection import declare

    study = build(StudyConfig, config["study"], "study.")
    return declare(study, config.get("choices", {}).get("study", study.name))


def study_folder(config: Config) -> Path:
    """The folder of everything that a study leaves."""
    return Path(config["runs"]) / config["study"]["name"]


def plan(
    config: Config, tuned: Mapping[tuple[str, ...], Iterable[str]] | None = None
) -> list[Cell]:
    """The cells of the study that a configuration describes, with what tuning found."""
    from kanzoo.study.space import check_tuning

    study = study_of(config)
    check_study(study)
    check_tuning(study)
    cells = plan_cells(study, config["runs"], config["overwrite"], _composer(), tuned)
    margins_of(study, cells)
    check_parity(cells, study)
    if tuned is None:  # else what was chosen may be the same
        check_distinct(cells, study)
    return cells


def build_engine(config: Config) -> Engine:
    """The engine of a `conf/engine` node."""
    engine = registry.instantiate(config["engine"])
    assert isinstance(engine, Engine)
    return engine


def check_cells(cells: list[Cell], here: bool = True) -> "list[Prepared]":
    """Prepare every kind of cell once; what cannot be is a `ValueError` before anything runs.

    `here` says that the cells will run on this machine, which must then have their devices.
    """
    from kanzoo.run.prepare import check_machine, prepare

    kinds = first_of_kinds(cells)
    for cell in kinds:
        cell.folder.check_config()
    prepared = [prepare(cell.config) for cell in kinds]
    if here:
        for parts in prepared:
            check_machine(parts.config.trainer)
    return prepared


def check_trials(config: Config, cells: list[Cell], here: bool = True) -> None:
    """Prepare a trial of every kind of cell, if arms are tuned, as `check_cells` does.

    `ValueError` also where trials change the size of the baseline: every arm would have the budget
    of its own best trial.
    """
    from kanzoo.run.prepare import prepare
    from kanzoo.study.tune import check_space

    study = study_of(config)
    if study.tune.trials:
        kinds = first_of_kinds(cells)
        trials = check_space(kinds, study, study_folder(config) / "tuning", _composer())
        tried = check_cells(trials, here)
        for cell, trial in zip(kinds, tried, strict=True):
            if cell.arm == study.baseline and prepare(cell.config).plan.params != trial.plan.params:
                raise ValueError(
                    f"study.tune changes the size of {cell.arm} {cell.model}, which the other arms "
                    "are matched with"
                )


def tune_arms(
    config: Config, cells: list[Cell], prepared: "list[Prepared]", by: "TrialRuns"
) -> "tuple[list[Tuning], list[Cell]]":
    """The finished tuning of every kind of cell, and the cells as it leaves them.

    An arm that takes its sizes or its budget from another one is tuned after that one, at what
    this then has. No tuning and the same cells where the study does not tune; no record of it in a
    dry run.
    """
    from kanzoo.study.trials import write_trials
    from kanzoo.study.tune import Tuning, tune

    study, folder = study_of(config), study_folder(config) / "tuning"
    if not study.tune.trials:
        return [], cells
    kinds = zip(first_of_kinds(cells), prepared, strict=True)
    objectives = {cell.kind: parts.objective for cell, parts in kinds}
    tunings: list[Tuning] = []
    words: dict[tuple[str, ...], list[str]] = {}
    for arms in tuning_order(arms_of(study)):
        ready = [cell for cell in first_of_kinds(cells) if cell.arm in arms]
        fresh = [
            Tuning(group[0], objective.monitor, objective.mode, [cell.kind for cell in group])
            for group in same_runs(ready)
            for objective in [objectives[group[0].kind]]
        ]
        tune(fresh, study, folder, by, _composer())
        tunings += fresh
        words |= {kind: tuning.words for tuning in fresh for kind in tuning.kinds}
        with user_errors():
            # What was left out as the same as its twin stays so, whatever the twin was given.
            cells = [cell for cell in plan(config, words) if cell.kind in objectives]
        if not config["dry_run"]:
            write_trials(tunings, study.tune, folder)
    return tunings, cells


@cache
def _composer() -> Composer:
    return Composer("train")


def runner(config: Config, cells: list[Cell], engine: Engine) -> "Runner":
    """What runs the cells of a study, and the trials of its tuning before them."""
    from kanzoo.run.fit import train
    from kanzoo.study.run import Runner

    options = study_of(config).tune
    count = 0  # what is to run decides
    if options.trials:  # trials start the workers that the cells need later
        trials = options.trials * options.seeds * len(first_of_kinds(cells))
        count = max(trials, len(distinct(cells)))
    return Runner(engine, study_folder(config), train, count, config["overwrite"])
