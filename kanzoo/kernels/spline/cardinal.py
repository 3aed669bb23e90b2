"""B-splines on equal intervals in elementwise operations: no cells, no gathers, no scatters.

Every function is the same even bell B of u, the distance from its middle in intervals. With the
half width h = (n + 1) / 2 at order n, and (t)_+ = max(t, 0),

    n! B(u) = sum_j (-1)^j binom(n + 1, j) (h - j - |u|)_+^n,    j = 0 .. h,

half of the truncated powers of Schoenberg's formula, so that little cancels. Distances are scaled
by (1 / n!)^(1 / n), which takes the factorial into the powers.

Axes: V knot vectors, 1 or as many as features; m functions, n rows, b features of a block.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kanzoo.kernels.native.scratch import scratch
from kanzoo.kernels.spline.local import is_uniform


@dataclass(frozen=True)
class Cardinal:
    """Functions on equal intervals, in scaled distances."""

    count: int  # functions
    order: int  # at least 2: the slope of lower ones jumps at the knots
    extrapolation: str
    start: Tensor  # (V,), the first knot
    scale: Tensor  # (V,), scaled distances per unit of x
    low: Tensor  # (V,), ends of the grid
    high: Tensor
    unit: float  # scaled length of an interval

    @property
    def half(self) -> float:
        return (self.order + 1) / 2 * self.unit

    @property
    def weights(self) -> list[int]:
        """Weight of each truncated power; the first is 1."""
        return [
            (-1) ** j * math.comb(self.order + 1, j)
            for j in range(self.order + 1)
            if 2 * j < self.order + 1
        ]


def prepare_cardinal(knots: Tensor, order: int, extrapolation: str) -> Cardinal | None:
    """The functions of knots (V, G + 2 order + 1), None unless these are equidistant."""
    if order < 2 or not is_uniform(knots.double(), knots.dtype):
        return None
    unit = math.factorial(order) ** (-1 / order)
    scale = unit * (knots.shape[1] - 1) / (knots[:, -1] - knots[:, 0])
    ends = (knots[:, order], knots[:, knots.shape[1] - order - 1])
    count = knots.shape[1] - order - 1
    return Cardinal(count, order, extrapolation, knots[:, 0], scale, *ends, unit)


@dataclass(frozen=True)
class Places:
    """Where a block of inputs lies: scaled distances (n, b) from the first knot."""

    inside: Tensor  # moved into the grid unless the functions go on outside
    beyond: Tensor | None  # what was cut off, for "linear" where anything was
    moving: Tensor | None  # where the functions follow x, None for everywhere


def place(x: Tensor, spline: Cardinal) -> Places:
    """Places of a block of inputs (n, b)."""
    if spline.extrapolation == "zero":
        return Places((x - spline.start).mul_(spline.scale), None, None)
    inside = torch.minimum(torch.maximum(x, spline.low), spline.high)
    moving = inside == x
    position = (inside - spline.start).mul_(spline.scale)
    if bool(moving.all()):
        return Places(position, None, None)
    if spline.extrapolation == "clamp":
        return Places(position, None, moving)
    return Places(position, (x - inside).mul_(spline.scale), None)


class Workspace:
    """Five buffers of so many numbers, used again from block to block."""

    def __init__(self, like: Tensor, size: int) -> None:
        self.memory = scratch("workspace", like, 5, size)

    def get(self, index: int, *shape: int) -> Tensor:
        """A contiguous buffer of that shape."""
        return self.memory[index, : math.prod(shape)].view(shape)


def _power(base: Tensor, exponent: int, out: Tensor) -> Tensor:
    """base^exponent by products; ``torch.pow`` is slow above 3."""
    if exponent <= 3:
        return torch.pow(base, exponent, out=out)
    torch.square(base, out=out)
    out.square_()
    return out if exponent == 4 else out.mul_(base)


def _shrink(remains: Tensor, by: float) -> None:
    """(t - by)_+ for t >= 0, in place and in one pass."""
    torch._C._nn.softshrink(remains, by, out=remains)  # type: ignore[call-arg]


def expand(
    places: Places,
    spline: Cardinal,
    functions: range,
    work: Workspace,
    slopes: bool,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Values of some functions, and slopes per scaled distance if wanted.

    Both are (n, m, b), values in ``out`` if given; else they are buffers of the workspace, valid
    until the next call. Its second and third buffers are free again.
    """
    rows, columns = places.inside.shape
    size = (rows, len(functions), columns)
    inside = places.inside.unsqueeze(1)
    slopes = slopes or places.beyond is not None
    value = work.get(0, *size) if out is None else out
    remains, power = work.get(1, *size), work.get(2, *size)
    middles = torch.arange(functions.start, functions.stop, dtype=value.dtype, device=value.device)
    middles = middles.mul_(spline.unit).add_(spline.half)
    middles = middles.view(-1, 1)
    half = value.new_tensor(spline.half)
    weights, order = spline.weights, spline.order
    before = torch.sub(middles, inside, out=work.get(4, *size))
    torch.sub(half, torch.abs(before, out=remains), out=remains).clamp_min_(0)
    if not slopes:
        _power(remains, order, value)
        for weight in weights[1:]:
            _shrink(remains, spline.unit)
            value.add_(_power(remains, order, power), alpha=weight)
        return value, None
    slope = work.get(3, *size)
    _power(remains, order - 1, slope)
    torch.mul(slope, remains, out=value)
    for weight in weights[1:]:
        _shrink(remains, spline.unit)
        _power(remains, order - 1, power)
        value.addcmul_(power, remains, value=weight)
        slope.add_(power, alpha=weight)
    slope.mul_(order)
    torch.copysign(slope, before, out=slope)  # the bell rises left of its middle
    if places.beyond is not None:
        value.addcmul_(slope, places.beyond.unsqueeze(1))
    return value, slope
