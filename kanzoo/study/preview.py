"""A dry run: the cells of a study, their solved budgets, and an estimate of the time."""

import os
import statistics
import sys
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from kanzoo.rundir import Config
from kanzoo.study.comparison import study_of, tune_arms
from kanzoo.study.parity import beside_baselines
from kanzoo.study.plan import Cell, active_axes, distinct, first_of_kinds, seeds_needed
from kanzoo.study.selection import is_selected
from kanzoo.study.tune import NOT_RUN, Trial, TrialRuns, outcome

BUDGET = 15.0  # seconds of measuring; what is left then is estimated from what was measured
OVERHEAD = 1.0  # seconds of a cell beside its steps
MAX_ROWS = 200


@dataclass(frozen=True)
class Finished:
    """What ledgers have: trials by the hash of their configuration, runs by hash and seed."""

    trials: Mapping[str, Trial] = field(default_factory=dict)
    runs: Collection[tuple[str, int]] = ()

    def __contains__(self, cell: Cell) -> bool:
        return (cell.folder.config_hash, cell.seed) in self.runs


def runs_to_do(
    config: Config, cells: list[Cell], prepared: list[Any], ledger: Finished
) -> tuple[list[Cell], list[Cell]]:
    """The runs of tuning and those of the study that are missing.

    Of a tuning that is not finished it is known how many trials will run again, but not which: here
    all that have not run work.
    """
    study = study_of(config)
    trials: list[Cell] = []

    def missing(wanted: list[Cell]) -> list[Cell]:
        waiting = (c for c in wanted if config["overwrite"] or not c.folder.has_ended)
        return distinct(c for c in waiting if is_selected(c, study))

    def expected(cell: Cell, metric: str) -> tuple[float | None, str]:
        score, reason = outcome(cell, metric)
        return (0.0, "") if reason == NOT_RUN else (score, reason)

    def note(wanted: list[Cell]) -> None:
        trials.extend(missing(wanted))

    by = TrialRuns(note, ledger.trials, expected)
    _, cells = tune_arms(config, cells, prepared, by)
    rest = [cell for cell in missing(cells) if cell not in ledger]
    return distinct(trials), rest


def print_plan(config: Config, cells: list[Cell], prepared: list[Any], ledger: Finished) -> None:
    """Print the kinds of cells with sizes, exact budgets and an estimate of the time."""
    from rich.console import Console
    from rich.table import Table

    study = study_of(config)
    axes = active_axes(study)
    kinds = list(zip(first_of_kinds(cells), prepared, strict=True))
    seconds = estimate(cells, prepared)
    left = ("data", "model", "arm", "match")
    table = Table(title=f"{len(cells)} cells", title_justify="left")
    for name in left:
        table.add_column(name)
    for name in (*axes, "sizes", "params", "ratio", "FLOPs", "ratio", "~s a run"):
        table.add_column(name, justify="right")
    bases = {cell.kind: base for _, cell, base in beside_baselines(cells, study)}
    plans = {cell.kind: kind.plan for cell, kind in kinds}
    for cell, kind in kinds[:MAX_ROWS]:
        plan = kind.plan
        base = plans[bases[cell.kind].kind] if cell.kind in bases else plan
        table.add_row(
            cell.data,
            cell.model,
            cell.arm,
            cell.match,
            *(dict(cell.axes)[name] for name in axes),
            plan.sizes,
            f"{plan.params:,}",
            f"{plan.params / base.params:.3f}",
            f"{plan.flops:,}",
            f"{plan.flops / base.flops:.3f}",
            f"{seconds[cell.kind]:.3g}",
        )
    console = Console(markup=False, width=None if sys.stdout.isatty() else 140)
    console.print(table)
    if len(kinds) > MAX_ROWS:
        console.print(f"and {len(kinds) - MAX_ROWS} more kinds of cells")
    runs = distinct(cells)
    trials, rest = runs_to_do(config, cells, prepared, ledger)
    total = sum(seconds[cell.kind] for cell in rest)
    words = [f"{len(cells)} cells, {len(runs)} different runs, {len(rest)} of them to do"]
    if few := seeds_needed(study):
        words.append(few)
    if study.tune.trials:
        share = study.tune.epochs
        total += share * sum(seconds[cell.kind] for cell in trials)
        words.append(f"{len(trials)} runs of tuning before, at {share:g} of the epochs")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = config["engine"].get("workers") or cores or 1
    words.append(
        f"about {_duration(total)} of computing, {_duration(total / workers)} with {workers} "
        "workers: an estimate, from finished runs where there are any, else from a few steps on "
        "this machine's CPU"
    )
    console.print("; ".join(words), highlight=False)


def estimate(cells: list[Cell], prepared: list[Any]) -> dict[tuple[str, ...], float]:
    """Seconds of a run of every kind of cell.

    From a finished run of the kind, else from a few training steps on random inputs, one thread; as
    soon as measuring takes too long, from the time by FLOPs of the kinds that were measured.
    """
    finished: dict[tuple[str, ...], float] = {}
    for cell in cells:
        if cell.kind not in finished and (result := cell.folder.result()) is not None:
            finished[cell.kind] = result["train_seconds"] + OVERHEAD
    seconds: dict[tuple[str, ...], float] = {}
    rates: list[float] = []
    ends = time.perf_counter() + BUDGET
    known: dict[Any, float] = {}
    kinds = list(zip(first_of_kinds(cells), prepared, strict=True))
    for cell, kind in kinds:
        if cell.kind in finished:
            seconds[cell.kind] = finished[cell.kind]
            continue
        steps, size = steps_of(cell, kind), kind.dataset.batch_size
        plan = kind.plan
        key = (kind.objective.task, plan.shape, str(plan.layers), str(plan.options), size)
        if key not in known and time.perf_counter() < ends:
            known[key] = step_seconds(cell, kind, size)
            rates.append(known[key] / (kind.plan.flops * size))
        rate = statistics.median(rates) if rates else 1e-9
        step = known.get(key, rate * kind.plan.flops * size)
        seconds[cell.kind] = steps * step + OVERHEAD
    return seconds


def steps_of(cell: Cell, kind: Any) -> float:
    """Training steps of a run, those on validation data counted as a third of one."""
    counts, size = kind.dataset.counts(), kind.dataset.batch_size
    train = counts.train / kind.dataset.training_set.phases
    epochs = cell.config["trainer"]["max_epochs"]
    return float(epochs * (max(1, train // size) + counts.val / size / 3))


def step_seconds(cell: Cell, kind: Any, size: int) -> float:
    """Least seconds of a training step on random inputs, by one thread of the CPU."""
    import torch

    from kanzoo.training.optim import build_optimizer

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        net = kind.plan.build(0).train()
        optimizer = build_optimizer(cell.config["optim"], net)
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(size, *kind.plan.shape.in_shape, generator=generator)
        if getattr(net, "takes_tokens", False):
            x = torch.randint(kind.plan.shape.num_outputs, x.shape, generator=generator)
        times: list[float] = []
        began = time.perf_counter()
        while len(times) < 3 or (time.perf_counter() - began < 0.2 and len(times) < 20):
            start = time.perf_counter()
            optimizer.zero_grad()
            kind.objective.output(net, x).square().mean().backward()
            optimizer.step()
            times.append(time.perf_counter() - start)
            if times[-1] > 1.0:
                break
        return min(times)
    finally:
        torch.set_num_threads(threads)


def _duration(seconds: float) -> str:
    for size, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            count = seconds / size
            return f"{count:.0f} {unit}" if count >= 10 else f"{count:.2g} {unit}"
    return f"{seconds:.0f} s"
