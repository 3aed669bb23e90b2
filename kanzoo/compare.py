"""Compare KANs with their MLP twins: run a study and write its report."""

import logging
import shlex
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig

from kanzoo import registry
from kanzoo.errors import EngineError
from kanzoo.run.config import Composer, fail, run_command, user_errors
from kanzoo.rundir import Config
from kanzoo.study.engines.base import Engine
from kanzoo.study.plan import Cell, check_study, distinct, first_of_kinds, margins_of, plan_cells
from kanzoo.study.record import check_record, write_record

if TYPE_CHECKING:
    from kanzoo.study.run import Runner
    from kanzoo.study.tune import Tuning

log = logging.getLogger("kanzoo")


def main() -> None:
    """Entry of `scripts/compare.py`."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run_command("compare", _job)


def _job(config: Config) -> None:
    folder = study_folder(config)
    with user_errors():
        engine = build_engine(config)
        cells = plan(config)
        if not config["overwrite"]:
            check_record(config["study"], folder)
        prepared = check_cells(cells, engine.is_local)
        check_trials(config, cells, engine.is_local)
        if not config["dry_run"]:
            engine.check(cells)
    if config["dry_run"]:
        from kanzoo.study.preview import print_plan

        print_plan(config, cells, prepared)
        return
    write_record(config["study"], folder)
    try:
        with runner(config, cells, engine) as run:
            tunings = tune_arms(config, cells, prepared, run)
            if tunings:
                with user_errors():
                    cells = plan(config, best_words(cells, tunings))
                    check_cells(cells, engine.is_local)
            run(cells)
    except EngineError as error:
        fail(error)
    except KeyboardInterrupt:
        done = sum(cell.folder.result() is not None for cell in cells)
        print(
            f"kanzoo: interrupted; {done} of {len(cells)} cells are finished, "
            "the same command goes on from here",
            file=sys.stderr,
        )
        raise SystemExit(130) from None
    failed = report(config, cells, tunings)
    if failed:
        raise SystemExit(1)


def report(config: Config, cells: list[Cell], tunings: "list[Tuning]") -> int:
    """Write the report, print the verdicts and return the number of failed cells."""
    from kanzoo.study.report.summary import summarise

    words = [f"study={config['choices']['study']}"]
    if HydraConfig.initialized():
        words = list(HydraConfig.get().overrides.task)
    command = shlex.join(["python", "scripts/compare.py", *words])
    return summarise(config, study_folder(config), cells, tunings, command)


def study_folder(config: Config) -> Path:
    """The folder of everything that a study leaves."""
    return Path(config["runs"]) / config["study"]["name"]


def plan(
    config: Config, tuned: Mapping[tuple[str, ...], Iterable[str]] | None = None
) -> list[Cell]:
    """The cells of the study that a configuration describes, with what tuning found."""
    from kanzoo.study.tune import check_tuning

    check_study(config["study"])
    check_tuning(config["study"])
    cells = plan_cells(config["study"], config["runs"], config["overwrite"], _composer(), tuned)
    margins_of(config["study"], cells)
    return cells


def build_engine(config: Config) -> Engine:
    """The engine of a `conf/engine` node."""
    engine = registry.instantiate(config["engine"])
    assert isinstance(engine, Engine)
    return engine


def check_cells(cells: list[Cell], here: bool = True) -> list[Any]:
    """Prepare every kind of cell once; what cannot be is a `ValueError` before anything runs.

    `here` says that the cells will run on this machine, which must then have their devices.
    """
    from kanzoo.run.prepare import check_machine, prepare

    kinds = first_of_kinds(cells)
    for cell in kinds:
        cell.folder.check_config()
        if here:
            check_machine(cell.settings.trainer)
    return [prepare(cell.config) for cell in kinds]


def check_trials(config: Config, cells: list[Cell], here: bool = True) -> None:
    """Prepare a trial of every kind of cell, if arms are tuned, as `check_cells` does."""
    from kanzoo.study.tune import check_space

    study = config["study"]
    if study["tune"]["trials"]:
        kinds = first_of_kinds(cells)
        trials = check_space(kinds, study, study_folder(config) / "tuning", _composer())
        check_cells(trials, here)


def tune_arms(
    config: Config, cells: list[Cell], prepared: list[Any], run: "Runner"
) -> "list[Tuning]":
    """The finished tuning of every kind of cell; none where the study does not tune."""
    from kanzoo.study.tune import Tuning, tune

    if not config["study"]["tune"]["trials"]:
        return []
    kinds = zip(first_of_kinds(cells), prepared, strict=True)
    objectives = {cell.kind: parts.objective for cell, parts in kinds}
    tunings = []
    for cell in distinct(first_of_kinds(cells)):
        objective = objectives[cell.kind]
        tunings.append(Tuning(cell, objective.monitor, objective.mode))
    tune(
        tunings,
        config["study"],
        study_folder(config) / "tuning",
        run,
        _composer(),
    )
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

    tune = config["study"]["tune"]
    count = 0  # what is to run decides
    if tune["trials"]:  # trials start the workers that the cells need later
        trials = tune["batch"] * tune["seeds"] * len(first_of_kinds(cells))
        count = max(trials, len(distinct(cells)))
    return Runner(engine, study_folder(config), train, count, config["overwrite"])
