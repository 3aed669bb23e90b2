"""KAN layers as they are commonly written: all functions lie in memory, and autograd keeps them.

Axes: N rows, C inputs, K functions, O outputs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kanzoo.bases.base import neighbours
from kanzoo.kernels.families.rational import dense_rational

ORDER, END, GROUPS = 3, 3.0, 8


class Textbook(nn.Module):
    """One product over all functions, and one over SiLU of the inputs."""

    def __init__(self, features: int, functions: int, device: torch.device) -> None:
        super().__init__()
        self.local = nn.Linear(features * functions, features, device=device)
        self.base = nn.Linear(features, features, bias=False, device=device)

    def functions(self, x: Tensor) -> Tensor:
        """`(N, C) -> (N, C, K)`."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(F.silu(x)) + self.local(self.functions(x).flatten(1))
        return y


class Recursion(Textbook):
    """Cubic B-splines by the recursion of Cox and de Boor over all knots."""

    knots: Tensor

    def __init__(self, features: int, grid_size: int, device: torch.device) -> None:
        super().__init__(features, grid_size + ORDER, device)
        cells = torch.arange(-ORDER, grid_size + ORDER + 1, device=device)
        self.register_buffer("knots", cells * (2 * END / grid_size) - END)

    def functions(self, x: Tensor) -> Tensor:
        x, knots = x.unsqueeze(-1), self.knots
        values = ((x >= knots[:-1]) & (x < knots[1:])).to(x.dtype)
        for k in range(1, ORDER + 1):
            rising = (x - knots[: -k - 1]) / (knots[k:-1] - knots[: -k - 1])
            falling = (knots[k + 1 :] - x) / (knots[k + 1 :] - knots[1:-k])
            values = rising * values[..., :-1] + falling * values[..., 1:]
        return values


class Gaussians(Textbook):
    """As many Gaussians, a step apart."""

    centres: Tensor

    def __init__(self, features: int, grid_size: int, device: torch.device) -> None:
        super().__init__(features, grid_size + ORDER, device)
        self.step = 2 * END / (grid_size + ORDER - 1)
        centres = torch.linspace(-END, END, grid_size + ORDER, device=device)
        self.register_buffer("centres", centres)

    def functions(self, x: Tensor) -> Tensor:
        return torch.exp(-(((x.unsqueeze(-1) - self.centres) / self.step) ** 2))


class Rational(nn.Module):
    """Rational functions of groups of inputs, then a product: operation by operation."""

    group_of: Tensor

    def __init__(self, features: int, device: torch.device) -> None:
        super().__init__()
        self.above = nn.Parameter(torch.randn(6, device=device))
        self.below = nn.Parameter(torch.randn(4, GROUPS, device=device))
        self.linear = nn.Linear(features, features, device=device)
        self.register_buffer("group_of", neighbours(features, GROUPS, device))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(dense_rational(x, self.above, self.below, self.group_of))
        return y
