"""Wavelets with a trained scale and shift per feature and function.

The original Wav-KAN (2405.12832) trains scale and shift on every edge; then no expansion could be
shared by the outputs. Here they belong to the input feature, and `grid_size` of them take the place
of the edge's freedom.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from kanzoo.bases.base import (
    Basis,
    Family,
)
from kanzoo.bases.local import per_feature
from kanzoo.bases.spline import check_range
from kanzoo.checks import check_whole


class Wavelet(Basis):
    """psi((x - shift) / scale) for a mother wavelet psi (2405.12832, eq. 7).

    Shifts start evenly over `grid_range`. The parameter is the inverse of the scale, so that no
    step of an optimiser can divide by zero.
    """

    feature_tensors = ("shift", "inverse_scale")

    def __init__(
        self,
        in_features: int,
        *,
        grid_size: int = 5,
        grid_range: tuple[float, float] = (-2.0, 2.0),
        scale: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_whole("grid_size", grid_size, 1)
        low, high = check_range(grid_range)
        if not 0 < scale < float("inf"):
            raise ValueError(f"scale must be a positive number, got {scale}")
        super().__init__(in_features, grid_size)
        middle = torch.arange(grid_size, device=device, dtype=dtype or torch.get_default_dtype())
        shifts = low + (middle + 0.5) * ((high - low) / grid_size)
        shape = (grid_size, in_features)
        self.shift = nn.Parameter(shifts.unsqueeze(-1).expand(shape).clone())
        self.inverse_scale = nn.Parameter(torch.full(shape, 1 / scale, device=device, dtype=dtype))

    def stretched(self, x: Tensor) -> Tensor:
        """(x - shift) / scale: `(..., C) -> (K, ..., C)`."""
        return (x - per_feature(self.shift, x)) * per_feature(self.inverse_scale, x)

    def _family(self, name: str, *constants: float) -> Family:
        return Family(name, (torch.stack([self.shift, self.inverse_scale]),), constants)


class MexicanHat(Wavelet):
    """psi(t) = 2 / (sqrt(3) pi^(1/4)) (1 - t^2) exp(-t^2 / 2), of unit norm."""

    height: ClassVar[float] = 2.0 / (math.sqrt(3) * math.sqrt(math.sqrt(math.pi)))

    def forward(self, x: Tensor) -> Tensor:
        square = self.stretched(x).square()
        return (self.height - self.height * square) * torch.exp(-0.5 * square)

    def family(self) -> Family:
        return self._family("mexican_hat", self.height)

    @property
    def flops(self) -> int:
        return 8 * self.num_functions


class Morlet(Wavelet):
    """psi(t) = cos(w t) exp(-t^2 / 2), the real part of Morlet's wavelet with w = `frequency`."""

    def __init__(
        self,
        in_features: int,
        *,
        grid_size: int = 5,
        grid_range: tuple[float, float] = (-2.0, 2.0),
        scale: float = 1.0,
        frequency: float = 5.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not 0 < frequency < float("inf"):
            raise ValueError(f"frequency must be a positive number, got {frequency}")
        super().__init__(
            in_features,
            grid_size=grid_size,
            grid_range=grid_range,
            scale=scale,
            device=device,
            dtype=dtype,
        )
        self.frequency = frequency

    def forward(self, x: Tensor) -> Tensor:
        t = self.stretched(x)
        return torch.cos(self.frequency * t) * torch.exp(-0.5 * t.square())

    def family(self) -> Family:
        return self._family("morlet", self.frequency)

    @property
    def flops(self) -> int:
        return 8 * self.num_functions


class GaussianDerivative(Wavelet):
    """psi(t) = -t exp(-t^2 / 2), the first derivative of a Gaussian."""

    def forward(self, x: Tensor) -> Tensor:
        t = self.stretched(x)
        return -t * torch.exp(-0.5 * t.square())

    def family(self) -> Family:
        return self._family("gaussian_derivative")

    @property
    def flops(self) -> int:
        return 7 * self.num_functions
