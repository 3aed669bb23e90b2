"""The layer as one node of autograd: branch and bias in the kernels, order of rows kept."""

import pytest
import torch
import torch.nn.functional as F
from kernel_cases import EXTRAPOLATIONS, assert_close, make_case, needs_compiler
from pairwise import pairwise
from torch import Tensor

from kanzoo import kernels
from kanzoo.kernels.native.enumerations import SPLINE_RESIDUALS
from kanzoo.kernels.spline import calls
from kanzoo.kernels.spline import linear_direct as direct

SIZES = [(5, 3, 20), (300, 33, 64), (700, 5, 250), (1500, 17, 8), (4, 400, 100), (300, 1, 513)]


def _dense(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: str | None, *options: object
) -> Tensor:
    branch = {None: None, "identity": x, "silu": F.silu(x)}[residual]
    y = kernels.dense_linear(x, weight, branch, *options)  # type: ignore[arg-type]
    return y if bias is None else y + bias


def _gradients(y: Tensor, variables: list[Tensor]) -> list[Tensor]:
    torch.manual_seed(1)
    found = torch.autograd.grad(y, variables, torch.randn(y.shape).to(y))
    return [y.detach(), *found]


@pytest.fixture
def keep_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the order of rows whatever the size, and use threads for little work."""
    monkeypatch.setattr(direct, "FEW_OUTPUTS", 10**9)
    monkeypatch.setattr(direct, "MANY_INPUTS", 0)
    monkeypatch.setattr(calls, "SERIAL_WORK", 0)
    monkeypatch.setattr(direct, "max_threads", lambda: 3)
    calls.sizes_of.cache_clear()


@needs_compiler
@pytest.mark.usefixtures("keep_all")
@pairwise(sizes=SIZES, knots=["uniform", "random"], residual=SPLINE_RESIDUALS)
def test_blocks_branches_and_threads_equal_dense(
    sizes: tuple[int, int, int], knots: str, residual: str | None
) -> None:
    rows, inputs, outputs = sizes
    case = make_case(rows, inputs, outputs, 4, 3, knots, residual is not None)
    x, weight, grid = (t.double() for t in (case[0], case[1], case[3]))
    bias = torch.randn(outputs, dtype=torch.float64)
    variables = [t.requires_grad_() for t in (x, weight, bias)]
    options = (residual, grid, 3, "linear")
    found = _gradients(kernels.direct_linear(x, weight, bias, *options), variables)
    want = _gradients(_dense(x, weight, bias, *options), variables)
    for one, other in zip(found, want, strict=True):
        assert_close(one, other, 1e-12)


@needs_compiler
@pytest.mark.usefixtures("keep_all")
@pairwise(order=range(6), knots=["uniform", "random", "repeated", "clamped"], kind=EXTRAPOLATIONS)
def test_every_order_and_grid_in_float32(order: int, knots: str, kind: str) -> None:
    x, weight, _, grid = make_case(200, 20, 7, 5, order, knots)
    variables = [t.requires_grad_() for t in (x, weight)]
    y = kernels.direct_linear(x, weight, None, "silu", grid, order, kind)
    found = _gradients(y, variables)
    wide = [t.detach().double().requires_grad_() for t in variables]
    want = _gradients(_dense(*wide, None, "silu", grid.double(), order, kind), wide)
    scale = [t.abs().max() for t in want]
    if order == 1:  # slopes jump at the knots, where the case has points
        found, want = [found[0], found[2]], [want[0], want[2]]
    for one, other, most in zip(found, want, scale, strict=False):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=2e-5 * float(most))


@needs_compiler
@pytest.mark.usefixtures("keep_all")
@pytest.mark.parametrize("kind", EXTRAPOLATIONS)
def test_nan_stays_in_its_row(kind: str) -> None:
    x, weight, _, knots = make_case(60, 4, 5, 3, 3, "uniform")
    clean = kernels.direct_linear(x, weight, None, "silu", knots, 3, kind)
    x[3, 2] = torch.nan
    x.requires_grad_()
    y = kernels.direct_linear(x, weight, None, "silu", knots, 3, kind)
    others = [n for n in range(60) if n != 3]
    assert y[3].isnan().all()
    assert torch.equal(y[others], clean[others])
    y.sum().backward()
    assert x.grad is not None
    assert x.grad[others].isfinite().all()
    assert x.grad[3, 2].isnan()


@needs_compiler
@pytest.mark.parametrize("cells", [5, 20, 200])
@pytest.mark.parametrize("outputs", [64, 512])
def test_what_is_saved_beside_the_arguments(cells: int, outputs: int) -> None:
    """At most 0.6 of the bytes of the input, whatever the grid."""
    x, weight, _, knots = make_case(512, 100, outputs, cells, 3, "uniform")
    variables = {t.data_ptr() for t in (x, weight, knots)}
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t), t)[1], lambda t: t):
        kernels.direct_linear(
            x.requires_grad_(), weight.requires_grad_(), None, "silu", knots, 3, "zero"
        )
    beside = [t for t in saved if t.data_ptr() not in variables]
    assert len(beside) == (outputs == 64 and cells <= 64)
    assert sum(t.nbytes for t in beside) < 0.6 * x.nbytes


@needs_compiler
@pytest.mark.usefixtures("keep_all")
def test_frozen_weights_and_inputs() -> None:
    x, weight, _, knots = make_case(300, 20, 30, 5, 3, "uniform")
    arguments = (None, "silu", knots, 3, "clamp")
    both = [t.detach().clone().requires_grad_() for t in (x, weight)]
    want = _gradients(kernels.direct_linear(*both, *arguments), both)
    x.requires_grad_()
    found = _gradients(kernels.direct_linear(x, weight, *arguments), [x])
    torch.testing.assert_close(found[1], want[1])
    x = x.detach()
    weight.requires_grad_()
    found = _gradients(kernels.direct_linear(x, weight, *arguments), [weight])
    torch.testing.assert_close(found[1], want[2])
