"""Bell-shaped functions around a fixed grid of centres, and their sum with B-splines."""

import math
from typing import Any

import torch
from torch import Tensor

from kanzoo.bases.base import (
    Basis,
    Family,
    GridBasis,
)
from kanzoo.bases.knots import common_range
from kanzoo.bases.spline import BSpline, check_range
from kanzoo.checks import check_whole


class RadialBasis(GridBasis):
    """A bell b((x - mu_g) / h) around each of `grid_size` even centres mu_g over `grid_range`.

    The width h is the distance of the centres.
    """

    centres: Tensor

    def __init__(
        self,
        in_features: int,
        *,
        grid_size: int = 8,
        grid_range: tuple[float, float] = (-2.0, 2.0),
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_whole("grid_size", grid_size, 2)
        low, high = check_range(grid_range)
        super().__init__(in_features, grid_size)
        self.grid_size = grid_size
        self.range = (low, high)
        centres = torch.linspace(low, high, grid_size, device=device, dtype=dtype)
        self.register_buffer("centres", centres)

    def distances(self, x: Tensor) -> Tensor:
        """(x - mu_g) / h: `(..., C) -> (K, ..., C)`."""
        centres = self.centres.to(x.dtype)
        inverse_width = (self.grid_size - 1) / (centres[-1] - centres[0])
        return (x - centres.view(-1, *[1] * x.dim())) * inverse_width

    def bells(self) -> Tensor:
        """Centres and inverse widths, `(2, K, 1)`."""
        inverse_width = (self.grid_size - 1) / (self.centres[-1] - self.centres[0])
        return torch.stack([self.centres, inverse_width.expand_as(self.centres)]).unsqueeze(-1)

    def set_range(self, low: float, high: float, grid_size: int) -> None:
        """Take `grid_size` even centres between two ends."""
        self.grid_size = self.num_functions = check_whole("grid_size", grid_size, 2)
        self.range = (low, high)
        self.centres = self._even().to(self.centres)

    def _even(self) -> Tensor:
        return torch.linspace(*self.range, self.grid_size, dtype=torch.float64, device="cpu")

    def exact_buffers(self, stored: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"centres": self._even()}

    def fit_grid(self, sample: Tensor, uniform_share: float, margin: float) -> None:
        centres = self.centres.detach().cpu().double().unsqueeze(0)
        ends = common_range(sample, centres, margin)
        self.set_range(float(ends[0, 0]), float(ends[0, -1]), self.grid_size)

    def resize_grid(self, grid_size: int) -> None:
        self.set_range(float(self.centres[0]), float(self.centres[-1]), grid_size)

    def size_with(self, num_functions: int) -> int:
        return num_functions

    def grid_ends(self) -> Tensor:
        return self.centres[[0, -1]].detach().cpu().double().unsqueeze(-1)

    def grid_points(self) -> Tensor:
        low, high = self.grid_ends().squeeze(-1).tolist()
        reach = (high - low) / (self.grid_size - 1)
        count = 6 * (self.grid_size + 2)
        ends = low - reach, high + reach
        points = torch.linspace(*ends, count, dtype=torch.float64, device="cpu")
        return points.unsqueeze(-1).expand(-1, self.in_features)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        centres = state_dict.get(f"{prefix}centres")
        if centres is not None and len(centres) >= 2 and len(centres) != self.grid_size:
            self.resize_grid(len(centres))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class GaussianRBF(RadialBasis):
    """exp(-((x - mu_g) / h)^2) (FastKAN, 2405.06721, eq. 5)."""

    def forward(self, x: Tensor) -> Tensor:
        distance = self.distances(x)
        return torch.exp(distance * -distance)

    def family(self) -> Family:
        return Family("gaussian", (self.bells(),))

    @property
    def flops(self) -> int:
        return 5 * self.num_functions


class RSWAF(RadialBasis):
    """Reflectional switch activations 1 - tanh((x - mu_g) / h)^2 (FasterKAN; see 2406.11173)."""

    def forward(self, x: Tensor) -> Tensor:
        slope = torch.tanh(self.distances(x))
        return 1 - slope * slope

    def family(self) -> Family:
        return Family("switch", (self.bells(),))

    @property
    def flops(self) -> int:
        return 5 * self.num_functions


class BSplineRBF(Basis):
    """B_k(x) + exp(-((x - mu_k) / h)^2): B-splines and as many Gaussians, added one to one.

    Source: BSRBF-KAN, 2406.11173; the centres mu_k spread over `grid_range`, h apart.
    """

    def __init__(
        self,
        in_features: int,
        *,
        grid_size: int = 5,
        spline_order: int = 3,
        grid_range: tuple[float, float] = (-3.0, 3.0),
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        spline = BSpline(
            in_features,
            grid_size=grid_size,
            spline_order=spline_order,
            grid_range=grid_range,
            device=device,
            dtype=dtype,
        )
        super().__init__(in_features, spline.num_functions)
        self.spline = spline
        self.radial = GaussianRBF(
            in_features,
            grid_size=self.num_functions,
            grid_range=grid_range,
            device=device,
            dtype=dtype,
        )

    def forward(self, x: Tensor) -> Tensor:
        splines: Tensor = self.spline(x)
        bells: Tensor = self.radial(x)
        return splines + bells

    def family(self) -> Family | None:
        order, knots = self.spline.spline_order, self.spline.knots
        if order < 2:  # their slopes jump
            return None
        step = (knots[-1] - knots[0]) / (len(knots) - 1)
        middles = knots[: self.num_functions] + step * ((order + 1) / 2)
        splines = torch.stack([middles, (1 / step).expand_as(middles)]).unsqueeze(-1)
        powers = [  # truncated ones, of half of the function (Schoenberg)
            (-1.0) ** j * math.comb(order + 1, j) / math.factorial(order)
            for j in range(order // 2 + 1)
        ]
        table = torch.cat([splines, self.radial.bells()])
        return Family("spline_gaussian", (table,), (float(order), *powers))

    @property
    def flops(self) -> int:
        return self.spline.flops + self.radial.flops + self.num_functions
