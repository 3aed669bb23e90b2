"""What the arms of ledgers cost: a training step and its peak memory, over the baseline's.

Runs of a study share their machine with other work, so that the times in a ledger are not
comparable. Here every network is made by the command of its runs, with the sizes of the study, and
takes steps on a batch of its own data with its own loss and optimiser, in turn with the baseline.
"""

import functools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from kanzoo.benchmark.rows import empty_table
from kanzoo.benchmark.timing import compare, optimizer_step
from kanzoo.ledger.repeat import configuration
from kanzoo.ledger.store import read_ledger
from kanzoo.run.prepare import prepare
from kanzoo.study.plan import active_axes
from kanzoo.training.measure import peak_step_memory
from kanzoo.training.optim import build_optimizer

LEAST_SECONDS = 0.02  # of what is timed at once: as many steps as that takes


@dataclass(frozen=True)
class Row:
    """An arm of a task; ratios are over the baseline, also for times and bytes."""

    study: str
    task: str
    arm: str
    params_ratio: float
    step_ms: float
    step_ratio: float
    memory_mb: float
    memory_ratio: float


class Training:
    """A network of a run, and the steps it takes on the first batch of its data."""

    def __init__(self, name: str, row: Mapping[Any, Any]) -> None:
        config = configuration(name, row)
        prepared = prepare(config)
        prepared.dataset.load()
        loaders = prepared.dataset.loaders(seed=config["seed"], device=torch.device("cpu"))
        batch, objective = next(iter(loaders.train)), prepared.objective
        net = prepared.plan.build(config["seed"])
        optimizer_of = functools.partial(build_optimizer, config["optim"])
        self.params = prepared.plan.params
        self.memory = peak_step_memory(net, objective.loss, optimizer_of, batch, objective.output)
        forward = functools.partial(objective.output, net)
        self.step = optimizer_step(forward, objective.loss, optimizer_of(net.train()), batch)


def measure(folders: Sequence[Path], rounds: int) -> Iterator[Row]:
    """Every arm of every task of ledgers, but for the baseline's own rows, which are all 1."""
    for folder in folders:
        ledger = read_ledger(folder)
        keys = ["data", "model", "match", *active_axes(ledger.study)]
        finished = ledger.runs[ledger.runs["status"].eq("finished")]
        is_twin = finished["arm"].eq(ledger.study.baseline)
        for values, runs in finished[~is_twin].drop_duplicates([*keys, "arm"]).groupby(keys):
            twins = finished[is_twin]
            for key, value in zip(keys, values, strict=True):  # an axis may be of other arms alone
                twins = twins[twins[key].isin([value, ""])]
            if len(twins):
                task = " ".join(filter(None, map(str, values)))
                twin = Training(folder.name, twins.iloc[0].to_dict())
                for row in runs.to_dict("records"):
                    ours = Training(folder.name, row)
                    yield _row(folder.name, task, row["arm"], ours, twin, rounds)


def _row(study: str, task: str, arm: str, ours: Training, twin: Training, rounds: int) -> Row:
    one = compare(ours.step, twin.step, 1)
    steps = math.ceil(LEAST_SECONDS / max(one.candidate, one.limit))

    def several(training: Training) -> None:
        for _ in range(steps):
            training.step()

    times = compare(lambda: several(ours), lambda: several(twin), rounds)
    return Row(
        study,
        task,
        arm,
        ours.params / twin.params,
        1e3 * times.candidate / steps,
        times.ratio,
        ours.memory / 2**20,
        ours.memory / twin.memory,
    )


def shown(rows: Sequence[Row]) -> Table:
    """A row an arm of a task, then the geometric means of every arm over its tasks."""
    title = "Training step and peak memory of arms (ratio to the baseline)"
    words, numbers = ("study", "task", "arm"), ("parameters", "step ms", "peak MB")
    table = empty_table(title, words, numbers)
    for row in rows:
        table.add_row(
            row.study,
            row.task,
            row.arm,
            f"{row.params_ratio:.2f}",
            f"{row.step_ms:.2f} ({row.step_ratio:.2f})",
            f"{row.memory_mb:.2f} ({row.memory_ratio:.2f})",
        )
    table.add_section()
    for arm in dict.fromkeys(row.arm for row in rows):
        ours = [row for row in rows if row.arm == arm]
        size, step, memory = (
            _spread([getattr(row, name) for row in ours])
            for name in ("params_ratio", "step_ratio", "memory_ratio")
        )
        table.add_row(
            "geometric mean",
            "1 task" if len(ours) == 1 else f"{len(ours)} tasks",
            arm,
            size,
            step,
            memory,
        )
    return table


def _spread(ratios: Sequence[float]) -> str:
    """Geometric mean, least and most."""
    return f"{statistics.geometric_mean(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"
