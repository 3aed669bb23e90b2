"""Training steps and fits beside processes that keep all cores busy, against a fair share.

Threads that wait for each other by spinning lose much more than that: the one that they wait for
does not run. How they wait is up to kanzoo, or to OpenMP's variables, which are read when PyTorch
is loaded, so that each way is a process of its own.
"""

import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from unittest import mock

from rich.table import Table

from kanzoo.benchmark.rows import empty_table

USUAL, KANZOO = "PyTorch's", "kanzoo"
WAYS: dict[str, dict[str, str]] = {
    USUAL: {},
    KANZOO: {},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "spin shortly": {"GOMP_SPINCOUNT": "10000"},
}
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
FORMULA = "formula"
NETS = {"MLP": "mlp", "KAN": "kan", FORMULA: FORMULA}
FAIR = 2.0  # times as long where every core has one other process


@dataclass(frozen=True)
class Row:
    """Milliseconds of a step, or of a search for a formula, and medians of ratios of neighbours.

    `beside_fair` is the step beside others over that of a fair share, `idle_cost` the step alone
    over that of PyTorch's usual waiting.
    """

    net: str
    way: str
    threads: int
    alone_ms: float
    beside_ms: float
    beside_fair: float
    idle_cost: float


def measure(
    rounds: int, seconds: float = 2.0, ways: Mapping[str, dict[str, str]] = WAYS
) -> Iterator[Row]:
    """Time every network and way of waiting in `rounds`, alternately."""
    for net, layers in NETS.items():
        alone: dict[str, list[float]] = {way: [] for way in ways}
        beside: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, variables in ways.items():
                sleeps = way == KANZOO
                alone[way].append(_step_ms(layers, seconds, variables, sleeps))
                with busy_cores():
                    beside[way].append(_step_ms(layers, seconds, variables, sleeps))
        first = alone[next(iter(ways))]
        for way in ways:
            shares = [b / a / FAIR for a, b in zip(alone[way], beside[way], strict=True)]
            costs = [a / usual for a, usual in zip(alone[way], first, strict=True)]
            numbers = (alone[way], beside[way], shares, costs)
            yield Row(net, way, os.cpu_count() or 1, *map(statistics.median, numbers))


@contextmanager
def busy_cores() -> Iterator[None]:
    """A process on every core that computes all the time."""
    command = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(command) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def _step_ms(layers: str, seconds: float, variables: Mapping[str, str], sleeps: bool) -> float:
    """Mean milliseconds of a training step in a new process with these variables."""
    with mock.patch.dict(os.environ):
        for name in (*VARIABLES, "OMP_NUM_THREADS"):
            os.environ.pop(name, None)
        os.environ.update(variables)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.apply(time_steps, (layers, seconds, sleeps))


def time_steps(layers: str, seconds: float, sleeps: bool) -> float:
    """Mean milliseconds of training steps of a network of digits, for so many seconds.

    With `sleeps`, waiting threads sleep while others keep the machine busy, as in runs. A step of
    `FORMULA` is the fit of an estimator with one, with `sleeps` as estimators do it.
    """
    from kanzoo.training.waiting import LOOK, sleeping_while_busy

    step = _fit(sleeps) if layers == FORMULA else _training_step(layers)

    def mean_ms(seconds: float) -> float:
        began, steps = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            step()
            steps += 1
        return 1000 * (time.perf_counter() - began) / steps

    with sleeping_while_busy() if sleeps and layers != FORMULA else nullcontext():
        mean_ms(min(LOOK, seconds))
        return mean_ms(seconds)


def _training_step(layers: str) -> Callable[[], None]:
    import torch

    from kanzoo.benchmark.timing import optimizer_step
    from kanzoo.models.build import create_model

    net = create_model("mlp", layers=layers, in_shape=(1, 8, 8), width=128)
    optimizer = torch.optim.Adam(net.parameters())
    batch = torch.randn(64, 1, 8, 8), torch.randint(10, (64,))
    return optimizer_step(net, torch.nn.functional.cross_entropy, optimizer, batch)


def _fit(sleeps: bool) -> Callable[[], None]:
    import numpy as np

    from kanzoo.estimators.regressor import KANRegressor

    random = np.random.default_rng(0)
    x = random.uniform(1, 3, (500, 3))
    y = x[:, 0] * x[:, 1] / x[:, 2]
    y += 0.05 * y.std() * random.normal(size=len(y))
    fit = KANRegressor.fit if sleeps else KANRegressor.fit.__wrapped__  # type: ignore[attr-defined]

    def step() -> None:
        fit(KANRegressor(formula="auto", random_state=0), x, y)

    return step


def shown(rows: Sequence[Row]) -> Table:
    """A row a network and a way of waiting."""
    title = f"Training steps, each of {rows[0].threads} cores shared with another process"
    numbers = ("alone ms", "beside ms", "of fair", "cost alone")
    table = empty_table(title, ["network", "threads wait"], numbers)
    for row in rows:
        values = (row.alone_ms, row.beside_ms, row.beside_fair, row.idle_cost)
        table.add_row(row.net, row.way, *(f"{value:.2f}" for value in values))
    return table
