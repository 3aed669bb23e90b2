"""Whole networks against their MLP twins: parameters, FLOPs, training step and peak memory.

The widths of the KANs are solved for the twin's budget.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from rich.table import Table
from torch import nn

from kanzoo import registry
from kanzoo.benchmark.inputs import inputs_of, plan
from kanzoo.benchmark.rows import empty_table
from kanzoo.benchmark.timing import compare, optimizer_step
from kanzoo.training.measure import peak_step_memory
from kanzoo.training.optim import build_optimizer

TWIN = "mlp"
KAN = "kan-"  # followed by the name of a basis
ARMS = (f"{KAN}bspline", f"{KAN}rational")


@dataclass(frozen=True)
class Row:
    """One arm of one architecture; all ratios are over the MLP twin, also for times and bytes."""

    model: str
    arm: str
    basis: str
    params: int
    flops: int
    params_ratio: float
    flops_ratio: float
    step_ms: float
    step_ratio: float
    memory_mb: float
    memory_ratio: float


def every_arm() -> list[str]:
    """Arms that can be measured beside the twin: KAN layers of every basis."""
    return [f"{KAN}{name}" for name in registry.names("basis")]


def make_optimizer(net: nn.Module) -> torch.optim.Optimizer:
    """AdamW as `conf/optim` has it."""
    return build_optimizer(registry.options("optim", "adamw"), net)


def measure(
    name: str, arms: list[str], match: str, rounds: int, batch: int | None = None
) -> Iterator[Row]:
    """The twin of an architecture, then its arms, each timed in turn with the twin."""
    inputs = inputs_of(name)
    sample = inputs.sample(batch)
    twin_plan = plan(name, None, inputs, match)
    twin = twin_plan.build(seed=0)
    memory = functools.partial(
        peak_step_memory, loss=inputs.loss, make_optimizer=make_optimizer, batch=sample
    )

    def step_of(net: nn.Module) -> Callable[[], None]:
        return optimizer_step(net, inputs.loss, make_optimizer(net.train()), sample)

    twin_bytes, twin_step = memory(twin), step_of(twin)
    rows, twin_times = [], []
    for arm in arms:
        basis = arm.removeprefix(KAN)
        made = plan(name, basis, inputs, match)
        net = made.build(seed=0)
        used = memory(net)
        times = compare(step_of(net), twin_step, rounds)
        twin_times.append(times.limit)
        rows.append(
            Row(
                name,
                arm,
                basis,
                made.params,
                made.flops,
                made.params / made.twin_params,
                made.flops / made.twin_flops,
                1e3 * times.candidate,
                times.ratio,
                used / 1e6,
                used / twin_bytes,
            )
        )
    twin_seconds = twin_times[0] if twin_times else compare(twin_step, twin_step, rounds).candidate
    counts = (twin_plan.params, twin_plan.flops, 1.0, 1.0)
    activation = twin_plan.layers.activation
    yield Row(name, TWIN, activation, *counts, 1e3 * twin_seconds, 1.0, twin_bytes / 1e6, 1.0)
    yield from rows


def shown(rows: Sequence[Row]) -> Table:
    """A row an arm of an architecture."""
    title = "Training step of whole networks (in brackets: ratio to the MLP twin)"
    table = empty_table(title, ["model", "arm"], ["params", "MFLOPs", "step ms", "peak MB"])
    for row in rows:
        table.add_row(
            row.model,
            row.arm,
            f"{row.params:,} ({row.params_ratio:.3f})",
            f"{row.flops / 1e6:.2f} ({row.flops_ratio:.2f})",
            f"{row.step_ms:.1f} ({row.step_ratio:.2f})",
            f"{row.memory_mb:.1f} ({row.memory_ratio:.2f})",
        )
    return table
