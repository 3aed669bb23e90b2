"""B-spline layers in plain PyTorch, a block at a time: the path without a compiler.

The few non-zero functions of a block of inputs are scattered into a matrix of features and computed
again in the backward, so that nothing but the inputs is saved.

Axes: N rows, b features of a block, P non-zero functions of T = K or K + 1 with the
residual branch.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from kanzoo.kernels.generic.linear import even_size
from kanzoo.kernels.native.scratch import scratch
from kanzoo.kernels.spline.definition import dense_linear
from kanzoo.kernels.spline.local import Cells, prepare_cells, spline_values

BLOCK_BYTES = 16 << 20  # of features; few large operations are faster than many in the cache
Arguments = tuple[Tensor, Tensor, Tensor | None]  # x (N, C), weight (C, T, O), residual (N, C)


class _Matrix:
    """Dense features (N, b T) of a block of inputs, of which few are not zero."""

    def __init__(self, x: Tensor, residual: Tensor | None, cells: Cells, weight: Tensor) -> None:
        self.x, self.residual, self.cells = x, residual, cells
        self.functions = weight.shape[1]
        column = max(x.shape[0] * self.functions * x.element_size(), 1)
        self.width = even_size(x.shape[1], max(BLOCK_BYTES // column, 1))
        self.memory = scratch("features", x, x.shape[0] * self.width * self.functions)

    def blocks(self, derivative: bool) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
        """Slice and features of each block, places (N, b, P) and slopes (P, N, b)."""
        rows, inputs = self.x.shape
        for i in range(0, inputs, self.width):
            block = slice(i, min(i + self.width, inputs))
            width = block.stop - block.start
            cells = self.cells.at(block)
            index, values, slopes = spline_values(self.x[:, block], cells, derivative)
            index = index.movedim(0, -1)
            features = self.memory[: rows * width * self.functions].zero_()
            features = features.view(rows, width, self.functions)
            features.scatter_(2, index, values.movedim(0, -1))
            if self.residual is not None:
                features[..., -1] = self.residual[:, block]
            yield block, features.flatten(1), index, slopes


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
    for block, features, index, slopes in matrix.blocks(grad_x is not None):
        flat = weight[block].flatten(0, 1)
        if grad_weight is not None:
            torch.mm(features.t(), grad, out=grad_weight[block].flatten(0, 1))
        if not moving:
            continue
        back = torch.mm(grad, flat.t(), out=features).view(*index.shape[:2], weight.shape[1])
        if grad_x is not None:
            found = scratch("found", x, *slopes.shape)
            torch.gather(back, 2, index, out=found.movedim(0, -1))
            torch.sum(found.mul_(slopes), 0, out=grad_x[:, block])
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
        cells = prepare_cells(knots, order, extrapolation)
        return _scattered_forward(cells, x, weight, residual)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        x, weight, residual, knots = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative will follow
            return *_differentiable(ctx, grad), None, None, None
        need_x, need_weight, need_residual = ctx.needs_input_grad[:3]
        grad_x = torch.empty_like(x) if need_x else None
        grad_weight = torch.empty_like(weight) if need_weight else None
        grad_residual = torch.empty_like(x) if need_residual else None
        cells = prepare_cells(knots, ctx.order, ctx.extrapolation)
        wanted = (grad_x, grad_weight, grad_residual)
        _scattered_backward(cells, (x, weight, residual), grad, wanted)
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
        y: Tensor = _BlockedSpline.apply(
            flat, weight.contiguous(), rest, knots, order, extrapolation
        )
    return y.reshape(*x.shape[:-1], weight.shape[2])
