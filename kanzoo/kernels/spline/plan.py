"""B-splines for ``function_conv`` where there is no compiler.

Only the functions that are not zero are computed.

Axes: n rows and c columns of inputs, K functions, P of them not zero, T = K or K + 1 with the
residual branch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kanzoo.kernels.native.scratch import scratch
from kanzoo.kernels.spline.local import Cells, prepare_cells, spline_values

INPUTS = 2**18  # at a time where functions are scattered
Elementwise = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class SplinePlan:
    """A spline, what its inputs go through first and the residual branch beside it."""

    cells: Cells
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
        return cls(prepare_cells(*grid), count, squash, residual)

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
        self._scatter(seen.detach(), values, taken, grad_x)
        if taken is None or grad_x is None:
            return
        if self.plan.squash is not None:
            grad_x.copy_(torch.autograd.grad(seen, leaf, grad_x)[0])
        if rest is not None:
            grad_x += torch.autograd.grad(rest, leaf, taken[:, -1].contiguous())[0]

    def _scatter(
        self, x: Tensor, values: Tensor | None, back: Tensor | None, grad_x: Tensor | None
    ) -> None:
        """Values and gradients (n, T, c) without the residual branch, some rows at a time."""
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
