"""The B-spline layer as a citizen of PyTorch: derivatives, transforms, compilation, autocast."""

import pytest
import torch
import torch.nn.functional as F
from kernel_cases import (
    COMPILED,
    DENSE,
    EXTRAPOLATIONS,
    make_case,
    make_knots,
    needs_compiler,
)
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from kanzoo import kernels


@pytest.mark.parametrize("kind", EXTRAPOLATIONS)
@pytest.mark.parametrize("order", [2, 3, 5])
@pytest.mark.parametrize("layer", [COMPILED, DENSE])
def test_gradcheck_and_gradgradcheck(layer, order: int, kind: str) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(1)
    knots = make_knots(3, order, 2, "uniform").double()
    x = torch.linspace(-1.43, 1.37, 6, dtype=torch.float64).view(3, 2).requires_grad_()
    weight = torch.randn(2, 3 + order + 1, 2, dtype=torch.float64, requires_grad=True)

    def function(x: Tensor, weight: Tensor) -> Tensor:  # the residual depends on x, as in a layer
        return layer(x, weight, x.tanh(), knots, order, kind)

    assert torch.autograd.gradcheck(function, (x, weight))
    assert torch.autograd.gradgradcheck(function, (x, weight))


@needs_compiler
def test_only_inputs_are_saved() -> None:
    x, weight, residual, knots = make_case(64, 8, 5, 50, 3, "uniform")
    saved: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: (saved.append(t.numel()), t)[1], lambda t: t
    ):
        kernels.spline_linear(
            x.requires_grad_(), weight.requires_grad_(), residual, knots, 3, "zero"
        )
    assert sorted(saved) == sorted(t.numel() for t in (x, weight, residual, knots))


@needs_compiler
def test_torch_compile_and_export() -> None:
    x, weight, _, knots = make_case(9, 4, 6, 5, 3, "uniform")
    weight.requires_grad_()

    def function(x: Tensor, weight: Tensor) -> Tensor:
        return kernels.spline_linear(x, weight, F.silu(x), knots, 3, "clamp") * 2

    fast = torch.compile(function, backend="aot_eager", fullgraph=True)
    want, found = function(x, weight), fast(x, weight)
    torch.testing.assert_close(found, want)
    g = torch.randn_like(want)
    torch.testing.assert_close(
        torch.autograd.grad(found, weight, g), torch.autograd.grad(want, weight, g)
    )


@needs_compiler
def test_operators_pass_opcheck() -> None:
    x, weight, residual, knots = make_case(5, 3, 4, 5, 3, "uniform")
    arguments = (x.requires_grad_(), weight.requires_grad_(), residual, knots, 3, "zero")
    torch.library.opcheck(torch.ops.kanzoo.spline_linear.default, arguments)
    image, kernel = torch.randn(2, 3, 5, 5, requires_grad=True), torch.randn(3, 2, 2, 8, 4)
    options = (None, knots, 3, "zero", [1, 1], [1, 0], [1, 1], 1)
    torch.library.opcheck(torch.ops.kanzoo.spline_conv2d.default, (image, kernel, *options))


@needs_compiler
def test_autocast_and_half_precision() -> None:
    x, weight, residual, knots = make_case(9, 4, 6, 5, 3, "uniform")
    want = kernels.spline_linear(x, weight, residual, knots, 3, "clamp")
    with torch.autocast("cpu", torch.bfloat16):
        found = kernels.spline_linear(x, weight, residual, knots, 3, "clamp")
    assert found.dtype == torch.float32
    assert torch.equal(found, want)
    half = [t.bfloat16() for t in (x, weight, residual, knots)]
    low = kernels.spline_linear(*half, 3, "clamp")
    exact = kernels.spline_linear(*[t.float() for t in half], 3, "clamp")
    assert low.dtype == torch.bfloat16
    assert torch.equal(low, exact.bfloat16())


@needs_compiler
def test_flops_count_the_functions_that_are_not_zero() -> None:
    x, weight, residual, knots = make_case(10, 4, 6, 50, 3, "uniform")
    weight.requires_grad_()
    with FlopCounterMode(display=False) as counter:
        y = kernels.spline_linear(x.requires_grad_(), weight, residual, knots, 3, "zero")
    assert counter.get_total_flops() == 2 * 10 * 4 * 6 * 5
    with FlopCounterMode(display=False) as counter:
        y.sum().backward()
    assert counter.get_total_flops() == 2 * 2 * 10 * 4 * 6 * 5
