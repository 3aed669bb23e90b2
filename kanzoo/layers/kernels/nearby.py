"""The order + 1 B-splines on equal intervals that are not zero at x, in plain PyTorch.

Every input has a cell and its place u in it, where the functions are the same polynomials for all.
Their values are scattered among zeros and gradients gathered from the same places: work that does
not grow with the grid. The few inputs outside the grid get all functions by ``cardinal``.

Axes: n rows, c channels of a block, K functions, P = order + 1 that are not zero.
"""

import functools
import math

import torch
from torch import Tensor

from .cardinal import Cardinal, Workspace, expand, place, power_of

CHUNK = 2**15  # inputs at a time, at most: their buffers stay in the cache,
REACH = 2**18  # and so do that many numbers of the matrix
SHIFT = 272


@functools.cache
def polynomials(order: int) -> list[list[float]]:
    """Coefficients of u^0, u^1, .. of the functions that are not zero on a cell (Cox, de Boor)."""
    functions = [[1.0]]
    for degree in range(1, order + 1):
        raised = [[0.0] * (degree + 1) for _ in range(degree + 1)]
        for j, function in enumerate(functions):
            for power, number in enumerate(function):
                raised[j][power] += (j + 1) * number / degree
                raised[j][power + 1] -= number / degree
                raised[j + 1][power] += (degree - 1 - j) * number / degree
                raised[j + 1][power + 1] += number / degree
        functions = raised
    return functions


def _horner(coefficients: list[float], u: Tensor, out: Tensor) -> Tensor:
    torch.mul(u, coefficients[-1], out=out)
    for number in coefficients[-2:0:-1]:
        out.add_(number).mul_(u)
    return out.add_(coefficients[0])


def _evaluate(u: Tensor, rest: Tensor, order: int, out: list[Tensor]) -> None:
    """The functions at u, rest = 1 - u; the last in the middle is what lacks to a sum of 1."""
    power_of(rest, order, out[0]).mul_(1 / math.factorial(order))
    power_of(u, order, out[order]).mul_(1 / math.factorial(order))
    for j in range(1, order - 1):
        _horner(polynomials(order)[j], u, out[j])
    last = torch.add(out[0], out[order], out=out[order - 1])
    for j in range(1, order - 1):
        last.add_(out[j])
    last.neg_().add_(1)


def _differentiate(u: Tensor, rest: Tensor, order: int, out: list[Tensor]) -> None:
    """Their slopes per interval; they add up to 0."""
    power_of(rest, order - 1, out[0]).mul_(-1 / math.factorial(order - 1))
    power_of(u, order - 1, out[order]).mul_(1 / math.factorial(order - 1))
    for j in range(1, order - 1):
        steep = [power * number for power, number in enumerate(polynomials(order)[j])]
        _horner(steep[1:], u, out[j])
    last = torch.add(out[0], out[order], out=out[order - 1])
    for j in range(1, order - 1):
        last.add_(out[j])
    last.neg_()


class Nearby:
    """A spline and the buffers of one call."""

    def __init__(self, spline: Cardinal, like: Tensor) -> None:
        self.spline = spline
        self.order, self.cells = spline.order, spline.count - spline.order
        self.steps = spline.scale / spline.unit  # intervals per unit of x
        self.buffers = like.new_empty(2 * self.order + 6, 0)
        self.offsets = torch.empty(0, dtype=torch.long, device=like.device)

    def run(
        self,
        x: Tensor,
        out: Tensor | None,
        strides: tuple[int, int, int],
        back: Tensor | None = None,
        grad_x: Tensor | None = None,
        block: slice | None = None,
    ) -> None:
        """Write the functions of x (n, c) into ``out``, take ``back`` through them to grad_x.

        Function k of channel c in row n is number k strides[0] + n strides[1] + c strides[2] of the
        flat ``out``, zero so far, and of the flat ``back``. ``block``: the channels, of all.
        """
        rows, channels = x.shape
        fit = min(CHUNK, REACH // (self.spline.count + 1))
        high = max(min(fit // max(channels, 1), rows), 1)
        self._place(high, channels, strides, x)
        spline, steps = self.spline, self.steps
        if block is not None and steps.shape[0] > 1:
            spline, steps = spline.at(block), steps[block]
        outside = []
        for n in range(0, rows, high):
            part, start = x[n : n + high], n * strides[1]
            given = None if out is None else out[start:]
            taken = None if back is None or grad_x is None else back[start:]
            into = None if grad_x is None else grad_x[n : n + high]
            found = self._chunk(part, spline.low, steps, strides, given, taken, into)
            outside.append(found.add_(n * channels))
        every = torch.cat(outside) if outside else self.offsets[:0]
        if every.numel():
            self._outside(spline, x, every, strides, out, back, grad_x)

    def _place(self, high: int, channels: int, strides: tuple[int, int, int], x: Tensor) -> None:
        if self.buffers.shape[1] < high * channels:
            # Not a power of two apart: what is read and written would meet in the cache.
            self.buffers = x.new_empty(len(self.buffers), high * channels + SHIFT)
        rows = torch.arange(high, device=x.device).mul_(strides[1])
        columns = torch.arange(channels, device=x.device).mul_(strides[2])
        self.offsets = (rows.unsqueeze(1) + columns).flatten()

    def _chunk(
        self,
        x: Tensor,
        low: Tensor,
        steps: Tensor,
        strides: tuple[int, int, int],
        out: Tensor | None,
        back: Tensor | None,
        grad_x: Tensor | None,
    ) -> Tensor:
        """Numbers of the flat x that lie outside the grid and got what is at its ends."""
        size, order = x.numel(), self.order
        position, u, rest, cell, *tables = self.buffers[:, :size]
        values, slopes = tables[: order + 1], tables[order + 1 :]
        shape = x.shape
        torch.sub(x, low, out=position.view(shape))
        position.view(shape).mul_(steps)
        torch.clamp(position, 0, self.cells, out=u)
        outside = (u != position).nonzero().squeeze(1)  # NaN too
        u.nan_to_num_(0.0)
        torch.floor(u, out=cell).clamp_max_(self.cells - 1)
        u.sub_(cell)
        index = cell.long()
        index = index.mul_(strides[0]) if strides[0] != 1 else index
        index.add_(self.offsets[:size])
        torch.sub(u.new_ones(()), u, out=rest)
        if out is not None:
            _evaluate(u, rest, order, values)
            for j, value in enumerate(values):
                out[j * strides[0] :].scatter_(0, index, value)
        if back is not None:
            _differentiate(u, rest, order, slopes)
            total = position.zero_()
            for j, slope in enumerate(slopes):
                torch.index_select(back[j * strides[0] :], 0, index, out=rest)
                total.addcmul_(rest, slope)
            assert grad_x is not None
            torch.mul(total.view(shape), steps, out=grad_x)
        return outside

    def _outside(
        self,
        spline: Cardinal,
        x: Tensor,
        outside: Tensor,
        strides: tuple[int, int, int],
        out: Tensor | None,
        back: Tensor | None,
        grad_x: Tensor | None,
    ) -> None:
        """All functions of some inputs, numbers ``outside`` of the flat x."""
        channels = x.shape[1]
        row, column = outside // channels, outside % channels
        if spline.start.shape[0] > 1:
            spline = spline.at(column)
        points = x[row, column]
        places = place(points, spline)
        count = spline.count
        work = Workspace(x, count * len(points))
        values, slopes = expand(places, spline, range(count), work, back is not None, axis=1)
        index = (row * strides[1] + column * strides[2]).unsqueeze(1)
        index = index + torch.arange(count, device=x.device) * strides[0]
        if out is not None:
            out[index] = values
        if back is not None and grad_x is not None and slopes is not None:
            total = (back[index] * slopes).sum(1) * spline.scale
            if places.moving is not None:
                total.masked_fill_(~places.moving & ~places.inside.isnan(), 0)
            grad_x[row, column] = total
