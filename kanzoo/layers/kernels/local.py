"""The few non-zero B-splines at x in plain PyTorch: a cell and a polynomial each."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .dense import EXTRAPOLATIONS

# V: one knot vector for all features, or one for each; P = order + 1; G cells, of which the first
# and the last `outer` lie outside the grid: order many for "zero", else none.


@dataclass(frozen=True)
class Cells:
    """Tables of the cells of every knot vector."""

    grid: Tensor  # (V, G + 1)
    inverse: Tensor  # (V, G), 1 / width
    coefficients: Tensor  # (V, G, P, P): power of the place in the cell, function
    last: Tensor  # (V, 1), last cell that is not empty
    extrapolation: str
    outer: int
    uniform: bool  # all cells have the same polynomials

    def at(self, block: slice) -> "Cells":
        """The tables of a block of features."""
        if self.grid.shape[0] == 1:
            return self
        parts = (self.grid[block], self.inverse[block], self.coefficients[block], self.last[block])
        return Cells(*parts, self.extrapolation, self.outer, self.uniform)


def prepare_cells(knots: Tensor, order: int, extrapolation: str) -> Cells:
    """Cox-de Boor on polynomials in u = (x - left end) / width, for all cells at once."""
    if extrapolation not in EXTRAPOLATIONS:
        raise ValueError(f"extrapolation must be one of {EXTRAPOLATIONS}, got {extrapolation!r}")
    outer = order if extrapolation == "zero" else 0
    t = _go_on(knots, outer).double()
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
    inverse = torch.where(width > 0, 1 / torch.where(width > 0, width, 1.0), 0.0)
    last = ((start < t[:, order + cells, None]).sum(-1, keepdim=True) - 1).clamp(min=0)
    grid = t[:, order : order + cells + 1].to(knots.dtype).contiguous()
    coefficients = torch.stack(functions, -1)
    return Cells(
        grid,
        inverse.to(knots.dtype),
        coefficients.to(knots.dtype),
        last,
        extrapolation,
        outer,
        uniform=is_uniform(t, knots.dtype),
    )


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
    """Places (N, b, P) of the non-zero functions of x (N, b), their values and derivatives."""
    low, high = cells.grid[:, 0], cells.grid[:, -1]
    inside = torch.minimum(torch.maximum(x, low), high)
    outside = inside != x  # also NaN
    extrapolates = bool(outside.any())
    evaluate = _uniform_values if cells.uniform else _general_values
    cell, values, slopes = evaluate(inside, cells, derivative or extrapolates)
    if extrapolates:
        values, slopes = _extrapolate(x, inside, outside, values, slopes, cells.extrapolation)
    if cells.outer:
        cell, values, slopes = _move_in(cell, values, slopes, cells)
    index = cell.unsqueeze(-1) + torch.arange(values.shape[-1], device=x.device)
    return index, values, slopes


def _uniform_values(
    inside: Tensor, cells: Cells, derivative: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """One product of the powers of u with the common coefficients."""
    count = cells.inverse.shape[1]
    low, high = cells.grid[:, 0], cells.grid[:, -1]
    scale = count / (high - low)
    position = (inside - low).mul_(scale)
    floor = position.floor().clamp_(0, count - 1).nan_to_num_(0)
    place = position.sub_(floor)
    table = cells.coefficients[0, 0]  # (P, P)
    order = table.shape[0] - 1
    powers = torch.empty(*inside.shape, order + 1, dtype=inside.dtype, device=inside.device)
    powers[..., 0] = 1
    for power in range(1, order + 1):
        torch.mul(powers[..., power - 1], place, out=powers[..., power])
    flat = powers.flatten(0, 1)
    values = (flat @ table).view(powers.shape)
    slopes = values
    if derivative:
        factors = torch.arange(1, order + 1, dtype=table.dtype, device=table.device).unsqueeze(1)
        steep = torch.cat([table[1:] * factors, torch.zeros_like(table[:1])])
        slopes = (flat @ steep).view(powers.shape).mul_(scale.unsqueeze(-1))
    return floor.to(torch.int64), values, slopes


def _general_values(
    inside: Tensor, cells: Cells, derivative: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Horner's rule with the coefficients of each input's own cell."""
    cell = _find(inside, cells)
    count = cells.inverse.shape[1]
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
    return cell, values, slopes * inverse if derivative else slopes


def _move_in(
    cell: Tensor, values: Tensor, slopes: Tensor, cells: Cells
) -> tuple[Tensor, Tensor, Tensor]:
    """Count cells from the grid's first; outer ones join the nearest, without what is missing."""
    cell = cell - cells.outer
    base = cell.clamp(0, cells.inverse.shape[1] - 2 * cells.outer - 1)
    if torch.equal(cell, base):
        return cell, values, slopes
    count = values.shape[-1]
    source = torch.arange(count, device=cell.device) - (cell - base).unsqueeze(-1)
    missing = (source < 0) | (source >= count)
    source = source.clamp_(0, count - 1)
    values = values.gather(-1, source).masked_fill_(missing, 0)
    return base, values, slopes.gather(-1, source).masked_fill_(missing, 0)


def _extrapolate(
    x: Tensor, inside: Tensor, outside: Tensor, values: Tensor, slopes: Tensor, kind: str
) -> tuple[Tensor, Tensor]:
    away = outside.unsqueeze(-1)
    if kind == "zero":
        values, slopes = values.masked_fill(away, 0), slopes.masked_fill(away, 0)
    elif kind == "clamp":
        slopes = slopes.masked_fill(away, 0)
    elif values.shape[-1] > 1:
        values = torch.where(away, values + slopes * (x - inside).unsqueeze(-1), values)
    nan = x.isnan().unsqueeze(-1)
    return values.masked_fill(nan, torch.nan), slopes.masked_fill(nan, torch.nan)
