"""Local functions beside a global one."""

from typing import ClassVar

import torch
from torch import Tensor

from kanzoo.bases.activation import PReLU
from kanzoo.bases.base import GridBasis, Splines
from kanzoo.bases.spline import BSpline


class SplinePReLU(GridBasis):
    """B-splines, then a PReLU with a trained slope for every feature (1502.01852, eq. 1).

    Every edge is the sum of a local part, which changes where its data are, and a global one, a
    kink at zero that holds everywhere. `kanzoo.interpret.scores.contrast` tells how much of an
    edge is which. The splines are those of `BSpline`, their grid moves and is refined as theirs.
    """

    default_residual: ClassVar[str | None] = None
    num_global = 1

    def __init__(
        self,
        in_features: int,
        *,
        grid_size: int = 5,
        spline_order: int = 3,
        grid_range: tuple[float, float] = (-3.0, 3.0),
        extrapolation: str = "zero",
        grid: str = "uniform",
        slope: float = 0.25,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        spline = BSpline(
            in_features,
            grid_size=grid_size,
            spline_order=spline_order,
            grid_range=grid_range,
            extrapolation=extrapolation,
            grid=grid,
            device=device,
            dtype=dtype,
        )
        super().__init__(in_features, spline.num_functions + 1)
        self.grid_size = grid_size
        self.spline = spline
        self.prelu = PReLU(in_features, slope=slope, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.spline(x), self.prelu(x)])

    def on_features(self, x: Tensor, block: slice) -> Tensor:
        parts = [self.spline.on_features(x, block), self.prelu.on_features(x, block)]
        return torch.cat(parts)

    def splines(self) -> Splines:
        return self.spline.splines()._replace(beside=self.prelu)

    @property
    def num_nonzero(self) -> int:
        return self.spline.num_nonzero + 1

    @property
    def flops(self) -> int:
        return self.spline.flops + self.prelu.flops

    def fit_grid(self, sample: Tensor, uniform_share: float, margin: float) -> None:
        self.spline.fit_grid(sample, uniform_share, margin)

    def resize_grid(self, grid_size: int) -> None:
        self.spline.resize_grid(grid_size)
        self.grid_size = grid_size
        self.num_functions = self.spline.num_functions + 1

    def size_with(self, num_functions: int) -> int:
        return self.spline.size_with(num_functions - 1)

    def grid_ends(self) -> Tensor:
        return self.spline.grid_ends()

    def grid_points(self) -> Tensor:
        return self.spline.grid_points()
