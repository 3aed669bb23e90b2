"""Convolutions that expand again in the backward equal those that keep their features."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kanzoo import kernels
from kanzoo.kernels.generic import conv as recompute

PLAIN: dict[tuple[int, bool], Callable[..., Tensor]] = {
    (1, False): F.conv1d,
    (2, False): F.conv2d,
    (3, False): F.conv3d,
    (1, True): F.conv_transpose1d,
    (2, True): F.conv_transpose2d,
    (3, True): F.conv_transpose3d,
}
CASES = [  # dimensions, transposed, groups, options
    (1, False, 1, {"stride": (2,), "padding": (1,), "dilation": (1,)}),
    (2, False, 2, {"stride": (1, 2), "padding": (0, 1), "dilation": (2, 1)}),
    (2, False, 4, {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)}),
    (3, False, 1, {"stride": (1, 2, 1), "padding": (1, 0, 1), "dilation": (1, 1, 1)}),
    (1, True, 2, {"stride": (2,), "padding": (1,), "dilation": (2,), "output_padding": (1,)}),
    (2, True, 1, {"stride": (2, 1), "padding": (0, 1), "dilation": (1, 1)}),
    (3, True, 2, {"stride": (1, 1, 2), "padding": (1, 0, 1), "dilation": (1, 1, 1)}),
]
CHANNELS, FUNCTIONS = 4, 3


def expansion(rate: Tensor, groups: int = 1) -> Callable[[Tensor], Tensor]:
    """A constant, a wave with a rate for every channel and a square."""

    def features(x: Tensor) -> Tensor:
        wave = torch.sin(x * rate.to(x.dtype).view(-1, *[1] * (x.dim() - 2)))
        values = torch.stack([torch.ones_like(x), wave, x.square()], 1)  # (B, T, C, *S)
        return values.unflatten(2, (groups, -1)).movedim(2, 1).flatten(1, 3)

    return features


def make_case(
    dims: int, transposed: bool, groups: int, size: int = 4, outputs: int = 4
) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(dims)
    x = torch.randn(2, CHANNELS, *[size] * dims, dtype=torch.float64)
    ends = (CHANNELS, outputs // groups) if transposed else (outputs, CHANNELS // groups)
    sides = (ends[0], FUNCTIONS, ends[1]) if transposed else (*ends, FUNCTIONS)
    weight = torch.randn(*sides, *[2] * dims, dtype=torch.float64)
    rate = torch.rand(CHANNELS, dtype=torch.float64)
    return x.requires_grad_(), weight.requires_grad_(), rate.requires_grad_()


def both(case: tuple[Any, ...], x: Tensor, weight: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
    dims, transposed, groups, options = case
    features = expansion(rate, groups)
    y = kernels.recomputed_conv(
        features, x, weight, [rate], groups=groups, transposed=transposed, **options
    )
    flat = kernels.flat_weight(weight, (*[()] * 3, transposed, (), groups))
    return y, PLAIN[dims, transposed](features(x), flat, groups=groups, **options)


@pytest.mark.parametrize(
    ("case", "needed"),
    [*((case, (0, 1, 2)) for case in CASES), *((CASES[1], n) for n in [(0,), (1,), (2,), (0, 2)])],
)
def test_equals_the_plain_convolution(case: tuple[Any, ...], needed: tuple[int, ...]) -> None:
    tensors = make_case(*case[:3], size=6)
    for n, t in enumerate(tensors):
        t.requires_grad_(n in needed)
    variables = [tensors[n] for n in needed]
    y, want = both(case, *tensors)
    torch.testing.assert_close(y, want)
    g = torch.randn_like(y)
    found = torch.autograd.grad(y, variables, g)
    torch.testing.assert_close(found, torch.autograd.grad(want, variables, g))


@pytest.mark.parametrize("case", CASES)
def test_gradcheck_and_gradgradcheck(case: tuple[Any, ...]) -> None:
    tensors = make_case(*case[:3], size=3, outputs=case[2])

    def function(*tensors: Tensor) -> Tensor:
        return both(case, *tensors)[0]

    assert torch.autograd.gradcheck(function, tensors, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, tensors, fast_mode=True)


def test_third_derivative() -> None:
    case = CASES[0]
    tensors = make_case(*case[:3])
    found, wanted = [], []
    for y, results in zip(both(case, *tensors), (found, wanted), strict=True):
        value = y.sin().sum()
        for _ in range(3):
            grads = torch.autograd.grad(value, tensors, create_graph=True)
            value = sum((g.square().sum() for g in grads), start=y.new_zeros(()))
            results.append(value)
    torch.testing.assert_close(found, wanted)


def test_second_derivative_where_input_and_weight_depend_on_the_parameters() -> None:
    case = CASES[1]
    x, weight, rate = make_case(*case[:3])

    def twice(pick: int) -> list[Tensor]:
        inner = x * rate.view(-1, 1, 1)
        kernel = weight * rate.sum()
        y = both(case, inner, kernel, rate)[pick]
        first = torch.autograd.grad(y.square().sum(), (x, weight, rate), create_graph=True)
        total = sum((g.sin().sum() for g in first), start=y.new_zeros(()))
        return [*first, *torch.autograd.grad(total, (x, weight, rate))]

    torch.testing.assert_close(twice(0), twice(1))


def test_only_the_pixels_are_saved() -> None:
    case = CASES[2]
    x, weight, rate = make_case(*case[:3], size=9)
    saved: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: (saved.append(t.numel()), t)[1], lambda t: t
    ):
        kernels.recomputed_conv(expansion(rate, 4), x, weight, [rate], groups=4, **case[3])
    assert sorted(saved) == sorted(t.numel() for t in (x, weight, rate))


def test_second_convolution_is_not_computed_in_the_backward(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[int] = []
    operate = recompute.operate

    def counted(*arguments: Any) -> Tensor:
        calls.append(1)
        return operate(*arguments)

    monkeypatch.setattr(recompute, "operate", counted)
    tensors = make_case(*CASES[2][:3])
    both(CASES[2], *tensors)[0].sum().backward()
    assert len(calls) == 1


def test_autocast_lowers_the_convolution_only() -> None:
    case = CASES[2]
    x, weight, rate = (t.detach().float().requires_grad_() for t in make_case(*case[:3], size=8))
    seen: list[torch.dtype] = []
    features = expansion(rate, 4)

    def watched(x: Tensor) -> Tensor:
        values = features(x)
        assert not torch.is_autocast_enabled("cpu")
        seen.append(values.dtype)
        return values

    with torch.autocast("cpu", torch.bfloat16):
        y = kernels.recomputed_conv(watched, x, weight, [rate], groups=4, **case[3])
    flat = weight.bfloat16().transpose(1, 2).flatten(1, 2)
    want = F.conv2d(features(x).bfloat16(), flat, groups=4, **case[3])
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, want, rtol=2e-2, atol=2e-2)
    found = torch.autograd.grad(y.float().sum(), (x, weight, rate))
    assert set(seen) == {torch.float32}
    wanted = torch.autograd.grad(want.float().sum(), (x, weight, rate))
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=2e-2, atol=5e-1)


@pytest.mark.parametrize(
    ("change", "message"), [({"stride": (1,)}, "stride"), ({"padding": (1, 1, 1)}, "padding")]
)
def test_wrong_options(change: dict[str, Any], message: str) -> None:
    x, weight, rate = make_case(2, False, 1)
    options = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1)} | change
    with pytest.raises(ValueError, match=message):
        kernels.recomputed_conv(expansion(rate), x, weight, [rate], **options)
    with pytest.raises(ValueError, match="one dimension more"):
        kernels.recomputed_conv(
            expansion(rate), x, weight[0], stride=(1, 1), padding=(0, 0), dilation=(1, 1)
        )
