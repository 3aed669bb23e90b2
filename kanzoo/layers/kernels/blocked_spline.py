"""B-spline layers in plain PyTorch, a block at a time: the path without a compiler.

The few functions that are not zero are scattered into a matrix: by ``nearby`` on equal intervals,
else by ``local``. Nothing but the inputs is saved.

Axes: n rows and b features of a block, K functions, T = K or K + 1 with the residual branch.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .blocked import block_slices, blocks
from .cardinal import Cardinal, prepare_cardinal
from .compiled import is_transformed
from .dense import dense_linear
from .local import Cells, prepare_cells, spline_values
from .nearby import Nearby

LOW = 1024  # blocks get narrower rather than lower than that

Arguments = tuple[Tensor, Tensor, Tensor | None]  # x (N, C), weight (C, T, O), residual (N, C)


class _Uniform:
    """Features (n, b, T) of a block of rows and columns on equal intervals."""

    def __init__(self, x: Tensor, weight: Tensor, residual: Tensor | None, spline: Cardinal):
        self.x, self.weight, self.residual = x, weight, residual
        self.functions = weight.shape[1]
        self.nearby = Nearby(spline, x)
        self.memory = x.new_empty(0)

    def blocks(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """Rows, columns and zeros for their features."""
        for rows, block in blocks(self.x, self.weight, low=LOW):
            shape = (rows.stop - rows.start, block.stop - block.start, self.functions)
            if self.memory.numel() < math.prod(shape):
                self.memory = self.x.new_empty(math.prod(shape))
            yield rows, block, self.memory[: math.prod(shape)].view(shape).zero_()

    def run(
        self,
        rows: slice,
        block: slice,
        features: Tensor | None,
        back: Tensor | None = None,
        grad_x: Tensor | None = None,
    ) -> None:
        """Write the features; take their gradients ``back``, of the same shape, to grad_x."""
        strides = (1, (block.stop - block.start) * self.functions, self.functions)
        out = None if features is None else features.view(-1)
        back = None if back is None else back.view(-1)
        self.nearby.run(self.x[rows, block], out, strides, back, grad_x, block)
        if features is not None and self.residual is not None:
            features[..., -1] = self.residual[rows, block]


def _uniform_forward(
    spline: Cardinal, x: Tensor, weight: Tensor, residual: Tensor | None
) -> Tensor:
    y = x.new_zeros(x.shape[0], weight.shape[2])
    every = _Uniform(x, weight, residual, spline)
    for rows, block, features in every.blocks():
        every.run(rows, block, features)
        y[rows].addmm_(features.flatten(1), weight[block].flatten(0, 1))
    return y


def _uniform_backward(
    spline: Cardinal, tensors: Arguments, grad: Tensor, wanted: tuple[Tensor | None, ...]
) -> None:
    x, weight, residual = tensors
    grad_x, grad_weight, grad_residual = wanted
    every = _Uniform(x, weight, residual, spline)
    memory = x.new_empty(0)
    if grad_weight is not None and x.shape[0] == 0:
        grad_weight.zero_()
    for rows, block, features in every.blocks():
        g, back = grad[rows], None
        if grad_x is not None or grad_residual is not None:
            memory = (
                torch.empty_like(every.memory) if memory.shape != every.memory.shape else memory
            )
            back = memory[: features.numel()].view(features.shape)
            torch.mm(g, weight[block].flatten(0, 1).t(), out=back.flatten(1))
        into = None if grad_x is None else grad_x[rows, block]
        every.run(rows, block, features if grad_weight is not None else None, back, into)
        if grad_residual is not None and back is not None:
            grad_residual[rows, block] = back[..., -1]
        if grad_weight is not None:
            out = grad_weight[block].flatten(0, 1)
            if rows.start == 0:
                torch.mm(features.flatten(1).t(), g, out=out)
            else:
                out.addmm_(features.flatten(1).t(), g)


class _Matrix:
    """Dense features (N, b T) of a block with few non-zero entries, written and wiped in turn."""

    def __init__(self, x: Tensor, residual: Tensor | None, cells: Cells, weight: Tensor) -> None:
        self.x, self.residual, self.cells = x, residual, cells
        self.slices = block_slices(x, weight)
        self.functions = weight.shape[1]
        self.width = self.slices[0].stop if self.slices else 0
        self.memory = x.new_zeros(x.shape[0] * self.width * self.functions)

    def blocks(self, derivative: bool) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
        """Slice and features of each block, places of the non-zero ones and their slopes."""
        rows = self.x.shape[0]
        for block in self.slices:
            width = block.stop - block.start
            cells = self.cells.at(block)
            index, values, slopes = spline_values(self.x[:, block], cells, derivative)
            features = self.memory[: rows * width * self.functions]
            features = features.view(rows, width, self.functions)
            features.scatter_(2, index, values)
            if self.residual is not None:
                features[..., -1] = self.residual[:, block]
            yield block, features.flatten(1), index, slopes
            features.scatter_(2, index, 0.0)


def _scattered_forward(cells: Cells, x: Tensor, weight: Tensor, residual: Tensor | None) -> Tensor:
    y = x.new_zeros(x.shape[0], weight.shape[2])
    for block, features, _, _ in _Matrix(x, residual, cells, weight).blocks(False):
        y.addmm_(features, weight[block].flatten(0, 1))
    return y


def _scattered_backward(
    cells: Cells, tensors: Arguments, grad: Tensor, wanted: tuple[Tensor | None, ...]
) -> None:
    x, weight, residual = tensors
    grad_x, grad_weight, grad_residual = wanted
    matrix = _Matrix(x, residual, cells, weight)
    moving = grad_x is not None or grad_residual is not None
    memory = torch.empty_like(matrix.memory) if moving else None
    for block, features, index, slopes in matrix.blocks(grad_x is not None):
        flat = weight[block].flatten(0, 1)
        if grad_weight is not None:
            torch.mm(features.t(), grad, out=grad_weight[block].flatten(0, 1))
        if memory is None:
            continue
        back = memory[: features.numel()].view(features.shape)
        torch.mm(grad, flat.t(), out=back)
        back = back.view(x.shape[0], block.stop - block.start, weight.shape[1])
        if grad_x is not None:
            grad_x[:, block] = (back.gather(2, index) * slopes).sum(-1)
        if grad_residual is not None:
            grad_residual[:, block] = back[..., -1]


class _BlockedSpline(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx,
        x: Tensor,
        weight: Tensor,
        residual: Tensor | None,
        knots: Tensor,
        order: int,
        extrapolation: str,
    ) -> Tensor:
        ctx.order, ctx.extrapolation = order, extrapolation
        ctx.save_for_backward(x, weight, residual, knots)
        spline = prepare_cardinal(knots, order, extrapolation)
        if spline is None:
            cells = prepare_cells(knots, order, extrapolation)
            return _scattered_forward(cells, x, weight, residual)
        return _uniform_forward(spline, x, weight, residual)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        x, weight, residual, knots = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative will follow
            return *_differentiable(ctx, grad), None, None, None
        need_x, need_weight, need_residual = ctx.needs_input_grad[:3]
        grad_x = torch.empty_like(x) if need_x else None
        grad_weight = torch.empty_like(weight) if need_weight else None
        grad_residual = torch.empty_like(x) if need_residual else None
        tensors, wanted = (x, weight, residual), (grad_x, grad_weight, grad_residual)
        spline = prepare_cardinal(knots, ctx.order, ctx.extrapolation)
        if spline is None:
            cells = prepare_cells(knots, ctx.order, ctx.extrapolation)
            _scattered_backward(cells, tensors, grad, wanted)
        else:
            _uniform_backward(spline, tensors, grad, wanted)
        return *wanted, None, None, None


def _differentiable(ctx: Any, grad: Tensor) -> list[Tensor | None]:
    """Gradients of x, weight and residual with a graph, through the dense definition."""
    x, weight, residual, knots = ctx.saved_tensors
    # Aliases, as one variable may have been computed from another (residual from x).
    a, b = x.view_as(x), weight.view_as(weight)
    c = None if residual is None else residual.view_as(residual)
    needed = [t for t in (a, b, c) if t is not None and t.requires_grad]
    y = dense_linear(a, b, c, knots, ctx.order, ctx.extrapolation)
    found = iter(torch.autograd.grad(y, needed, grad, create_graph=True, materialize_grads=True))
    return [None if t is None or not t.requires_grad else next(found) for t in (a, b, c)]


def blocked_spline_linear(
    x: Tensor,
    weight: Tensor,
    residual: Tensor | None,
    knots: Tensor,
    order: int,
    extrapolation: str,
) -> Tensor:
    """``spline_linear`` without a compiler, on any device: the same arguments and result."""
    inputs = x.shape[-1]
    flat = x.reshape(-1, inputs)
    rest = None if residual is None else residual.reshape(-1, inputs)
    with torch.autocast(x.device.type, enabled=False):
        if is_transformed():
            y = dense_linear(flat, weight, rest, knots, order, extrapolation)
        else:
            y = _BlockedSpline.apply(flat, weight.contiguous(), rest, knots, order, extrapolation)
    return y.reshape(*x.shape[:-1], weight.shape[2])
