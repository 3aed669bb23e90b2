"""B-splines for ``function_conv`` where there is no compiler.

Few functions on equal intervals are computed everywhere, of others those that are not zero.

Axes: n rows and c columns of inputs, K functions, P of them not zero, T = K or K + 1 with the
residual branch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kanzoo.kernels.native.scratch import scratch
from kanzoo.kernels.spline.cardinal import Cardinal, Workspace, expand, place, prepare_cardinal
from kanzoo.kernels.spline.local import Cells, prepare_cells, spline_values

CHUNK = 2**18  # numbers of a buffer
INPUTS = 2**18  # at a time where functions are scattered
FEW = 12  # functions: up to here computing them all is faster
Elementwise = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class SplinePlan:
    """A spline, what its inputs go through first and the residual branch beside it."""

    cells: Cells
    spline: Cardinal | None  # where all functions are computed
    count: int  # K
    squash: Elementwise | None
    residual: Elementwise | None

    @classmethod
    def of(
        cls,
        knots: Tensor,
        order: int,
        extrapolation: str,
        squash: Elementwise | None,
        residual: Elementwise | None,
    ) -> "SplinePlan":
        """For knots (1 or C, G + 2 order + 1)."""
        grid, count = (knots, order, extrapolation), knots.shape[1] - order - 1
        spline = prepare_cardinal(*grid) if count <= FEW else None
        return cls(prepare_cells(*grid), spline, count, squash, residual)

    def prepare(self, x: Tensor, trained: bool) -> "SplineFunctions":
        """The functions of one call."""
        return SplineFunctions(self, x)


class SplineFunctions:
    """As ``functions.Functions``, in PyTorch's operations."""

    trained = False

    def __init__(self, plan: SplinePlan, x: Tensor) -> None:
        self.plan = plan
        self.count = plan.count
        self.total = self.count + (plan.residual is not None)
        self.each = self.last = plan.cells.grid.shape[0] > 1  # channels with knots of their own
        self.work: Workspace | None = None

    def run(
        self,
        x: Tensor,
        out: Tensor | None,
        strides: tuple[int, int],
        block: slice,
        back: Tensor | None = None,
        grad_x: Tensor | None = None,
        *,
        inner: int = 0,
    ) -> None:
        """Functions of the rows of x (n, c) and gradients, laid out as in ``Functions.run``."""
        leaf = x.detach().requires_grad_(back is not None)
        with torch.enable_grad():
            seen = leaf if self.plan.squash is None else self.plan.squash(leaf)
            rest = None if self.plan.residual is None else self.plan.residual(leaf)
        shape = (len(x), self.total, x.shape[1])
        places = (strides[1], strides[0], 1)
        values = None if out is None else out.as_strided(shape, places)
        taken = None if back is None else back.view(-1).as_strided(shape, places)
        if values is not None and rest is not None:
            values[:, -1] = rest.detach()
        compute = self._scatter if self.plan.spline is None else self._expand
        compute(seen.detach(), values, taken, grad_x)
        if taken is None or grad_x is None:
            return
        if self.plan.squash is not None:
            grad_x.copy_(torch.autograd.grad(seen, leaf, grad_x)[0])
        if rest is not None:
            grad_x += torch.autograd.grad(rest, leaf, taken[:, -1].contiguous())[0]

    def _expand(
        self, x: Tensor, values: Tensor | None, back: Tensor | None, grad_x: Tensor | None
    ) -> None:
        """Values and gradients (n, T, c) without the residual branch, some rows at a time."""
        rows, columns = x.shape
        high = max(min(CHUNK // max(self.count * columns, 1), rows), 1)
        if self.work is None or self.work.memory.shape[1] < high * self.count * columns:
            self.work = Workspace(x, high * self.count * columns)
        functions, spline = range(self.count), self.plan.spline
        assert spline is not None
        for n in range(0, rows, high):
            part = slice(n, min(n + high, rows))
            out = None if values is None else values[part, : self.count]
            places = place(x[part], spline)
            steep = back is not None and grad_x is not None
            _, slopes = expand(places, spline, functions, self.work, steep, out)
            if back is None or grad_x is None or slopes is None:
                continue
            total = grad_x[part]
            torch.sum(slopes.mul_(back[part, : self.count]), 1, out=total)
            total *= spline.scale
            if places.moving is not None:
                total.masked_fill_(~places.moving & ~places.inside.isnan(), 0)

    def _scatter(
        self, x: Tensor, values: Tensor | None, back: Tensor | None, grad_x: Tensor | None
    ) -> None:
        """The same by the functions that are not zero."""
        high = max(INPUTS // x.shape[1], 1)
        for n in range(0, len(x), high):
            part = slice(n, n + high)
            steep = back is not None and grad_x is not None
            index, found, slopes = spline_values(x[part], self.plan.cells, steep)  # (P, n, c)
            places = index.movedim(0, 1)
            if values is not None:
                values[part, : self.count].zero_().scatter_(1, places, found.movedim(0, 1))
            if back is not None and grad_x is not None:
                taken = scratch("taken", x, *slopes.shape)
                torch.gather(back[part, : self.count], 1, places, out=taken.movedim(0, 1))
                torch.sum(taken.mul_(slopes), 0, out=grad_x[part])

    def parameter_gradients(self, parameters: Sequence[Tensor]) -> list[Tensor | None]:
        """Those of parameters that nothing depends on."""
        return [torch.zeros_like(p) if p.requires_grad else None for p in parameters]
