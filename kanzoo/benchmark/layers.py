"""Layers against the dense limit: the plain operator on ready-made features.

A KAN layer of K functions an input, the residual among them, cannot beat `nn.Linear(in * K, out)`
or `nn.Conv2d(in * K, out)` unless it makes use of functions being zero.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from rich.table import Table
from torch import Tensor, nn

from kanzoo.bases.base import BasisFactory, get_basis
from kanzoo.benchmark.peers import Peer
from kanzoo.benchmark.rows import empty_table
from kanzoo.benchmark.timing import ratio, saved_bytes, training_step
from kanzoo.layers import KANConv2d, KANLinear


@dataclass(frozen=True)
class Shape:
    """Sizes of a measured layer: `pixels` is the side of the image of a 3x3 convolution, or 0."""

    inputs: int
    outputs: int
    batch: int
    pixels: int = 0

    def __str__(self) -> str:
        size = f"{self.inputs}->{self.outputs}"
        if not self.pixels:
            return f"{size}, batch {self.batch}"
        return f"3x3 {size}, {self.pixels}x{self.pixels}, batch {self.batch}"

    def sample(self, channels: int) -> Tensor:
        """Normal inputs of that many features, in need of a gradient."""
        tail = (channels, self.pixels, self.pixels) if self.pixels else (channels,)
        return torch.randn(self.batch, *tail, requires_grad=True)

    def plain(self, functions: int) -> nn.Module:
        """The ordinary operator on `functions` features an input."""
        if self.pixels:
            return nn.Conv2d(self.inputs * functions, self.outputs, 3, padding=1)
        return nn.Linear(self.inputs * functions, self.outputs)

    def kan(self, basis: BasisFactory, backend: str) -> KANLinear | KANConv2d:
        """The KAN layer."""
        if self.pixels:
            return KANConv2d(self.inputs, self.outputs, 3, padding=1, basis=basis, backend=backend)
        return KANLinear(self.inputs, self.outputs, basis=basis, backend=backend)


SHAPES = (
    Shape(784, 64, 256),
    Shape(512, 512, 256),
    Shape(192, 768, 1024),
    Shape(16, 32, 64, pixels=14),
)


@dataclass(frozen=True)
class Row:
    """One measurement; ratios are over the dense limit, of bytes over the plain layer on x."""

    operator: str
    shape: str
    basis: str
    grid_size: int | None
    backend: str
    step_ratio: float
    forward_ratio: float
    saved_bytes_ratio: float


def measure(
    shape: Shape, net: nn.Module, functions: int, names: tuple[str, int | None, str], rounds: int
) -> Row:
    """Time a layer against the limit of `functions` features an input."""
    limit = shape.plain(functions)
    x, features = shape.sample(shape.inputs), shape.sample(shape.inputs * functions)
    grad = torch.randn_like(limit(features))
    step = ratio(training_step(net, x, grad), training_step(limit, features, grad), rounds)
    with torch.no_grad():
        forward = ratio(lambda: net(x), lambda: limit(features), rounds)
    saved = saved_bytes(net, x) / saved_bytes(shape.plain(1), x)
    operator = "conv" if shape.pixels else "linear"
    return Row(operator, str(shape), *names, step, forward, saved)


def splines(grid_sizes: tuple[int, ...], backends: tuple[str, ...], rounds: int) -> Iterator[Row]:
    """Cubic B-splines on all shapes, grid sizes and backends."""
    for shape in SHAPES:
        for grid_size in grid_sizes:
            for backend in backends:
                net = shape.kan(get_basis("bspline", grid_size=grid_size), backend)
                functions = net.expansion.num_functions
                yield measure(shape, net, functions, ("bspline", grid_size, backend), rounds)


def bases(names: list[str], rounds: int) -> Iterator[Row]:
    """Every basis with its default options, on all shapes but the smallest operator."""
    for shape in SHAPES[1:]:
        for name in names:
            net = shape.kan(get_basis(name), "auto")
            grid_size = getattr(net.expansion.basis, "grid_size", None)
            functions = net.expansion.num_functions
            yield measure(shape, net, functions, (name, grid_size, "auto"), rounds)


def peers(packages: list[Peer], grid_sizes: tuple[int, ...], rounds: int) -> Iterator[Row]:
    """Other packages' layers of the same size, where they can be built."""
    for shape in SHAPES:
        for grid_size in grid_sizes:
            for peer in packages:
                net = peer.build(shape.inputs, shape.outputs, grid_size, bool(shape.pixels))
                if net is not None:
                    names = (peer.basis, grid_size, peer.name)
                    yield measure(shape, net, grid_size + 4, names, rounds)


def shown(rows: Sequence[Row]) -> Table:
    """A row a shape, basis, grid size and backend."""
    words = ("shape", "basis", "G", "backend")
    numbers = ("step", "forward", "saved bytes")
    table = empty_table("Ratio of a training step to the dense limit", words, numbers)
    for row in rows:
        table.add_row(
            row.shape,
            row.basis,
            str(row.grid_size or ""),
            row.backend,
            f"{row.step_ratio:.2f}",
            f"{row.forward_ratio:.2f}",
            f"{row.saved_bytes_ratio:.2f}",
        )
    return table
