"""What a comparison is made of: its cells, checked, the tuning of its arms, and its report."""

import shlex
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from kanzoo import registry
from kanzoo.checks import build
from kanzoo.run.command import command_words
from kanzoo.run.config import Composer
from kanzoo.rundir import Config
from kanzoo.settings import StudyConfig
from kanzoo.study.engines.base import Engine
from kanzoo.study.parity import check_parity
from kanzoo.study.plan import Cell, check_study, distinct, first_of_kinds, margins_of, plan_cells

if TYPE_CHECKING:
    from kanzoo.run.prepare import Prepared
    from kanzoo.study.run import Runner
    from kanzoo.study.selection import Run
    from kanzoo.study.tune import Tuning


def report(config: Config, cells: list[Cell], tunings: "list[Tuning]") -> int:
    """Write the report, print the verdicts and return the number of failed cells."""
    from kanzoo.study.report.summary import summarise

    words = command_words() or [f"study={config['choices']['study']}"]
    command = shlex.join(["python", "scripts/compare.py", *words])
    return summarise(config, study_folder(config), cells, tunings, command)


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
    from kanzoo.study.tune import check_tuning

    study = study_of(config)
    check_study(study)
    check_tuning(study)
    cells = plan_cells(study, config["runs"], config["overwrite"], _composer(), tuned)
    margins_of(study, cells)
    check_parity(cells, study)
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
    """Prepare a trial of every kind of cell, if arms are tuned, as `check_cells` does."""
    from kanzoo.study.tune import check_space

    study = study_of(config)
    if study.tune.trials:
        kinds = first_of_kinds(cells)
        trials = check_space(kinds, study, study_folder(config) / "tuning", _composer())
        check_cells(trials, here)


def tune_arms(
    config: Config, cells: list[Cell], prepared: "list[Prepared]", run: "Run"
) -> "list[Tuning]":
    """The finished tuning of every kind of cell; none where the study does not tune."""
    from kanzoo.study.tune import Tuning, tune

    study = study_of(config)
    if not study.tune.trials:
        return []
    kinds = zip(first_of_kinds(cells), prepared, strict=True)
    objectives = {cell.kind: parts.objective for cell, parts in kinds}
    tunings = []
    for cell in distinct(first_of_kinds(cells)):
        objective = objectives[cell.kind]
        tunings.append(Tuning(cell, objective.monitor, objective.mode))
    tune(tunings, study, study_folder(config) / "tuning", run, _composer())
    return tunings


def best_words(cells: list[Cell], tunings: "list[Tuning]") -> dict[tuple[str, ...], list[str]]:
    """The overrides that tuning found, for every kind of cell: some share their runs."""
    found = {tuning.cell.folder.path: tuning.words for tuning in tunings}
    return {cell.kind: found[cell.folder.path] for cell in first_of_kinds(cells)}


@cache
def _composer() -> Composer:
    return Composer("train")


def runner(config: Config, cells: list[Cell], engine: Engine) -> "Runner":
    """What runs the cells of a study, and the trials of its tuning before them."""
    from kanzoo.run.fit import train
    from kanzoo.study.run import Runner

    tune = study_of(config).tune
    count = 0  # what is to run decides
    if tune.trials:  # trials start the workers that the cells need later
        trials = tune.batch * tune.seeds * len(first_of_kinds(cells))
        count = max(trials, len(distinct(cells)))
    return Runner(engine, study_folder(config), train, count, config["overwrite"])
