"""Rational functions that groups of features share."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from kanzoo.bases.base import (
    Basis,
    Family,
    neighbours,
)
from kanzoo.checks import check_name, check_whole

# Coefficients a_0 .. a_5 and b_1 .. b_4. All denominators start at 1 + Q with Q >= 0 and not with
# Q = 0, where |Q| has a kink and no gradient would ever move them. The identity is exact; the two
# others are least squares fits on [-3.5, 3.5], at most 0.003 (GELU) and 5e-6 (SiLU) off.
STARTS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "identity": ((0.0, 1.0, 0.0, 0.1, 0.0, 0.01), (0.0, 0.1, 0.0, 0.01)),
    "gelu": (
        (-0.001897796, 0.5, 0.411323019, 0.110904027, 0.009701276, 0.0),
        (0.0, 0.221808054, 0.0, 0.0),
    ),
    "silu": (
        (0.000001195, 0.5, 0.249992337, 0.053148202, 0.005748367, 0.000267955),
        (0.0, 0.106296405, 0.0, 0.000535909),
    ),
}


class GroupRational(Basis):
    """P(x) / (1 + |Q_g(x)|): one trained rational function per group of neighbouring features.

    P has degree 5 and is shared by all groups; Q_g(x) = b_1 x + .. + b_4 x^4 has coefficients of
    its own (KAT, 2409.10594, eq. 9 and section 4.3). `start` is the shape to begin with: outside of
    its fit that of GELU grows as x^2, that of SiLU as x, which is the better one where inputs are
    large. Groups that do not divide the features differ in size by one; there are never more than
    features.
    """

    default_residual: ClassVar[str | None] = None
    feature_tensors = ("group_of",)
    group_of: Tensor

    def __init__(
        self,
        in_features: int,
        *,
        groups: int = 8,
        start: str = "gelu",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_whole("groups", groups, 1)
        check_name("start", start, STARTS)
        super().__init__(in_features, 1)
        groups = min(groups, in_features)
        numerator, denominator = STARTS[start]
        self.numerator = nn.Parameter(torch.tensor(numerator, device=device, dtype=dtype))
        row = torch.tensor(denominator, device=device, dtype=dtype)
        self.denominator = nn.Parameter(row.unsqueeze(-1).repeat(1, groups))  # (4, groups)
        self.register_buffer("group_of", neighbours(in_features, groups, device), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        above = self.numerator.to(x.dtype).unbind()
        below = self.denominator.to(x.dtype).index_select(1, self.group_of).unbind()  # 4 of (C)
        return (horner(above, x) / (1 + (x * horner(below, x)).abs())).unsqueeze(0)

    def family(self) -> Family:
        return Family("rational", (self.numerator, self.denominator, self.group_of))

    @property
    def flops(self) -> int:
        return 10 + 7 + 3


def horner(coefficients: tuple[Tensor, ...], x: Tensor) -> Tensor:
    """c_0 + c_1 x + c_2 x^2 + ..., with as many products as the degree."""
    value = coefficients[-1] * x + coefficients[-2]
    for coefficient in reversed(coefficients[:-2]):
        value = value * x + coefficient
    return value
