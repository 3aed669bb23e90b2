"""Compare KANs with their MLP twins: run a study and write its report."""

import logging
import os
import shlex
import sys
from collections.abc import Iterable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig

from kanzoo.config import Composer, Config, run_command, user_errors
from kanzoo.study.plan import Cell, check_study, distinct, first_of_kinds, plan_cells
from kanzoo.study.record import check_record, write_record

if TYPE_CHECKING:
    from kanzoo.study.tune import Tuning

log = logging.getLogger("kanzoo")


def main() -> None:
    """Entry of `scripts/compare.py`."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run_command("compare", _job)


def _job(config: Config) -> None:
    folder = study_folder(config)
    with user_errors():
        cells = plan(config)
        if not config["overwrite"]:
            check_record(config["study"], folder)
        prepared = check_cells(cells)
        check_trials(config, cells)
    if config["dry_run"]:
        preview(config, cells, prepared)
        return
    write_record(config["study"], folder)
    try:
        tunings = tune_arms(config, cells, prepared)
        if tunings:
            with user_errors():
                cells = plan(config, best_words(cells, tunings))
                prepared = check_cells(cells)
        run(config, cells)
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
    from kanzoo.summary import summarise

    words = [f"study={config['choices']['study']}"]
    if HydraConfig.initialized():
        words = list(HydraConfig.get().overrides.task)
    command = shlex.join(["python", "scripts/compare.py", *words])
    return summarise(config, study_folder(config), cells, tunings, command)


def preview(config: Config, cells: list[Cell], prepared: list[Any]) -> None:
    """Print the cells, their budgets and an estimate of the time; nothing is written."""
    from kanzoo.preview import print_plan

    print_plan(config, cells, prepared)


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
    return plan_cells(config["study"], config["runs"], config["overwrite"], _composer(), tuned)


def check_cells(cells: list[Cell]) -> list[Any]:
    """Prepare every kind of cell once; what cannot be is a `ValueError` before anything runs."""
    from kanzoo.train import check_machine, prepare

    kinds = first_of_kinds(cells)
    for cell in kinds:
        cell.folder.check_config()
        check_machine(cell.config["trainer"])
    return [prepare(cell.config) for cell in kinds]


def check_trials(config: Config, cells: list[Cell]) -> None:
    """Prepare a trial of every kind of cell, if arms are tuned, as `check_cells` does."""
    from kanzoo.study.tune import check_space

    study = config["study"]
    if study["tune"]["trials"]:
        kinds = first_of_kinds(cells)
        check_cells(check_space(kinds, study, study_folder(config) / "tuning", _composer()))


def tune_arms(config: Config, cells: list[Cell], prepared: list[Any]) -> "list[Tuning]":
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
        partial(run, config),
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


def run(config: Config, cells: list[Cell]) -> None:
    """Run the cells that are not finished, with a progress display."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from kanzoo.study.run import run_local
    from kanzoo.train import train

    cells = distinct(cells)
    waiting = [c for c in cells if config["overwrite"] or c.folder.result() is None]
    if not waiting:
        log.info("all %d cells were finished before", len(cells))
        return
    engine = config["engine"]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = engine["workers"] or (cores or 1)
    workers = min(workers, len(waiting))
    threads = engine["threads"] or max(1, (cores or 1) // workers)
    console = Console(stderr=True)
    console.print(
        f"{len(waiting)} of {len(cells)} cells to run, {workers} workers of {threads} threads"
    )
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(config["study"]["name"], total=len(waiting))

        def on_end(cell: Cell, reason: str) -> None:
            progress.advance(bar)
            if reason:
                progress.console.print(f"failed: {cell.title}: {reason}", style="red", markup=False)
            elif not console.is_terminal:
                progress.console.print(f"finished: {cell.title}", markup=False, highlight=False)

        run_local(
            waiting,
            train,
            workers=workers,
            threads=threads,
            cell_timeout=engine["cell_timeout"],
            max_retries=engine["max_retries"],
            on_end=on_end,
        )
