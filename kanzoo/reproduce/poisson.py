"""Poisson's equation on a square by a network: KAN against MLP at equal parameters.

u_xx + u_yy = f on [-1, 1]^2 with u = 0 on the border and u = sin(pi x) sin(pi y), as in the
Kolmogorov-Arnold paper (2404.19756, section 3.4). The loss is the mean square of the residual
inside, times 0.01, and of u on the border. Axes: N points.
"""

import math
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn

from kanzoo.bases.base import get_basis
from kanzoo.layers.factory import LayerFactory
from kanzoo.layers.parameters import count_params
from kanzoo.models.mlp import MLP
from kanzoo.training.lbfgs import LBFGS

RESIDUAL_WEIGHT = 0.01
WIDTHS = {"kan": 10, "mlp": 70}  # [2, 10, 1] with G = 5, and as many parameters: 281


@dataclass(frozen=True)
class Errors:
    """Of a network against the solution: parameters, root mean squares over the square."""

    arm: str
    params: int
    l2: float
    h1: float
    """Of values and both first derivatives together."""


def solution(points: Tensor) -> Tensor:
    """u at points `(N, 2)`."""
    return (math.pi * points).sin().prod(1)


def derivatives(net: nn.Module, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """u `(N,)`, its gradient `(N, 2)` and its Laplacian `(N,)`; all can be trained through."""
    points = points.detach().requires_grad_()
    u = net(points).squeeze(1)
    (gradient,) = torch.autograd.grad(u.sum(), points, create_graph=True)
    laplacian = torch.zeros_like(u)
    for axis in (0, 1):
        (second,) = torch.autograd.grad(gradient[:, axis].sum(), points, create_graph=True)
        laplacian = laplacian + second[:, axis]
    return u, gradient, laplacian


def make_net(arm: str, seed: int) -> nn.Module:
    """The KAN [2, 10, 1] or the MLP of as many parameters, float64."""
    basis = get_basis("bspline", grid_size=5, grid_range=(-1, 1), extrapolation="linear")
    factory = LayerFactory("all" if arm == "kan" else (), basis, activation="tanh")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MLP((2,), 1, factory, widths=[WIDTHS[arm]], norm="none").double()


def solve(arm: str, *, steps: int = 50, seed: int = 0, side: int = 25) -> Errors:
    """Train one network on a grid of `side` points a side by LBFGS, and measure its errors."""
    net = make_net(arm, seed)
    line = torch.linspace(-1, 1, side, dtype=torch.float64)
    inside = torch.cartesian_prod(line[1:-1], line[1:-1])
    ends = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    border = torch.cat([torch.cartesian_prod(ends, line), torch.cartesian_prod(line, ends)])
    source = -2 * math.pi**2 * solution(inside)
    optimizer = LBFGS(
        net.parameters(),
        max_iter=20,
        history_size=50,
        line_search_fn="strong_wolfe",
        tolerance_grad=0,
        tolerance_change=0,
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        _, _, laplacian = derivatives(net, inside)
        loss = RESIDUAL_WEIGHT * (laplacian - source).square().mean() + net(border).square().mean()
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)
    return measure(arm, net)


def measure(arm: str, net: nn.Module) -> Errors:
    """Errors on a grid of 100 x 100 points, which training does not use."""
    line = (torch.arange(100, dtype=torch.float64) + 0.5) / 50 - 1
    points = torch.cartesian_prod(line, line)
    u, gradient, _ = derivatives(net, points)
    x, y = (math.pi * points).unbind(1)
    exact = math.pi * torch.stack([x.cos() * y.sin(), x.sin() * y.cos()], 1)
    value = (u - solution(points)).square().mean()
    slope = (gradient - exact).square().sum(1).mean()
    return Errors(arm, count_params(net), value.sqrt().item(), (value + slope).sqrt().item())


def main() -> None:
    """Entry of `scripts/poisson.py`: both networks from a few seeds, as a table."""
    import argparse

    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    parser = argparse.ArgumentParser(description="Poisson's equation: KAN against MLP.")
    parser.add_argument("--steps", type=int, default=50, help="LBFGS steps of 20 iterations")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    table = Table(title="u_xx + u_yy = f on [-1, 1]^2", title_justify="left")
    for name in ("network", "seed", "parameters", "L2 error", "H1 error"):
        table.add_column(name, justify="left" if name == "network" else "right")
    runs = list(product(WIDTHS, range(options.seeds)))
    for arm, seed in track(runs, "networks", console=Console(stderr=True)):
        result = solve(arm, steps=options.steps, seed=seed)
        errors = (f"{result.l2:.2e}", f"{result.h1:.2e}")
        table.add_row(arm, str(seed), str(result.params), *errors)
    Console().print(table)
