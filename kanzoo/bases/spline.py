"""B-splines on uniform grids and on grids of their own for every feature.

Axes: C features, K = grid_size + spline_order functions, M = K + spline_order + 1 knots.
"""

from typing import Any

import torch
from torch import Tensor

from kanzoo.bases.base import GridBasis, Splines
from kanzoo.bases.knots import (
    EXTRAPOLATIONS,
    blended_breaks,
    common_range,
    end_slopes,
    extend,
    spline_values,
    split_cells,
    uniform_grid,
)
from kanzoo.checks import check_name, check_whole

GRIDS = ("uniform", "adaptive")
FAR = 1e6  # of ends of a range, whose cells single precision still tells apart
MAX_ORDER = 30  # of splines that a recursion over the order computes in sensible time


class BSpline(GridBasis):
    """B-splines of degree `spline_order` (KAN, 2404.19756, eq. 2.10; Cox-de Boor recursion).

    `grid_size` intervals cover `grid_range`; the knots go on for `spline_order` intervals on
    both sides, so that inside the range the K = grid_size + spline_order functions add up to one.
    `grid` is "uniform": one grid of equal intervals for all features, knots `(M,)`; or "adaptive":
    one for each, equal at the start and fitted to data later, knots `(C, M)`.

    Outside the range, `extrapolation` decides: "zero" leaves every function as it is, which decays
    to zero over the outer knots; "clamp" takes the value at the nearer end; "linear" continues the
    tangent there, so that gradients survive.
    """

    rising = "ordered"  # the derivative's coefficients are differences of neighbours
    knots: Tensor
    end_slopes: Tensor

    def __init__(
        self,
        in_features: int,
        *,
        grid_size: int = 5,
        spline_order: int = 3,
        grid_range: tuple[float, float] = (-3.0, 3.0),
        extrapolation: str = "zero",
        grid: str = "uniform",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_whole("grid_size", grid_size, 1)
        check_whole("spline_order", spline_order, 0, MAX_ORDER)
        low, high = check_range(grid_range)
        check_name("extrapolation", extrapolation, EXTRAPOLATIONS)
        check_name("grid", grid, GRIDS)
        super().__init__(in_features, grid_size + spline_order)
        self.grid_size = grid_size
        self.spline_order = spline_order
        self.extrapolation = extrapolation
        self.grid = grid
        knots, slopes = uniform_grid(grid_size, spline_order, low, high)
        if grid == "adaptive":
            knots = knots.expand(in_features, -1)
            slopes = slopes.unsqueeze(-1).expand(-1, -1, in_features)
        dtype = dtype or torch.get_default_dtype()
        device = device or torch.get_default_device()
        self.register_buffer("knots", knots.to(device, dtype, copy=True))  # not the cached one
        self.register_buffer("end_slopes", slopes.to(device, dtype, copy=True))
        self._remember(knots)

    def forward(self, x: Tensor) -> Tensor:
        return self.on_features(x, slice(None))

    def on_features(self, x: Tensor, block: slice) -> Tensor:
        knots, slopes = self.knots.to(x.dtype), self.end_slopes
        if self.grid == "adaptive":
            knots, slopes = knots[block], slopes[..., block]
        return spline_values(x, knots, self.spline_order, self.extrapolation, slopes)

    def splines(self) -> Splines:
        return Splines(self.knots, self.spline_order, self.extrapolation)

    @property
    def num_nonzero(self) -> int:
        return min(self.spline_order + 1, self.num_functions)

    @property
    def flops(self) -> int:
        degrees = range(1, self.spline_order + 1)
        if self.grid == "uniform":
            local = 6 + sum(6 * degree for degree in degrees)
        else:
            local = 2 + 2 * self.spline_order + sum(5 * degree - 1 for degree in degrees)
        outside = {"zero": 0, "clamp": 2, "linear": 3 + 2 * self.num_functions}
        return local + outside[self.extrapolation]

    def breaks(self) -> Tensor:
        """Ends of the grid's intervals, float64 on the CPU: `(C, G + 1)`, or `(1, G + 1)`."""
        knots = self.knots.detach().cpu().double()
        knots = knots.unsqueeze(0) if knots.dim() == 1 else knots
        return knots[:, self.spline_order : knots.shape[1] - self.spline_order]

    def set_breaks(self, breaks: Tensor) -> None:
        """Take the grid of these breaks, shaped as `breaks()`, of any grid size."""
        if not (breaks.diff(dim=1) > 0).all():
            raise ValueError("the breaks of a grid must increase")
        knots = extend(breaks, self.spline_order)
        slopes = end_slopes(knots, self.spline_order)
        if self.grid == "uniform":
            knots, slopes = knots.squeeze(0), slopes.squeeze(-1)
        self.grid_size = breaks.shape[1] - 1
        self.num_functions = self.grid_size + self.spline_order
        self.knots = knots.to(self.knots)
        self.end_slopes = slopes.to(self.end_slopes)
        self._remember(knots)

    def _remember(self, knots: Tensor) -> None:
        """Keep what the knots are a rounding of: even ones as they should be, others as stored."""
        self._exact = knots if self.grid == "uniform" else knots.to(self.knots.dtype).double()

    def exact_buffers(self, stored: dict[str, Tensor]) -> dict[str, Tensor]:
        rounded, knots = stored["knots"].detach().cpu(), self._exact
        if knots.shape != rounded.shape or not torch.equal(knots.to(rounded.dtype), rounded):
            knots, order = rounded.double(), self.spline_order  # loaded, or set by hand
            if self.grid == "uniform":
                ends = (float(end) for end in knots[[order, -1 - order]])
                knots = uniform_grid(self.grid_size, order, *ends)[0]
        flat = self.grid == "uniform"
        slopes = end_slopes(knots.unsqueeze(0) if flat else knots, self.spline_order)
        return {"knots": knots, "end_slopes": slopes.squeeze(-1) if flat else slopes}

    def fit_grid(self, sample: Tensor, uniform_share: float, margin: float) -> None:
        breaks = self.breaks()
        if self.grid == "adaptive":
            self.set_breaks(blended_breaks(sample, breaks, uniform_share, margin)[0])
        else:
            self.set_breaks(common_range(sample, breaks, margin))

    def resize_grid(self, grid_size: int) -> None:
        check_whole("grid_size", grid_size, 1)
        breaks = self.breaks()
        if self.grid == "adaptive":
            self.set_breaks(split_cells(breaks, grid_size))
        else:
            levels = torch.linspace(0, 1, grid_size + 1, dtype=torch.float64, device="cpu")
            self.set_breaks(breaks[:, :1] + (breaks[:, -1:] - breaks[:, :1]) * levels)

    def size_with(self, num_functions: int) -> int:
        return num_functions - self.spline_order

    def grid_ends(self) -> Tensor:
        return self.breaks()[:, [0, -1]].t()

    def rising_range(self) -> tuple[float, float]:
        if self.extrapolation != "zero":
            return super().rising_range()
        low, high = self.grid_ends()
        return float(low.max()), float(high.min())

    def grid_points(self) -> Tensor:
        """Points that determine a function: degree + 2 in every cell, outer ones too, `(P, C)`."""
        knots = extend(self.breaks(), self.spline_order).expand(self.in_features, -1)
        count = self.spline_order + 2
        inner = (torch.arange(count, dtype=torch.float64, device="cpu") + 0.5) / count
        points = knots[:, :-1, None] + knots.diff(dim=1)[..., None] * inner
        return points.flatten(1).t()

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        knots = state_dict.get(f"{prefix}knots")
        if knots is not None and knots.dim() == self.knots.dim():
            grid_size = knots.shape[-1] - 2 * self.spline_order - 1
            if grid_size >= 1 and grid_size != self.grid_size:
                self.resize_grid(grid_size)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        slopes = state_dict.get(f"{prefix}end_slopes")
        if knots is None or slopes is None or self.knots.is_meta:
            return
        if knots.shape == self.knots.shape and knots.dtype != self.knots.dtype:
            self._set_exact({"knots": knots, "end_slopes": slopes})


def check_range(grid_range: object) -> tuple[float, float]:
    """The two ends of a range; `ValueError` unless they increase between -`FAR` and `FAR`."""
    try:
        low, high = (float(end) for end in grid_range)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        low = high = 0.0
    if not -FAR <= low < high <= FAR:
        raise ValueError(
            f"grid_range must be two increasing numbers from {-FAR:g} to {FAR:g}, got {grid_range}"
        )
    return low, high
