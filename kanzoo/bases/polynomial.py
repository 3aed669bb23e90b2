"""Polynomials through their recurrences; meant for bounded inputs, so the layer squashes them."""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from kanzoo.bases.base import (
    Basis,
    Family,
    neighbours,
)
from kanzoo.checks import check_whole


class Chebyshev(Basis):
    """Chebyshev polynomials T_0 .. T_degree (ChebyKAN, 2405.07200), T_n = 2 x T_(n-1) - T_(n-2).

    The closed form cos(n acos x) is avoided, since its gradient is infinite at both ends.
    """

    default_squash: ClassVar[str] = "tanh"

    def __init__(
        self,
        in_features: int,
        *,
        degree: int = 4,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, check_whole("degree", degree, 1) + 1)

    def forward(self, x: Tensor) -> Tensor:
        values = [torch.ones_like(x), x]
        twice = 2 * x
        while len(values) < self.num_functions:
            values.append(twice * values[-1] - values[-2])
        return torch.stack(values)

    def family(self) -> Family:
        return recurrence([(1.0, 0.0, 0.0), *[(2.0, 0.0, 1.0)] * (self.num_functions - 2)])

    @property
    def flops(self) -> int:
        return 1 + 2 * (self.num_functions - 2)


class GroupChebyshev(Basis):
    """sum_n a_ng T_n(x): one trained polynomial per group of neighbouring features.

    What `GroupRational` is for quotients: K = 1, so that a layer has the parameters of an MLP's and
    (degree + 1) `groups` more. It starts as T_1, which after the layer's squash is tanh. Clenshaw's
    scheme (DLMF 3.11). Groups that do not divide the features differ in size by one.
    """

    default_squash: ClassVar[str] = "tanh"
    default_residual: ClassVar[str | None] = None
    feature_tensors = ("group_of",)
    group_of: Tensor

    def __init__(
        self,
        in_features: int,
        *,
        degree: int = 3,
        groups: int = 8,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_whole("groups", groups, 1)
        super().__init__(in_features, 1)
        self.degree = check_whole("degree", degree, 1)
        groups = min(groups, in_features)
        start = torch.zeros(degree + 1, groups, device=device, dtype=dtype)
        start[1] = 1
        self.coefficients = nn.Parameter(start)
        self.register_buffer("group_of", neighbours(in_features, groups, device), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.coefficients.to(x.dtype).index_select(1, self.group_of).unbind()  # of (C)
        twice, values = 2 * x, [rows[-1]]
        for row in reversed(rows[1:-1]):
            value = row + twice * values[-1]
            values.append(value - values[-2] if len(values) > 1 else value)
        value = rows[0] + x * values[-1]
        return (value - values[-2] if len(values) > 1 else value).unsqueeze(0)

    @property
    def flops(self) -> int:
        return 3 * self.degree


def recurrence(steps: list[tuple[float, float, float]]) -> Family:
    """p_0 = 1, p_(n+1) = (a_n x + b_n) p_n - c_n p_(n-1) from (a_n, b_n, c_n); c_0 is not used."""
    rows = [*steps, (0.0,) * 3]
    table = torch.tensor(rows, dtype=torch.float64, device="cpu").t().unsqueeze(-1)
    return Family("recurrence", (table,))


class ThreeTerm(Basis):
    """Polynomials with p_0 = 1, p_(n+1) = (a_n x + b_n) p_n - c_n p_(n-1).

    A subclass gives (a_n, b_n, c_n) for n = 0 .. degree - 1; c_0 is not used.
    """

    default_squash: ClassVar[str] = "tanh"

    def __init__(self, in_features: int, steps: list[tuple[float, float, float]]) -> None:
        super().__init__(in_features, len(steps) + 1)
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        values = [torch.ones_like(x)]
        for degree, (a, b, c) in enumerate(self.steps):
            factor = a * x if b == 0 else a * x + b
            if degree == 0:
                values.append(factor)
            else:
                values.append(factor * values[-1] - c * values[-2])
        return torch.stack(values)

    def family(self) -> Family:
        return recurrence(self.steps)

    @property
    def flops(self) -> int:
        shifts = sum(b != 0 for _, b, _ in self.steps)
        return shifts + 1 + 4 * (len(self.steps) - 1)


class Legendre(ThreeTerm):
    """Legendre polynomials P_0 .. P_degree: (n+1) P_(n+1) = (2n+1) x P_n - n P_(n-1).

    Sources: 2406.02583 (KANs with families of polynomials); DLMF 18.9.1.
    """

    def __init__(
        self,
        in_features: int,
        *,
        degree: int = 4,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_whole("degree", degree, 1)
        steps = [((2 * n + 1) / (n + 1), 0.0, n / (n + 1)) for n in range(degree)]
        super().__init__(in_features, steps)


class Jacobi(ThreeTerm):
    """Jacobi polynomials P_n^(alpha, beta), orthogonal under (1 - x)^alpha (1 + x)^beta.

    Sources: fKAN, 2406.07456, for their use in KANs; DLMF 18.9.2. Both exponents exceed -1;
    alpha = beta = 0 are Legendre's polynomials.
    """

    def __init__(
        self,
        in_features: int,
        *,
        degree: int = 4,
        alpha: float = 1.0,
        beta: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_whole("degree", degree, 1)
        for name, value in (("alpha", alpha), ("beta", beta)):
            if not -1 < value < float("inf"):
                raise ValueError(f"{name} must be greater than -1, got {value}")
        steps = [((alpha + beta + 2) / 2, (alpha - beta) / 2, 0.0)]
        for n in range(1, degree):
            total = 2 * n + alpha + beta
            below = 2 * (n + 1) * (n + alpha + beta + 1)
            a = (total + 1) * (total + 2) / below
            b = (alpha**2 - beta**2) * (total + 1) / (below * total)
            c = 2 * (n + alpha) * (n + beta) * (total + 2) / (below * total)
            steps.append((a, b, c))
        super().__init__(in_features, steps)


class Hermite(ThreeTerm):
    """Hermite polynomials He_n / sqrt(n!), orthonormal for x ~ N(0, 1).

    h_(n+1) = (x h_n - sqrt(n) h_(n-1)) / sqrt(n+1) (DLMF 18.9.1 with 18.3); scaled so that high
    degrees do not drown low ones. Among the families of 2406.02583.
    """

    def __init__(
        self,
        in_features: int,
        *,
        degree: int = 4,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_whole("degree", degree, 1)
        steps = [((n + 1) ** -0.5, 0.0, (n / (n + 1)) ** 0.5) for n in range(degree)]
        super().__init__(in_features, steps)


class Bernstein(Basis):
    """Bernstein polynomials B_(i, degree) on [0, 1]; they are positive and add up to one.

    B_(i, n) = (1 - t) B_(i, n-1) + t B_(i-1, n-1), de Casteljau's scheme: only positive terms,
    so nothing cancels at high degrees. Among the families of 2510.25781. The layer squashes with a
    sigmoid unless told otherwise.
    """

    default_squash: ClassVar[str] = "sigmoid"
    rising = "ordered"

    def __init__(
        self,
        in_features: int,
        *,
        degree: int = 4,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, check_whole("degree", degree, 1) + 1)

    def forward(self, x: Tensor) -> Tensor:
        rest = 1 - x
        values = [rest, x]
        while len(values) < self.num_functions:
            falling = [rest * value for value in values]
            rising = [x * value for value in values]
            inner = [a + b for a, b in zip(falling[1:], rising[:-1], strict=True)]
            values = [falling[0], *inner, rising[-1]]
        return torch.stack(values)

    def rising_range(self) -> tuple[float, float]:
        return 0.0, 1.0

    def family(self) -> Family | None:
        degree = self.num_functions - 1
        if degree > 64:  # powers get too small
            return None
        binomials = [float(math.comb(degree, k)) for k in range(degree + 1)]
        table = torch.tensor(binomials, dtype=torch.float64, device="cpu").view(1, -1, 1)
        return Family("bernstein", (table,))

    @property
    def flops(self) -> int:
        return 1 + sum(3 * degree - 1 for degree in range(2, self.num_functions))
