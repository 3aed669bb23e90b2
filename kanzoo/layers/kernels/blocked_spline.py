"""B-spline layers in plain PyTorch, a block at a time: the path without a compiler.

On equal intervals every function is computed everywhere, elementwise, in buffers that stay in the
cache, and multiplied with its own slice of the weight, which copies nothing. On other grids the
few non-zero functions are scattered into a matrix. Nothing but the inputs is saved.

Axes: n rows and b features of a block, K functions, T = K or K + 1 with the residual branch.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .blocked import block_slices
from .cardinal import Cardinal, Places, Workspace, expand, place, prepare_cardinal
from .compiled import is_transformed
from .dense import dense_linear
from .local import Cells, prepare_cells, spline_values

GROUP = 4  # functions at a time
BUFFER = 2**19  # numbers of a buffer: GROUP functions of a block of inputs
MOST_ROWS = 512

Arguments = tuple[Tensor, Tensor, Tensor | None]  # x (N, C), weight (C, T, O), residual (N, C)


class _Blocks:
    """A uniform spline and the blocks of one call."""

    def __init__(self, x: Tensor, spline: Cardinal, count: int) -> None:
        self.x, self.spline, self.count = x, spline, count
        rows, features = x.shape
        self.rows = max(min(rows, MOST_ROWS), 1)
        self.width = max(min(features, BUFFER // (min(GROUP, count) * self.rows)), 1)
        self.work = Workspace(x, min(GROUP, count) * self.rows * self.width)

    def __iter__(self) -> Iterator[tuple[slice, slice, Cardinal, Places]]:
        for n in range(0, self.x.shape[0], self.rows):
            rows = slice(n, n + self.rows)
            for i in range(0, self.x.shape[1], self.width):
                block = slice(i, i + self.width)
                spline = self.spline.at(block)
                yield rows, block, spline, place(self.x[rows, block], spline)

    def groups(self) -> Iterator[range]:
        for k in range(0, self.count, GROUP):
            yield range(k, min(k + GROUP, self.count))


def _uniform_forward(spline: Cardinal, x: Tensor, weight: Tensor, y: Tensor, count: int) -> None:
    blocks = _Blocks(x, spline, count)
    for rows, block, own, places in blocks:
        for functions in blocks.groups():
            values, _ = expand(places, own, functions, blocks.work, False)
            for value, k in zip(values, functions, strict=True):
                y[rows].addmm_(value, weight[block, k])


def _uniform_backward(
    spline: Cardinal,
    x: Tensor,
    weight: Tensor,
    grad: Tensor,
    count: int,
    grad_x: Tensor | None,
    grad_weight: Tensor | None,
) -> None:
    blocks = _Blocks(x, spline, count)
    for rows, block, own, places in blocks:
        g = grad[rows]
        total = None if grad_x is None else grad_x[rows, block].zero_()
        for functions in blocks.groups():
            values, slopes = expand(places, own, functions, blocks.work, total is not None)
            if grad_weight is not None:
                for value, k in zip(values, functions, strict=True):
                    part = grad_weight[block, k]
                    if rows.start:
                        part.addmm_(value.t(), g)
                    else:
                        torch.mm(value.t(), g, out=part)
            if total is not None and slopes is not None:
                back = blocks.work.get(1, *values.shape)
                for one, k in zip(back, functions, strict=True):
                    torch.mm(g, weight[block, k].t(), out=one)
                total += back.mul_(slopes).sum(0)
        if total is not None:
            total *= own.scale
            if places.moving is not None:
                total.masked_fill_(~places.moving & ~places.inside.isnan(), 0)


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
        if residual is None:
            y = x.new_zeros(x.shape[0], weight.shape[2])
        else:
            y = torch.mm(residual, weight[:, -1])
        _uniform_forward(spline, x, weight, y, knots.shape[1] - order - 1)
        return y

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        x, weight, residual, knots = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative will follow
            return *_differentiable(ctx, grad), None, None, None
        need_x, need_weight, need_residual = ctx.needs_input_grad[:3]
        grad_x = torch.empty_like(x) if need_x else None
        grad_weight = torch.empty_like(weight) if need_weight else None
        grad_residual = None
        spline = prepare_cardinal(knots, ctx.order, ctx.extrapolation)
        if spline is None:
            grad_residual = torch.empty_like(x) if need_residual else None
            cells = prepare_cells(knots, ctx.order, ctx.extrapolation)
            wanted = (grad_x, grad_weight, grad_residual)
            _scattered_backward(cells, (x, weight, residual), grad, wanted)
            return *wanted, None, None, None
        count = knots.shape[1] - ctx.order - 1
        if x.shape[0] == 0 and grad_weight is not None:
            grad_weight.zero_()
        _uniform_backward(spline, x, weight, grad, count, grad_x, grad_weight)
        if residual is not None:
            if grad_weight is not None:
                torch.mm(residual.t(), grad, out=grad_weight[:, -1])
            if need_residual:
                grad_residual = torch.mm(grad, weight[:, -1].t())
        return grad_x, grad_weight, grad_residual, None, None, None


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
