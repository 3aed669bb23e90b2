"""Inputs and layers that several test files share."""

import os
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from kanzoo.bases.spline import BSpline
from kanzoo.data.special import BUILT_IN_FEYNMAN
from kanzoo.layers import KANConv2d, KANConvTranspose1d, KANLinear
from kanzoo.registry import conf_dir

# A basis of every kind: splines on even and on moved grids, with a function beside them, sums of
# fixed functions, and of trained and of drawn ones; one function, by groups, trained, fixed; none.
KINDS = ("bspline", "bspline_adaptive", "bspline_prelu", "chebyshev", "rbf", "relu_kan")
KINDS += ("mexican_hat", "random", "rational", "prelu", "gelu", "none")
DOUBLE: dict[str, Any] = {"dtype": torch.float64}


def skip_without_table(study: str) -> None:
    """Skip the test of a study on functions of Feynman's table, where there is no such table."""
    text = (conf_dir() / "study" / f"{study}.yaml").read_text(encoding="utf-8")
    functions = re.findall(r"data\.function=feynman_([\w.]+)", text)
    if set(functions) - set(BUILT_IN_FEYNMAN) and not os.environ.get("KANZOO_DATA"):
        pytest.skip("KANZOO_DATA does not name a folder with the table of Feynman's equations")


def points(*shape: int) -> Tensor:
    """Fixed irregular float64 points in (-2.5, 2.5): off knots, ends and kinks."""
    generator = torch.Generator().manual_seed(11)
    return torch.rand(*shape, generator=generator, dtype=torch.float64) * 5 - 2.5


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal float64 numbers that do not touch the global generator."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def skewed(rows: int, features: int, seed: int = 0) -> Tensor:
    """Values in (-2.5, 2.5), crowded differently in every feature."""
    powers = torch.linspace(1, 4, features, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    return 5 * torch.rand(rows, features, generator=generator, dtype=torch.float64) ** powers - 2.5


def shaken(module: Any) -> Any:
    """The module with its parameters moved off their initial values (zeros hide errors)."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.2 * torch.rand(p.shape, generator=generator, dtype=p.dtype))
    return module


def relative(y: Tensor, expected: Tensor) -> float:
    """|y - expected| / |expected|."""
    return float(((y - expected).norm() / expected.norm()).detach())


def irregular(order: int, features: int = 3, grid_size: int = 6) -> BSpline:
    """Adaptive splines with different irregular breaks for every feature."""
    basis = BSpline(features, grid_size=grid_size, spline_order=order, grid="adaptive", **DOUBLE)
    steps = 0.2 + normal(features, grid_size, seed=4).abs()
    breaks = torch.cat([torch.zeros(features, 1, **DOUBLE), steps.cumsum(1)], 1) - 2
    basis.set_breaks(breaks)
    return basis


def layers_on(basis: Any) -> list[tuple[Any, Tensor]]:
    torch.manual_seed(2)
    return [
        (KANLinear(3, 4, basis=basis, **DOUBLE), skewed(40, 3)),
        (
            KANConv2d(4, 6, 3, padding=1, groups=2, basis=basis, **DOUBLE),
            skewed(50, 4).view(2, 4, 5, 5),
        ),
        (
            KANConvTranspose1d(4, 6, 3, stride=2, groups=2, basis=basis, **DOUBLE),
            skewed(20, 4).view(4, 4, 5),
        ),
    ]
