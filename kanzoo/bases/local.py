"""Functions that are zero outside a short interval, other than B-splines of any order."""

from typing import Any

import torch
from torch import Tensor, nn

from kanzoo.bases.base import (
    Basis,
    Family,
)
from kanzoo.bases.spline import MAX_ORDER, BSpline, check_range
from kanzoo.checks import check_whole


class PiecewiseLinear(BSpline):
    """Hat functions on `grid_size + 1` vertices, as in P1-KAN (2410.03801, section 2).

    A B-spline of degree one: every edge is a polygon through freely trained values at the vertices.
    """

    def __init__(
        self,
        in_features: int,
        *,
        grid_size: int = 8,
        grid_range: tuple[float, float] = (-3.0, 3.0),
        extrapolation: str = "linear",
        grid: str = "uniform",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_features,
            grid_size=grid_size,
            spline_order=1,
            grid_range=grid_range,
            extrapolation=extrapolation,
            grid=grid,
            device=device,
            dtype=dtype,
        )


class ReLUKAN(Basis):
    """(relu(e - x) relu(x - s))^m (2 / (e - s))^(2 m), which is 1 halfway between s and e.

    Sources: ReLU-KAN, 2406.02075, eq. 6, for m = `power` = 2; HRKAN, 2409.14248, for higher powers,
    which have m - 1 continuous derivatives. K = grid_size + spline_order functions start
    `(high - low) / grid_size` apart and are `spline_order + 1` times as wide. With `trainable`,
    every feature learns its own starts s and ends e; the normalisation keeps the first width.
    """

    starts: Tensor
    ends: Tensor

    def __init__(
        self,
        in_features: int,
        *,
        grid_size: int = 5,
        spline_order: int = 3,
        grid_range: tuple[float, float] = (-3.0, 3.0),
        power: int = 2,
        trainable: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_whole("grid_size", grid_size, 1)
        check_whole("spline_order", spline_order, 0, MAX_ORDER)
        check_whole("power", power, 1)
        low, high = check_range(grid_range)
        super().__init__(in_features, grid_size + spline_order)
        self.power = power
        step = (high - low) / grid_size
        width = (spline_order + 1) * step
        self.inverse_half = 2 / width
        self.ramps = (spline_order, grid_size, step, low, width)
        first = self._starts(device=device, dtype=dtype)
        self.feature_tensors = ("starts", "ends") if trainable else ()
        if trainable:
            wide = first.unsqueeze(-1).expand(-1, in_features)
            self.starts = nn.Parameter(wide.clone())
            self.ends = nn.Parameter(wide + width)
        else:
            self.register_buffer("starts", first.unsqueeze(-1))
            self.register_buffer("ends", first.unsqueeze(-1) + width)

    def _starts(self, **options: Any) -> Tensor:
        order, size, step, low, _ = self.ramps
        return torch.arange(-order, size, **options) * step + low

    def exact_buffers(self, stored: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.feature_tensors:  # trained
            return {}
        starts = self._starts(dtype=torch.float64, device="cpu").unsqueeze(-1)
        return {"starts": starts, "ends": starts + self.ramps[-1]}

    def forward(self, x: Tensor) -> Tensor:
        starts = per_feature(self.starts, x)
        ends = per_feature(self.ends, x)
        # Scaled before they are multiplied: far away one factor is zero, the other stays finite.
        rising = torch.relu(x - starts) * self.inverse_half
        falling = torch.relu(ends - x) * self.inverse_half
        return (rising * falling) ** self.power

    def family(self) -> Family:
        table = torch.stack([self.starts, self.ends])
        return Family("ramps", (table,), (self.inverse_half, float(self.power)))

    @property
    def flops(self) -> int:
        return 8 * self.num_functions


def per_feature(parameter: Tensor, x: Tensor) -> Tensor:
    """A parameter `(K, C)` or `(K, 1)`, shaped to broadcast against `(K, ..., C)`."""
    shape = (parameter.shape[0], *[1] * (x.dim() - 1), parameter.shape[1])
    return parameter.to(x.dtype).view(shape)
