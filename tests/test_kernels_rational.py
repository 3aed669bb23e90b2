"""Rational functions by kernel, against their formula."""

import copy

import pytest
import torch
from kernel_cases import needs_compiler
from pairwise import pairwise
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from kanzoo.bases.rational import GroupRational
from kanzoo.kernels.families.rational import dense_rational
from kanzoo.layers import KANConv2d, KANLinear
from kanzoo.layers.paths.native import Rational

Case = tuple[Tensor, Tensor, Tensor, Tensor]


def compiled(x: Tensor, above: Tensor, below: Tensor, group_of: Tensor) -> Tensor:
    y: Tensor = torch.ops.kanzoo.rational(x, above, below, group_of)
    return y


def make_case(shape: tuple[int, ...], groups: int, dtype: torch.dtype, first: bool = False) -> Case:
    """Inputs `(..., C)`, with `first` as images are seen with their channels last."""
    torch.manual_seed(0)
    channels = shape[-1]
    x = torch.randn(shape, dtype=dtype)
    x = x.movedim(-1, 1).contiguous().movedim(1, -1) if first else x
    below = torch.randn(4, groups, dtype=dtype)
    return x, torch.randn(6, dtype=dtype), below, torch.arange(channels) * groups // channels


def gradients(function, case: Case) -> list[Tensor]:  # type: ignore[no-untyped-def]
    *inputs, group_of = case
    leaves = [t.detach().requires_grad_() for t in inputs]
    y = function(*leaves, group_of)
    weights = torch.cos(torch.arange(y.numel(), dtype=y.dtype)).view(y.shape)
    return [y.detach(), *torch.autograd.grad(y, leaves, weights)]


SHAPES = [
    ((7, 5), 5, False),
    ((1, 1), 1, False),
    ((0, 8), 8, False),
    ((300, 20), 1, False),  # several rows make a vector, the last one incomplete
    ((61, 16), 4, False),
    ((3, 7, 130), 130, False),  # a vector that ends with the row
    ((40, 1000), 8, False),
    ((70000, 3), 3, False),  # many tasks
    ((4, 9, 9, 20), 8, True),
    ((4, 3, 2, 5), 5, True),  # images smaller than a vector
    ((9, 33, 6), 2, True),
]


@needs_compiler
@pairwise(case=SHAPES, dtype=[torch.float32, torch.float64])
def test_values_and_gradients(case, dtype) -> None:  # type: ignore[no-untyped-def]
    shape, groups, first = case
    case = make_case(shape, groups, dtype, first)
    wide = tuple(t.double() if t.is_floating_point() else t for t in case)
    tolerance = 1e-12 if dtype == torch.float64 else 5e-5
    for found, want in zip(gradients(compiled, case), gradients(dense_rational, wide), strict=True):
        assert found.shape == want.shape
        scale = want.abs().max().clamp(min=1) if want.numel() else 1
        assert found.dtype == dtype
        torch.testing.assert_close(found / scale, (want / scale).to(dtype), atol=tolerance, rtol=0)


@needs_compiler
def test_order_in_memory_is_kept() -> None:
    """So that a convolution gets its features channels first, as it has its pixels."""
    case = make_case((2, 5, 6, 8), 4, torch.float32, first=True)
    y, grad_x, *_ = gradients(compiled, case)
    assert y.stride() == grad_x.stride() == case[0].stride()


@needs_compiler
def test_any_order_of_inputs_and_gradients() -> None:
    x, above, below, group_of = make_case((6, 9, 16), 4, torch.float64)
    flipped = x.transpose(0, 1)  # neither channels last nor first in memory
    want = gradients(dense_rational, (flipped, above, below, group_of))
    for found, wanted in zip(
        gradients(compiled, (flipped, above, below, group_of)), want, strict=True
    ):
        torch.testing.assert_close(found, wanted)
    leaf = x.clone().requires_grad_()
    compiled(leaf, above, below, group_of).sum().backward()  # an expanded gradient
    want_x = leaf.grad
    leaf.grad = None
    dense_rational(leaf, above, below, group_of).sum().backward()
    torch.testing.assert_close(want_x, leaf.grad)


@needs_compiler
def test_derivatives() -> None:
    *inputs, group_of = make_case((5, 6), 3, torch.float64)
    leaves = [t.requires_grad_() for t in inputs]
    assert gradcheck(lambda *t: compiled(*t, group_of), leaves)
    assert gradgradcheck(lambda *t: compiled(*t, group_of), leaves)


@needs_compiler
@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2), (1, 2)])
def test_gradients_that_are_not_asked_for(wanted: tuple[int, ...]) -> None:
    case = make_case((9, 20), 4, torch.float64)
    every = gradients(dense_rational, case)[1:]
    leaves = [t.detach().requires_grad_(i in wanted) for i, t in enumerate(case[:3])]
    y = compiled(*leaves, case[3])
    weights = torch.cos(torch.arange(y.numel(), dtype=y.dtype)).view(y.shape)
    y.backward(weights)
    for i, leaf in enumerate(leaves):
        if i in wanted:
            torch.testing.assert_close(leaf.grad, every[i])
        else:
            assert leaf.grad is None


@needs_compiler
def test_a_denominator_without_slope() -> None:
    """At Q(x) = 0, as at x = 0, |Q| has the slope 0 that PyTorch gives it."""
    x, above, below, group_of = make_case((4, 20), 2, torch.float64)
    x[1:3] = 0
    for found, want in zip(
        gradients(compiled, (x, above, below, group_of)),
        gradients(dense_rational, (x, above, below, group_of)),
        strict=True,
    ):
        torch.testing.assert_close(found, want)


@pytest.mark.parametrize("channels", [20, 130])
@needs_compiler
def test_nan_stays_in_its_row(channels: int) -> None:
    case = make_case((30, channels), 2, torch.float32)
    case[0][3, -1] = float("nan")
    y, grad_x, *_ = gradients(compiled, case)
    clean = torch.arange(30) != 3
    for found in (y, grad_x):
        assert found[3, -1].isnan()
        assert found[3, :-1].isfinite().all()
        assert found[clean].isfinite().all()


@needs_compiler
def test_threads_do_not_change_the_sums() -> None:
    case = make_case((5000, 24), 3, torch.float32)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = gradients(compiled, case)
        torch.set_num_threads(3)
        assert all(map(torch.equal, gradients(compiled, case), one))
    finally:
        torch.set_num_threads(threads)


@needs_compiler
def test_only_the_input_is_kept() -> None:
    case = make_case((64, 32), 4, torch.float32)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        compiled(case[0].requires_grad_(), *(t.requires_grad_() for t in case[1:3]), case[3])
    assert sum(t.numel() for t in kept if t.shape == (64, 32)) == 64 * 32


@pytest.mark.slow
@needs_compiler
def test_operator_follows_the_rules_of_pytorch() -> None:
    case = [t.requires_grad_(t.is_floating_point()) for t in make_case((6, 10), 2, torch.float64)]
    torch.library.opcheck(torch.ops.kanzoo.rational, case)
    first = make_case((2, 3, 3, 4), 2, torch.float64, first=True)
    torch.library.opcheck(torch.ops.kanzoo.rational, first)


@needs_compiler
@pytest.mark.parametrize("layer", ["linear", "conv", "residual"])
def test_layers_equal_the_formula(layer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if layer == "conv":
        net: nn.Module = KANConv2d(6, 4, 3, padding=1, basis="rational", dtype=torch.float64)
        x = torch.randn(5, 6, 7, 8, dtype=torch.float64)
    else:
        residual = "silu" if layer == "residual" else None
        net = KANLinear(20, 7, basis="rational", residual=residual, dtype=torch.float64)
        x = torch.randn(9, 4, 20, dtype=torch.float64)
    slow = copy.deepcopy(net)
    found = gradients_of(net, x)
    monkeypatch.setattr(Rational, "can", lambda *_: "the definition is wanted")
    for one, other in zip(found, gradients_of(slow, x), strict=True):
        torch.testing.assert_close(one, other)


def gradients_of(net: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y = net(x)
    return [y, *torch.autograd.grad(y.square().sum(), [x, *net.parameters()])]


@needs_compiler
def test_transforms_and_lower_precision() -> None:
    net = KANLinear(12, 5, basis="rational")
    basis = net.expansion.basis
    assert isinstance(basis, GroupRational)
    x = torch.randn(8, 12)
    torch.testing.assert_close(torch.func.vmap(net)(x), net(x))
    with torch.autocast("cpu", torch.bfloat16):
        y = net(x)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    torch.testing.assert_close(net.expansion(x), basis(x))
