"""The few non-zero B-splines at x in plain PyTorch: a cell and a polynomial each."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from kanzoo.bases.knots import EXTRAPOLATIONS
from kanzoo.kernels.native.scratch import scratch

# V: one knot vector for all features, or one for each; P = order + 1; G cells, of which the first
# and the last `outer` lie outside the grid: order many for "zero", else none.


@dataclass(frozen=True)
class Cells:
    """Tables of the cells of every knot vector."""

    grid: Tensor  # (V, G + 1)
    inverse: Tensor  # (V, G), 1 / width
    coefficients: Tensor  # (V, G, P, P): power of the place in the cell, function; uniform: (P, P)
    last: Tensor  # (V, 1), last cell that is not empty
    extrapolation: str
    outer: int
    uniform: bool  # all cells have the same polynomials

    @property
    def count(self) -> int:
        """G."""
        return self.grid.shape[1] - 1

    def at(self, block: slice) -> "Cells":
        """The tables of a block of features."""
        if self.grid.shape[0] == 1:
            return self
        coefficients = self.coefficients if self.uniform else self.coefficients[block]
        parts = (self.grid[block], self.inverse[block], coefficients, self.last[block])
        return Cells(*parts, self.extrapolation, self.outer, self.uniform)


def prepare_cells(knots: Tensor, order: int, extrapolation: str) -> Cells:
    """Cox-de Boor on polynomials in u = (x - left end) / width, for all cells at once."""
    if extrapolation not in EXTRAPOLATIONS:
        raise ValueError(f"extrapolation must be one of {EXTRAPOLATIONS}, got {extrapolation!r}")
    outer = order if extrapolation == "zero" else 0
    t = _go_on(knots, outer)
    cells = t.shape[1] - 2 * order - 1
    grid = t[:, order : order + cells + 1].contiguous()
    if is_uniform(t, knots.dtype):
        table = _uniform_table(order, knots.dtype, knots.device)
        return Cells(grid, grid[:, :0], table, grid[:, :0], extrapolation, outer, uniform=True)
    t = t.double()
    start, width = grid[:, :-1].double(), t.diff(dim=1)[:, order : order + cells]
    inverse = torch.where(width > 0, 1 / torch.where(width > 0, width, 1.0), 0.0)
    last = ((start < grid[:, -1:]).sum(-1, keepdim=True) - 1).clamp(min=0)
    tables = (inverse.to(knots.dtype), _polynomials(t, order).to(knots.dtype), last)
    return Cells(grid, *tables, extrapolation, outer, uniform=False)


@lru_cache(maxsize=32)
def _uniform_table(order: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The polynomials (P, P) of every cell of equidistant knots."""
    knots = torch.arange(2.0 * order + 2, dtype=torch.float64)[None]
    return _polynomials(knots, order)[0, 0].to(device, dtype)


def _polynomials(t: Tensor, order: int) -> Tensor:
    """Coefficients (V, G, P, P) of the non-zero functions of every cell between knots t."""
    cells = t.shape[1] - 2 * order - 1
    start = t[:, order : order + cells]
    width = t[:, order + 1 : order + 1 + cells] - start
    functions = [torch.zeros(*start.shape, order + 1, dtype=t.dtype, device=t.device)]
    functions[0][..., 0] = 1

    def times(p: Tensor, constant: Tensor, slope: Tensor) -> Tensor:
        shifted = torch.cat([torch.zeros_like(p[..., :1]), p[..., :-1]], -1)
        return p * constant.unsqueeze(-1) + shifted * slope.unsqueeze(-1)

    for degree in range(1, order + 1):
        raised = [torch.zeros_like(functions[0]) for _ in range(degree + 1)]
        for j, function in enumerate(functions):
            right = t[:, order + j + 1 : order + j + 1 + cells] - start
            first = order + 1 - degree + j
            left = start - t[:, first : first + cells]
            total = torch.where(width > 0, left + right, 1.0)
            scaled = function / total.unsqueeze(-1)
            raised[j] = raised[j] + times(scaled, right, -width)
            raised[j + 1] = raised[j + 1] + times(scaled, left, width)
        functions = raised
    return torch.stack(functions, -1)


def _go_on(knots: Tensor, count: int) -> Tensor:
    """Continue knots (V, n) by ``count`` at both ends; no function of theirs notices."""
    steps = torch.arange(1, count + 1, dtype=knots.dtype, device=knots.device)
    before = knots[:, :1] - (knots[:, 1:2] - knots[:, :1]) * steps.flip(0)
    after = knots[:, -1:] + (knots[:, -1:] - knots[:, -2:-1]) * steps
    return torch.cat([before, knots, after], 1)


def is_uniform(knots: Tensor, dtype: torch.dtype) -> bool:
    """Whether knots (V, n) are equidistant up to the rounding of ``dtype``."""
    widths = knots.diff(dim=1)
    mean = widths.mean(1, keepdim=True)
    rounding = 4 * torch.finfo(dtype).eps * knots.abs().amax()
    return bool((mean > 0).all()) and bool(((widths - mean).abs() <= rounding).all())


def _find(x: Tensor, cells: Cells) -> Tensor:
    """Cell of every (N, b) input that lies in the grid."""
    inner = cells.grid[:, 1:-1].contiguous()
    if inner.shape[0] == 1:
        found = torch.bucketize(x, inner[0], right=True)
        return torch.minimum(found, cells.last[0])
    found = torch.searchsorted(inner, x.t().contiguous(), right=True).t()
    return torch.minimum(found, cells.last[:, 0])


def spline_values(x: Tensor, cells: Cells, derivative: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Places (P, N, b) of the non-zero functions of x (N, b), their values and derivatives.

    All may be memory that the next call uses again.
    """
    low, high = cells.grid[:, 0], cells.grid[:, -1]
    inside = torch.maximum(x, low, out=scratch("inside", x, *x.shape))
    torch.minimum(inside, high, out=inside)
    outside = None
    if x.numel() and not _all_within(x, low, high):
        outside = torch.ne(inside, x, out=scratch("outside", x, *x.shape, dtype=torch.bool))
    extrapolates = outside is not None
    evaluate = _uniform_values if cells.uniform else _general_values
    cell, values, slopes = evaluate(inside, cells, derivative or extrapolates)
    if outside is not None:
        _extrapolate(x, outside, values, slopes, cells)
    if cells.outer:
        _move_in(cell, values, slopes, cells)
    index = scratch("index", x, *values.shape, dtype=torch.int64)
    index.copy_(cell)
    index += torch.arange(len(values), device=x.device).view(-1, 1, 1)
    return index, values, slopes


def _all_within(x: Tensor, low: Tensor, high: Tensor) -> bool:
    """Whether no input is outside any grid, or NaN."""
    least, most = x.aminmax()
    return bool((least >= low.max()) & (most <= high.min()))


def _uniform_values(
    inside: Tensor, cells: Cells, derivative: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """One product of the common coefficients with the powers of u."""
    low, high = cells.grid[:, 0], cells.grid[:, -1]
    scale = cells.count / (high - low)
    position = inside.sub_(low).mul_(scale)
    floor = torch.floor(position, out=scratch("cell", inside, *inside.shape))
    floor.clamp_(0, cells.count - 1).nan_to_num_(0)
    table = cells.coefficients
    order = table.shape[0] - 1
    powers = scratch("powers", inside, order + 1, *inside.shape)
    powers[0] = 1
    if order:
        torch.sub(position, floor, out=powers[1])
    for power in range(2, order + 1):
        torch.mul(powers[power - 1], powers[1], out=powers[power])
    values = slopes = scratch("values", inside, *powers.shape)
    torch.mm(table.t(), powers.flatten(1), out=values.flatten(1))
    if derivative:
        factors = torch.arange(1, order + 1, dtype=table.dtype, device=table.device).unsqueeze(1)
        steep = (table[1:] * factors).t()
        if len(scale) == 1:
            steep = steep * scale
        slopes = scratch("slopes", inside, *powers.shape)
        torch.mm(steep, powers[:order].flatten(1), out=slopes.flatten(1))
        if len(scale) > 1:
            slopes *= scale
    return floor, values, slopes


def _general_values(
    inside: Tensor, cells: Cells, derivative: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Horner's rule with the coefficients of each input's own cell."""
    cell = _find(inside, cells)
    count = cells.count
    shared = cells.grid.shape[0] == 1
    row = cell if shared else cell + torch.arange(inside.shape[1], device=cell.device) * count
    start = cells.grid[:, :-1].reshape(-1)[row]
    inverse = cells.inverse.reshape(-1)[row].unsqueeze(-1)
    place = (inside - start).unsqueeze(-1) * inverse  # (N, b, 1)
    order = cells.coefficients.shape[2] - 1
    table = cells.coefficients.flatten(0, 1).flatten(1)[row.reshape(-1)]  # (N b, P P)
    table = table.view(*inside.shape, order + 1, order + 1)
    values, slopes = table[..., order, :], torch.zeros_like(table[..., order, :])
    for power in range(order - 1, -1, -1):
        if derivative:
            slopes = torch.addcmul(values, slopes, place)
        values = torch.addcmul(table[..., power, :], values, place)
    values = values.movedim(-1, 0).contiguous()
    return cell, values, (slopes * inverse).movedim(-1, 0).contiguous() if derivative else values


def _move_in(cell: Tensor, values: Tensor, slopes: Tensor, cells: Cells) -> None:
    """Count cells from the grid's first; outer ones join the nearest, without what is missing."""
    first, last = cells.outer, cells.count - 1 - cells.outer
    base = torch.clamp(cell, first, last, out=scratch("inside", cell, *cell.shape))
    outer = torch.ne(base, cell, out=scratch("outside", cell, *cell.shape, dtype=torch.bool))
    moved = outer.flatten().nonzero()[:, 0]
    if len(moved):
        places = torch.arange(len(values), device=cell.device).unsqueeze(1)
        own = cell.flatten()[moved].to(torch.int64)
        source = places - own + own.clamp(first, last)
        missing = (source < 0) | (source >= len(values))
        source.clamp_(0, len(values) - 1)
        for slab in {id(t): t.flatten(1) for t in (values, slopes)}.values():
            slab[:, moved] = slab[:, moved].gather(0, source).masked_fill_(missing, 0)
    torch.sub(base, first, out=cell)


def _extrapolate(x: Tensor, outside: Tensor, values: Tensor, slopes: Tensor, cells: Cells) -> None:
    """What differs outside, in place."""
    away = outside.flatten().nonzero()[:, 0]
    feature = away % x.shape[1] if cells.grid.shape[0] > 1 else torch.zeros_like(away)
    points = x.flatten()[away]
    ends = torch.minimum(
        torch.maximum(points, cells.grid[:, 0][feature]), cells.grid[:, -1][feature]
    )
    beyond = points - ends  # NaN for NaN
    flat, steep = values.flatten(1), slopes.flatten(1)
    value, slope = flat[:, away], steep[:, away]
    if cells.extrapolation == "zero":
        value, slope = torch.zeros_like(value), torch.zeros_like(slope)
    elif cells.extrapolation == "clamp":
        slope = torch.zeros_like(slope)
    elif len(values) > 1:
        value = value + slope * beyond
    nan = beyond.isnan()
    flat[:, away], steep[:, away] = (t.masked_fill(nan, torch.nan) for t in (value, slope))
