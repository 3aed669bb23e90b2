"""Knot vectors and the B-splines that are not zero on one of their cells.

Axes: C features, G cells of the grid, k degree, M = G + 2 k + 1 knots, K = G + k functions. Cell j
lies between knots j and j + 1; functions j - k .. j are not zero there.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

EXTRAPOLATIONS = ("zero", "clamp", "linear")


def spline_values(
    x: Tensor, knots: Tensor, order: int, extrapolation: str, slopes: Tensor | None = None
) -> Tensor:
    """All B-splines of degree `order` at x (Cox and de Boor): `(..., C) -> (K, ..., C)`.

    knots: `(M,)` of equal cells, or ascending ones that may coincide, `(C, M)` or `(1, M)`.
    Outside the grid, between knots `order` and `M - 1 - order`, the functions decay over the outer
    cells ("zero"), keep the value at the end ("clamp") or go on with its slope ("linear"), which
    `slopes` holds if at hand: `end_slopes(knots, order)`. Differentiable any number of times.
    """
    if extrapolation == "zero":
        return _all_values(x, knots, order, 0)
    low, high = knots[..., order], knots[..., knots.shape[-1] - 1 - order]
    inside = _between(x, low, high)
    values = _all_values(inside, knots, order, order)
    if extrapolation == "clamp":
        return values
    if slopes is None:
        slopes = end_slopes(knots if knots.dim() == 2 else knots.unsqueeze(0), order)
    features = slopes.shape[2:] or (1,)
    left, right = slopes.to(x.dtype).view(2, -1, *[1] * (x.dim() - 1), *features)
    return values + (x - inside) * torch.where(x < low, left, right)


def _between(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The nearest in [low, high], with the gradient of x at both ends, which minima would halve."""
    outside = (x < low) | (x > high)
    return torch.where(outside, torch.minimum(torch.maximum(x.detach(), low), high), x)


def _all_values(x: Tensor, knots: Tensor, order: int, outer: int) -> Tensor:
    """The functions as they are; x keeps out of the first and last `outer` cells."""
    first, last = knots[..., 0], knots[..., -1]
    count = knots.shape[-1] - order - 1
    around: Tensor | None = None
    if knots.dim() == 1:
        cells = len(knots) - 1
        position = ((x - first) * (cells / (last - first))).clamp(0, cells)
        cell = position.detach().nan_to_num().floor().clamp(max=cells - 1).long()
        inside = position - cell
    else:
        inside = _between(x, first, last)
        cell = cells_of(inside.detach(), knots, outer)
        around = knots_around(cell, knots, order)
    if order == 0 or around is not None:  # functions that may not be zero at the outermost knots
        cell = torch.where((x < first) | (x > last), count + order, cell)
    # Function f is one of the order + 1 that live on cell f + order; the first and the last
    # cells also touch functions that do not exist, which the slice leaves out.
    # A compiler derives the plain operations itself, and cannot follow functions with a jvp.
    make = _Planes.forward if torch.compiler.is_compiling() else _Planes.apply
    planes: Tensor = make(inside, around, cell, order, count + 2 * order + 1)
    values = planes[order : order + count]
    return torch.where(x.isnan(), x, values) if order == 0 else values


class _Planes(torch.autograd.Function):
    """The functions that are not zero on the cell of every x, in planes: `(...) -> (P, ...)`.

    Function j of a cell is in plane `cell + j`. Derivatives are differences of functions of one
    degree less, computed again from x: autograd keeps no functions.
    """

    @staticmethod
    def forward(x: Tensor, around: Tensor | None, cell: Tensor, order: int, count: int) -> Tensor:
        planes = x.new_zeros((count, *x.shape))
        for index, value in enumerate(_cells(x, around, order)):
            planes[index:].scatter_(0, cell.unsqueeze(0), value.unsqueeze(0))
        return planes

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.order, ctx.count = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, around, cell = ctx.saved_tensors
        slopes = 0 * x  # NaN for NaN
        if ctx.order:
            steps = torch.arange(ctx.order + 1, device=cell.device)
            local = grad.gather(0, cell + steps.view(-1, *[1] * cell.dim()))
            slopes = slopes + (_rates(x, around, ctx.order) * local.diff(dim=0)).sum(0)
        return slopes, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        x, around, cell = ctx.saved_tensors
        index = cell.unsqueeze(0)
        planes = tangent.new_zeros((ctx.count, *x.shape))
        for j, rate in enumerate(_rates(x, around, ctx.order)):
            change = (rate * tangent).unsqueeze(0)
            planes = planes.scatter_add(0, index + j, -change).scatter_add(0, index + j + 1, change)
        return planes

    @staticmethod
    def vmap(info: Any, dims: Any, x: Tensor, around: Any, cell: Tensor, *sizes: int) -> Any:
        def lead(t: Tensor, dim: int | None, to: int) -> Tensor:
            return t.unsqueeze(to) if dim is None else t.movedim(dim, to)

        x, cell = torch.broadcast_tensors(lead(x, dims[0], 0), lead(cell, dims[2], 0))
        around = None if around is None else lead(around, dims[1], 1)
        return _Planes.apply(x, around, cell, *sizes), 1


class _Local(torch.autograd.Function):
    """The functions that are not zero on the cell of every x: `(...) -> (order + 1, ...)`.

    As in `_Planes`, derivatives are functions of one degree less, of any order.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, around: Tensor | None, order: int) -> Tensor:
        return torch.stack(_cells(x, around, order))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.order = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, around = ctx.saved_tensors
        if ctx.order == 0:
            return 0 * x, None, None
        return (_rates(x, around, ctx.order) * grad.diff(dim=0)).sum(0), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        x, around = ctx.saved_tensors
        nothing = torch.zeros_like(x).unsqueeze(0)
        rates = torch.cat([nothing, _rates(x, around, ctx.order), nothing])
        return -rates.diff(dim=0) * tangent


def _rates(x: Tensor, around: Tensor | None, order: int) -> Tensor:
    """How fast function j of a cell falls, and the next one rises with it: `(order, ...)`.

    Derivatives of it cost as much as itself.
    """
    if order == 0:
        return x.new_zeros((0, *x.shape))
    if around is None:
        return _Local.apply(x, None, order - 1)
    values = _Local.apply(x, around[1:-1], order - 1)
    return order * values / (around[order:] - around[:order])


def _cells(x: Tensor, around: Tensor | None, order: int) -> list[Tensor]:
    """The functions that are not zero on the cell of x, for equal knots or those around it."""
    return _equal_cells(x, order) if around is None else _uneven_cells(x, around, order)


def _equal_cells(t: Tensor, order: int) -> list[Tensor]:
    """The order + 1 uniform B-splines that are not zero on a cell, at t in [0, 1] along the cell.

    The function that began first in front. (Piegl and Tiller, The NURBS Book, algorithm A2.2, where
    all knot differences of degree d are d cells.)
    """
    values = [torch.ones_like(t)]
    for degree in range(1, order + 1):
        raised = [torch.zeros_like(t)]
        for index, value in enumerate(values):
            share = value * (1.0 / degree)
            raised[-1] = raised[-1] + (index + 1 - t) * share
            raised.append((t + (degree - 1 - index)) * share)
        values = raised
    return values


def _uneven_cells(x: Tensor, around: Tensor, order: int) -> list[Tensor]:
    """The order + 1 B-splines that are not zero on the cell of x, for knots of any distance.

    `around` `(2 order, ...)` holds the knots nearest to the cell, `order` on each side. (The NURBS
    Book, algorithm A2.2, after de Boor.)
    """
    left = [x - around[order - step] for step in range(1, order + 1)]
    right = [around[order - 1 + step] - x for step in range(1, order + 1)]
    values = [torch.ones_like(x)]
    for degree in range(1, order + 1):
        before = left[:degree][::-1]
        triples = zip(values, before, right, strict=False)
        shares = [value / (b + a) for value, b, a in triples]
        falling = [a * share for a, share in zip(right, shares, strict=False)]
        rising = [b * share for b, share in zip(before, shares, strict=True)]
        inner = [a + b for a, b in zip(falling[1:], rising[:-1], strict=True)]
        values = [falling[0], *inner, rising[-1]]
    return values


def cells_of(x: Tensor, knots: Tensor, outer: int = 0) -> Tensor:
    """Index of the cell of every x: `(..., C), (C or 1, M) -> (..., C)`.

    The first and last ``outer`` cells are left out. The last cell that is not empty is closed.
    """
    columns = knots.t().reshape(knots.shape[1], *[1] * (x.dim() - 1), knots.shape[0])
    last = knots.shape[1] - 2 - outer
    filled = (knots[:, : last + 1] < knots[:, last + 1 :][:, :1]).sum(1) - 1
    return torch.minimum((x >= columns).sum(0) - 1, filled).clamp(outer, last)


def knots_around(cell: Tensor, knots: Tensor, order: int) -> Tensor:
    """The `order` knots on each side of cells: `(..., C), (C, M) -> (2 order, ..., C)`.

    Beyond the ends, where no function needs them, knots go on in steps of the end cells.
    """
    features, count = knots.shape
    steps = torch.arange(1, order + 1, device=knots.device, dtype=knots.dtype)
    before = knots[:, :1] - steps.flip(0) * (knots[:, 1:2] - knots[:, :1])
    after = knots[:, -1:] + steps * (knots[:, -1:] - knots[:, -2:-1])
    table = torch.cat([before, knots, after], 1)
    rows = torch.arange(features, device=knots.device) * (count + 2 * order)
    offsets = torch.arange(1, 2 * order + 1, device=knots.device)
    index = (rows + cell) + offsets.view(-1, *[1] * cell.dim())
    return table.flatten()[index]


def extend(breaks: Tensor, order: int) -> Tensor:
    """Knots `(C, M)` of grids with the given breaks `(C, G + 1)`, going on by their mean step."""
    step = (breaks[:, -1:] - breaks[:, :1]) / (breaks.shape[1] - 1)
    reach = torch.arange(1, order + 1, dtype=breaks.dtype, device=breaks.device)
    return torch.cat(
        [breaks[:, :1] - step * reach.flip(0), breaks, breaks[:, -1:] + step * reach], 1
    )


def end_slopes(knots: Tensor, order: int) -> Tensor:
    """Derivatives of all functions at both ends of the grids: `(C, M) -> (2, K, C)`."""
    features, count = knots.shape
    slopes = knots.new_zeros(2, count - order - 1, features)
    for end, x in enumerate((knots[:, order], knots[:, count - 1 - order])):
        cell = cells_of(x.unsqueeze(0), knots, order).squeeze(0)
        for j, rate in enumerate(_rates(x, knots_around(cell, knots, order), order)):
            function, change = (cell - order + j).unsqueeze(0), rate.unsqueeze(0)
            slopes[end].scatter_add_(0, function, -change).scatter_add_(0, function + 1, change)
    return slopes


@lru_cache(maxsize=256)
def uniform_grid(grid_size: int, order: int, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Knots (M,) and end slopes (2, K) of a uniform grid, in float64 on the CPU."""
    with torch.device("cpu"):
        step = (high - low) / grid_size
        knots = low + step * torch.arange(-order, grid_size + order + 1, dtype=torch.float64)
        return knots, end_slopes(knots.unsqueeze(0), order).squeeze(-1)


def split_cells(breaks: Tensor, grid_size: int) -> Tensor:
    """Breaks `(C, grid_size + 1)` that keep the given ones and halve the widest cells in turn.

    With fewer cells than before, breaks are spread over the old ones instead.
    """
    count = breaks.shape[1] - 1
    if grid_size < count:
        position = torch.linspace(0, count, grid_size + 1, dtype=breaks.dtype, device=breaks.device)
        lower = position.floor().clamp(max=count - 1).long()
        share = position - lower
        return breaks[:, lower] * (1 - share) + breaks[:, lower + 1] * share
    for _ in range(grid_size - count):
        widest = breaks.diff(dim=1).argmax(1, keepdim=True)
        middle = (breaks.gather(1, widest) + breaks.gather(1, widest + 1)) / 2
        breaks = torch.cat([breaks, middle], 1).sort(1).values
    return breaks


def blended_breaks(
    sample: Tensor, breaks: Tensor, uniform_share: float, margin: float
) -> tuple[Tensor, Tensor]:
    """Breaks between the uniform grid over each feature's data and the quantiles of the data.

    Shapes: sample `(N, C)` with NaN for what is missing, breaks `(C, G + 1)` of the grids so far;
    returns new breaks and which features `(C,)` got them. The grid reaches `margin` times the range
    beyond the data; features without range keep their breaks.
    """
    levels = torch.linspace(0, 1, breaks.shape[1], dtype=sample.dtype, device=sample.device)
    quantiles = sample.nanquantile(levels, dim=0).t()  # (C, G + 1)
    low, high = quantiles[:, :1], quantiles[:, -1:]
    extent = high - low
    moved = (extent > 1e-6 * (1 + torch.maximum(low.abs(), high.abs()))).squeeze(1)
    low, high = low - margin * extent, high + margin * extent
    crowded = torch.cat([low, quantiles[:, 1:-1], high], 1)
    new = uniform_share * (low + (high - low) * levels) + (1 - uniform_share) * crowded
    return torch.where(moved.unsqueeze(1), new, breaks), moved


def common_range(sample: Tensor, breaks: Tensor, margin: float) -> Tensor:
    """Equal breaks `(1, G + 1)` over the data of all features that have any range.

    Shapes: sample `(N, C)`, breaks `(1, G + 1)` so far, which stay if no feature has.
    """
    ranges, moved = blended_breaks(sample, breaks.expand(sample.shape[1], -1), 1.0, margin)
    if not moved.any():
        return breaks
    low, high = ranges[moved, 0].min(), ranges[moved, -1].max()
    levels = torch.linspace(0, 1, breaks.shape[1], dtype=breaks.dtype, device=breaks.device)
    return (low + (high - low) * levels).unsqueeze(0)
