"""Special paths against the general ones, which compute any basis in PyTorch's operations.

A row is the training step of a layer as its special path computes it, against the same step where
all special paths are left out; with a compiler and without.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from rich.table import Table
from torch import Tensor

from kanzoo import kernels
from kanzoo.bases.base import get_basis
from kanzoo.benchmark.layers import SHAPES, Shape
from kanzoo.benchmark.rows import empty_table
from kanzoo.benchmark.timing import compare, saved_bytes, training_step
from kanzoo.layers.dispatch import PATHS, choose
from kanzoo.layers.layer import KANLayer
from kanzoo.layers.paths.base import Path
from kanzoo.layers.paths.dense import Dense
from kanzoo.layers.paths.generic import Generic

WORTH = 1.5  # times faster that a special path without a compiler has to be
BASES = ("bspline", "bspline_prelu", "rbf", "chebyshev", "rational")


@dataclass(frozen=True)
class Row:
    """Milliseconds of a step by a special path, and how many times faster and smaller that is."""

    shape: str
    basis: str
    compiler: bool
    path: str
    step_ms: float
    speedup: float
    saved_bytes_ratio: float


def measure(
    rounds: int, bases: tuple[str, ...] = BASES, shapes: tuple[Shape, ...] = SHAPES
) -> Iterator[Row]:
    """All shapes and bases for which a special path is chosen."""
    for shape in shapes:
        for name in bases:
            for compiler in (True, False):
                with ExitStack() as stack:
                    if not compiler:
                        stack.enter_context(
                            mock.patch.object(kernels, "unavailable_reason", _left_out)
                        )
                    net, x = shape.kan(get_basis(name), "auto"), shape.sample(shape.inputs)
                    if special := chosen(net, x):
                        yield _row(shape, name, compiler, special, net, x, rounds)


def chosen(net: KANLayer, x: Tensor) -> list[Path]:
    """The special paths that compute a layer and the functions of it."""
    request = net.request(x)
    path = choose(request)
    values = net.expansion.values_request(x) if path.uses_values else None
    paths = [path] if values is None else [path, choose(values)]
    return [path for path in paths if is_special(path)]


def is_special(path: Path) -> bool:
    """Whether a path is for some bases only."""
    return not isinstance(path, (Dense, Generic))


def _row(
    shape: Shape, basis: str, compiler: bool, special: list[Path], net: Any, x: Tensor, rounds: int
) -> Row:
    step = training_step(net, x, torch.randn_like(net(x)))

    def general() -> None:
        with left_out():
            step()

    times, saved = compare(step, general, rounds), saved_bytes(net, x)
    with left_out():
        saved_ratio = saved / saved_bytes(net, x)
    names = " and ".join(type(path).__name__ for path in special)
    speedup = 1 / times.ratio
    return Row(str(shape), basis, compiler, names, 1e3 * times.candidate, speedup, saved_ratio)


def left_out() -> AbstractContextManager[Any]:
    """No special path can compute anything."""
    stack = ExitStack()
    for path in filter(is_special, PATHS):
        stack.enter_context(mock.patch.object(path, "can", _left_out))
    return stack


def _left_out(*_: object) -> str:
    return "left out"


def shown(rows: Sequence[Row]) -> Table:
    """A row a path of a layer."""
    title = f"Training steps by special paths (worth their code from {WORTH:g} times faster)"
    words = ("shape", "basis", "compiler", "path")
    table = empty_table(title, words, ["step ms", "times faster", "saved bytes"])
    for row in rows:
        values = (row.step_ms, row.speedup, row.saved_bytes_ratio)
        has = "yes" if row.compiler else "no"
        table.add_row(row.shape, row.basis, has, row.path, *(f"{value:.2f}" for value in values))
    return table
