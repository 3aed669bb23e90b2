"""The compiled convolution of B-splines against the linear layer over patches."""

import pytest
import torch
import torch.nn.functional as F
from kernel_cases import assert_close, make_knots, needs_compiler
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from kanzoo import kernels
from kanzoo.kernels.spline import conv as convolution
from kanzoo.layers import KANConv2d

pytestmark = needs_compiler


CONVOLUTIONS = [  # channels and outputs per group, groups, kernel, stride, padding, dilation
    (3, 5, 1, (3, 3), 1, 1, 1),
    (2, 17, 1, (3, 3), 2, 1, 1),
    (1, 3, 4, (3, 2), (3, 1), (0, 2), (1, 2)),
    (2, 33, 2, (1, 1), 2, 0, 1),
    (1, 1, 1, (5, 4), 1, 2, 2),
]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution_equals_linear_over_padded_patches(  # type: ignore[no-untyped-def]
    monkeypatch: pytest.MonkeyPatch, case, residual: bool, threads: int
) -> None:
    monkeypatch.setattr(convolution, "thread_count", lambda work: threads)
    inner, outputs, groups, kernel, stride, padding, dilation = case
    torch.manual_seed(0)
    channels, functions = inner * groups, 7 + residual
    knots = make_knots(4, 3, channels, "random").double()
    x = torch.randn(5, channels, 12, 11, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(channels, *kernel, functions, outputs, dtype=torch.float64)
    weight.requires_grad_()
    rest = x.cos() if residual else None
    y = kernels.spline_conv2d(
        x, weight, rest, knots, 3, "linear", stride, padding, dilation, groups, 1.0
    )

    taps = kernel[0] * kernel[1]
    ph, pw = (padding, padding) if isinstance(padding, int) else padding
    padded = F.pad(x, (pw, pw, ph, ph))  # its cosine is 1, the residual's padding above
    patches = F.unfold(padded, kernel, dilation, 0, stride).movedim(1, 2)  # (B, pixels, C taps)
    planes = []
    for g in range(groups):
        part = patches.unflatten(2, (channels, taps))[:, :, g * inner : (g + 1) * inner].flatten(2)
        matrix = weight[g * inner : (g + 1) * inner].flatten(1, 2).flatten(0, 1)
        grid = knots[g * inner : (g + 1) * inner].repeat_interleave(taps, 0)
        tail = part.cos() if residual else None
        planes.append(kernels.dense_linear(part, matrix, tail, grid, 3, "linear"))
    want = torch.cat(planes, 2).movedim(2, 1).reshape(y.shape)
    assert_close(y.detach(), want.detach(), 1e-12)
    g = torch.randn_like(y)
    found = torch.autograd.grad(y, (x, weight), g)
    for one, other in zip(found, torch.autograd.grad(want, (x, weight), g), strict=True):
        assert_close(one, other, 1e-12)


@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_gradgradcheck(stride: int) -> None:
    torch.manual_seed(0)
    knots = make_knots(3, 3, 2, "uniform").double()
    x = torch.randn(1, 2, 4, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 2, 2, 7, 2, dtype=torch.float64, requires_grad=True)

    def function(x: Tensor, weight: Tensor) -> Tensor:
        return kernels.spline_conv2d(x, weight, x.tanh(), knots, 3, "clamp", stride, 1)

    assert torch.autograd.gradcheck(function, (x, weight))
    assert torch.autograd.gradgradcheck(function, (x, weight))


def test_flops_of_both_passes() -> None:
    layer, x = KANConv2d(4, 6, 3, groups=2, backend="compiled"), torch.randn(2, 4, 7, 6)
    counts = []
    with FlopCounterMode(display=False) as counter:
        y = layer(x.requires_grad_())
        counts.append(counter.get_total_flops())
        y.sum().backward()
        counts.append(counter.get_total_flops())
    assert counts == [2 * y.numel() * 2 * 9 * 5, 3 * 2 * y.numel() * 2 * 9 * 5]
