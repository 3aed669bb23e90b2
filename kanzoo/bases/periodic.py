"""Sines and cosines: Fourier series, sines with trained frequencies, frozen random waves."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from kanzoo.bases.base import (
    Basis,
    Family,
)
from kanzoo.bases.local import per_feature
from kanzoo.checks import check_whole


class Fourier(Basis):
    """cos(n w x) / n^s and sin(n w x) / n^s for n = 1 .. `grid_size`, w = 2 pi / `period`.

    The series of FourierKAN (2406.01034, eq. 8). With s = `smoothness` > 0 all coefficients may
    start equally large: the edge functions are then s - 1/2 times differentiable in the mean,
    where s = 0 starts with noise.
    """

    orders: Tensor

    def __init__(
        self,
        in_features: int,
        *,
        grid_size: int = 5,
        period: float = 2 * math.pi,
        smoothness: float = 2.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_whole("grid_size", grid_size, 1)
        if not 0 < period < float("inf"):
            raise ValueError(f"period must be a positive number, got {period}")
        if not 0 <= smoothness < float("inf"):
            raise ValueError(f"smoothness must be at least 0, got {smoothness}")
        super().__init__(in_features, 2 * grid_size)
        self.frequency = 2 * math.pi / period
        self.smoothness = smoothness
        orders = torch.arange(1, grid_size + 1, device=device, dtype=dtype or torch.float32)
        self.register_buffer("orders", orders)

    def forward(self, x: Tensor) -> Tensor:
        orders = self.orders.to(x.dtype).view(-1, *[1] * x.dim())
        angles = (self.frequency * orders) * x
        waves = torch.cat([torch.cos(angles), torch.sin(angles)])
        if self.smoothness == 0:
            return waves
        return waves * torch.cat([orders, orders]) ** -self.smoothness

    def family(self) -> Family:
        heights = torch.cat([self.orders, self.orders]) ** -self.smoothness
        return Family("harmonics", (heights.view(1, -1, 1),), (self.frequency,))

    @property
    def flops(self) -> int:
        pairs = self.num_functions // 2
        return 3 * pairs + (self.num_functions if self.smoothness else 0)


class Sine(Basis):
    """sin(w_k x + p_kc) with trained frequencies w_k and fixed phases (SineKAN, 2407.04149, eq. 1).

    Frequencies start at w_k = k `frequency`; the phases p_kc = k / (K + 1) + pi c / C differ from
    function to function and from feature to feature.
    """

    feature_tensors = ("phases",)

    phases: Tensor

    def __init__(
        self,
        in_features: int,
        *,
        grid_size: int = 8,
        frequency: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_whole("grid_size", grid_size, 1)
        if not 0 < frequency < float("inf"):
            raise ValueError(f"frequency must be a positive number, got {frequency}")
        super().__init__(in_features, grid_size)
        dtype = dtype or torch.get_default_dtype()
        steps = torch.arange(1, grid_size + 1, device=device, dtype=dtype).unsqueeze(-1)
        self.frequencies = nn.Parameter(steps * frequency)
        self.register_buffer("phases", self._phases(device=device, dtype=dtype))

    def _phases(self, **options: Any) -> Tensor:
        steps = torch.arange(1, self.num_functions + 1, **options).unsqueeze(-1)
        shifts = torch.arange(self.in_features, **options) * (math.pi / self.in_features)
        return steps / (self.num_functions + 1) + shifts

    def exact_buffers(self, stored: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"phases": self._phases(dtype=torch.float64, device="cpu")}

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(per_feature(self.frequencies, x) * x + per_feature(self.phases, x))

    def family(self) -> Family:
        frequencies = self.frequencies.expand_as(self.phases)
        return Family("waves", (torch.stack([frequencies, self.phases]),), (1.0,))

    @property
    def flops(self) -> int:
        return 3 * self.num_functions


class RandomWaves(Basis):
    """Control: frozen random functions sqrt(2) cos(w x + p), w ~ N(0, 1 / scale^2), p ~ U(0, 2 pi).

    Random Fourier features of a Gaussian kernel of width `scale` (Rahimi and Recht, 2007, alg. 1),
    one set per feature: what a basis gains over having several arbitrary functions at all.
    """

    feature_tensors = ("frequencies", "phases")
    frequencies: Tensor
    phases: Tensor

    def __init__(
        self,
        in_features: int,
        *,
        grid_size: int = 8,
        scale: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_whole("grid_size", grid_size, 1)
        if not 0 < scale < float("inf"):
            raise ValueError(f"scale must be a positive number, got {scale}")
        super().__init__(in_features, grid_size)
        shape = (grid_size, in_features)
        frequencies = torch.empty(shape, device=device, dtype=dtype).normal_(0.0, 1 / scale)
        phases = torch.empty(shape, device=device, dtype=dtype).uniform_(0.0, 2 * math.pi)
        self.register_buffer("frequencies", frequencies)
        self.register_buffer("phases", phases)

    def forward(self, x: Tensor) -> Tensor:
        angles = per_feature(self.frequencies, x) * x + per_feature(self.phases, x)
        return math.sqrt(2) * torch.cos(angles)

    def family(self) -> Family:
        table = torch.stack([self.frequencies, self.phases + math.pi / 2])
        return Family("waves", (table,), (math.sqrt(2),))

    @property
    def flops(self) -> int:
        return 4 * self.num_functions
