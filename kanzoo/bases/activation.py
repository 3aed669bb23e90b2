"""Fixed activations (K = 1), which make a KAN layer an ordinary one, and the control bases."""

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kanzoo.bases.base import Basis
from kanzoo.bases.spline import BSpline
from kanzoo.checks import check_name

# All are zero at zero.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": torch.tanh,
}
RISING = ("identity", "relu", "tanh")  # those that never decrease
ODD = ("identity", "tanh")  # those with f(-x) = -f(x)


class Activation(Basis):
    """One fixed function, so that "expand, then Linear" is "activation, then Linear"."""

    default_residual: ClassVar[str | None] = None
    zero_at_zero: ClassVar[bool] = True

    def __init__(
        self,
        in_features: int,
        *,
        function: str,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, 1)
        check_name("activation", function, ACTIVATIONS)
        self.function = function
        self.rising = "positive" if function in RISING else None

    def forward(self, x: Tensor) -> Tensor:
        return ACTIVATIONS[self.function](x).unsqueeze(0)

    @property
    def flops(self) -> int:
        return 0 if self.function == "identity" else 1


class PReLU(Basis):
    """Control: max(0, x) + a_c min(0, x), one trainable slope per feature (1502.01852, eq. 1)."""

    default_residual: ClassVar[str | None] = None
    zero_at_zero: ClassVar[bool] = True
    feature_tensors = ("slope",)

    def __init__(
        self,
        in_features: int,
        *,
        slope: float = 0.25,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, 1)
        self.slope = nn.Parameter(torch.full((in_features,), slope, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, self.slope.to(x.dtype) * x).unsqueeze(0)

    @property
    def flops(self) -> int:
        return 1


class SplineActivation(Basis):
    """Control: SiLU plus one trainable B-spline per feature, on the node instead of the edge.

    phi_c(x) = silu(x) + sum_g a_gc B_g(x), with a = 0 at the start: an MLP whose activations are
    as trainable as a KAN's, at O(N G) instead of O(N^2 G) parameters.
    """

    default_residual: ClassVar[str | None] = None
    feature_tensors = ("coefficients",)

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
        super().__init__(in_features, 1)
        self.spline = BSpline(
            in_features,
            grid_size=grid_size,
            spline_order=spline_order,
            grid_range=grid_range,
            device=device,
            dtype=dtype,
        )
        shape = (self.spline.num_functions, in_features)
        self.coefficients = nn.Parameter(torch.zeros(shape, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        values: Tensor = self.spline(x)  # (K, ..., C)
        coefficients = self.coefficients.to(x.dtype).view(-1, *[1] * (x.dim() - 1), x.shape[-1])
        # Not an einsum: that is a matrix product, which autocast would turn into bfloat16.
        return (F.silu(x) + (values * coefficients).sum(0)).unsqueeze(0)

    @property
    def flops(self) -> int:
        return self.spline.flops + 2 * self.spline.num_functions + 1


class NoBasis(Basis):
    """Control: no functions at all (K = 0), so that only the layer's residual branch is left."""

    zero_at_zero: ClassVar[bool] = True

    def __init__(
        self,
        in_features: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, 0)

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros((0, *x.shape))

    @property
    def flops(self) -> int:
        return 0
