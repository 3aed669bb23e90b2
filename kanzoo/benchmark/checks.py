"""What the checks of arguments cost: a step of the smallest layer with them and without."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from rich.table import Table
from torch import Tensor

from kanzoo.benchmark.rows import empty_table
from kanzoo.benchmark.timing import compare, training_step
from kanzoo.kernels.native import call
from kanzoo.layers import KANConv2d, KANLinear
from kanzoo.layers.edges import EdgeLayer

STEPS = 100  # of a timing
LIMIT = 1.03  # of a step with checks over one without


@dataclass(frozen=True)
class Row:
    """Microseconds of a step with checks, and its ratio to one without."""

    layer: str
    step_us: float
    ratio: float


def measure(rounds: int) -> Iterator[Row]:
    """Layers of one input, one output and one sample: nothing else makes checks as dear."""
    for layer, x in (
        (KANLinear(1, 1), torch.randn(1, 1)),
        (KANLinear(1, 1, basis="rbf"), torch.randn(1, 1)),
        (KANConv2d(1, 1, 1), torch.randn(1, 1, 1, 1)),
    ):
        once = training_step(layer, x.requires_grad_(), torch.ones_like(layer(x)))

        def steps(once: Any = once) -> None:
            for _ in range(STEPS):
                once()

        def unchecked(steps: Any = steps) -> None:
            with (
                mock.patch.object(call, "pointer", _address),
                mock.patch.object(EdgeLayer, "current_weight", _weight),
                mock.patch.object(EdgeLayer, "current_bias", _bias),
                mock.patch("kanzoo.kernels.spline.linear_direct.check_features", id),
            ):
                steps()

        times = compare(steps, unchecked, rounds)
        name = f"{type(layer).__name__}(1, 1, basis={layer.expansion.basis.__class__.__name__})"
        yield Row(name, times.candidate / STEPS * 1e6, times.ratio)


def _address(name: str, tensor: Tensor | None, shape: object, dtype: object) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _weight(layer: EdgeLayer) -> Tensor:
    return layer.weight


def _bias(layer: EdgeLayer) -> Tensor | None:
    return layer.bias


def shown(rows: Sequence[Row]) -> Table:
    """A row a layer."""
    title = f"Step with checks of all tensors over one without (limit {LIMIT:g})"
    table = empty_table(title, ["layer"], ["step us", "ratio"])
    for row in rows:
        table.add_row(row.layer, f"{row.step_us:.1f}", f"{row.ratio:.3f}")
    return table
