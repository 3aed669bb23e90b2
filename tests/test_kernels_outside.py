"""In the grid, next to it and far away, every path equals the basis and SciPy's B-splines."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kernel_cases import COMPILED, DENSE, EXTRAPOLATIONS, assert_close, needs_compiler
from pairwise import pairwise
from scipy import interpolate
from torch import Tensor

from kanzoo import kernels
from kanzoo.bases.spline import BSpline

FEATURES, CELLS = 3, 4


def make_basis(order: int, kind: str, grid: str) -> BSpline:
    """On [-1, 1]; "adaptive" with breaks of its own for every feature."""
    basis = BSpline(
        FEATURES,
        grid_size=CELLS,
        spline_order=order,
        grid_range=(-1.0, 1.0),
        extrapolation=kind,
        grid=grid,
        dtype=torch.float64,
    )
    if grid == "adaptive":
        generator = torch.Generator().manual_seed(3)
        steps = torch.rand(FEATURES, CELLS, generator=generator, dtype=torch.float64) + 0.2
        breaks = torch.cat([torch.zeros(FEATURES, 1), steps.cumsum(1)], 1)
        basis.set_breaks(breaks * 2 / breaks[:, -1:] - 1)
    return basis


def knots_of(basis: BSpline) -> Tensor:
    return basis.knots if basis.knots.dim() == 2 else basis.knots.unsqueeze(0)


def points(count: int) -> Tensor:
    """Irregular points over the grid, all outer cells and far beyond: (count, FEATURES)."""
    x = torch.linspace(-4.51, 4.37, count * FEATURES, dtype=torch.float64)
    return x.view(FEATURES, count).t().sub(x.mean()).roll(1, 1).contiguous()


@pairwise(
    order=range(6),
    layer=[COMPILED, DENSE],
    kind=EXTRAPOLATIONS,
    grid=["uniform", "adaptive"],
)
def test_linear_equals_the_basis(layer, order: int, grid: str, kind: str) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    basis = make_basis(order, kind, grid)
    x = torch.cat([points(40), points(40).roll(1, 1)]).requires_grad_()
    weight = torch.randn(FEATURES, CELLS + order, 5, dtype=torch.float64, requires_grad=True)
    y = layer(x, weight, None, knots_of(basis), order, kind)
    want = torch.einsum("kni,iko->no", basis(x), weight)
    g = torch.randn_like(y)
    assert_close(y.detach(), want.detach(), 1e-12)
    wanted = torch.autograd.grad(want, (x, weight), g, materialize_grads=True)
    for one, other in zip(torch.autograd.grad(y, (x, weight), g), wanted, strict=True):
        assert_close(one, other, 1e-12)


@needs_compiler
@pairwise(order=range(6), kind=EXTRAPOLATIONS, grid=["uniform", "adaptive"])
def test_convolution_equals_the_basis(order: int, grid: str, kind: str) -> None:
    torch.manual_seed(0)
    basis = make_basis(order, kind, grid)
    image = points(35).t().reshape(1, FEATURES, 5, 7).requires_grad_()
    functions = CELLS + order
    weight = torch.randn(FEATURES, 3, 2, functions, 5, dtype=torch.float64, requires_grad=True)
    y = kernels.spline_conv2d(image, weight, None, knots_of(basis), order, kind)
    planes = basis(image.movedim(1, -1)).permute(1, 4, 0, 2, 3).flatten(1, 2)
    want = F.conv2d(planes, weight.permute(4, 0, 3, 1, 2).flatten(1, 2))
    g = torch.randn_like(y)
    assert_close(y.detach(), want.detach(), 1e-12)
    wanted = torch.autograd.grad(want, (image, weight), g, materialize_grads=True)
    for one, other in zip(torch.autograd.grad(y, (image, weight), g), wanted, strict=True):
        assert_close(one, other, 1e-12)


@pairwise(order=range(6), layer=[COMPILED, DENSE], grid=["uniform", "adaptive"])
def test_functions_and_slopes_equal_scipy(layer, order: int, grid: str) -> None:  # type: ignore[no-untyped-def]
    basis = make_basis(order, "zero", grid)
    knots = knots_of(basis)
    count = CELLS + order
    x = points(60)
    for feature, t in enumerate(knots.expand(FEATURES, -1).numpy()):
        column = x[:, feature : feature + 1].clone().requires_grad_()
        grid_of = knots[min(feature, len(knots) - 1)][None]
        own = torch.eye(count, dtype=torch.float64)[None]  # every function as an output
        y = layer(column, own, None, grid_of, order, "zero")
        elements = [
            interpolate.BSpline.basis_element(t[j : j + order + 2], extrapolate=False)
            for j in range(count)
        ]
        at = column.detach().numpy()[:, 0]
        want = np.stack([np.nan_to_num(e(at)) for e in elements], 1)
        assert_close(y.detach(), torch.from_numpy(want), 1e-12)
        for j, e in enumerate(elements):
            (found,) = torch.autograd.grad(y[:, j].sum(), column, retain_graph=True)
            slopes = np.nan_to_num(e.derivative()(at)) if order else np.zeros_like(at)
            assert_close(found[:, 0], torch.from_numpy(slopes), 1e-12)


@pytest.mark.parametrize("layer", [COMPILED, DENSE])
def test_decay_in_float32_next_to_points_inside(layer) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    basis = make_basis(3, "zero", "adaptive")
    x = points(200)[torch.randperm(200)].float().requires_grad_()
    weight = torch.randn(FEATURES, CELLS + 3, 33, requires_grad=True)
    g = torch.randn(200, 33)
    y = layer(x, weight, None, knots_of(basis).float(), 3, "zero")
    want = torch.einsum("kni,iko->no", basis(x.double()), weight.double())
    assert_close(y.detach(), want.detach(), 1e-5)
    wanted = torch.autograd.grad(want, (x, weight), g.double())
    for one, other in zip(torch.autograd.grad(y, (x, weight), g), wanted, strict=True):
        assert_close(one, other.double(), 5e-5)
