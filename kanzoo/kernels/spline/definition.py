"""B-spline features in plain PyTorch, differentiable any number of times.

The definition that the kernels accelerate, and their stand-in where a kernel has no rule
(second derivatives, torch.func transforms, forward-mode gradients).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kanzoo.bases.knots import spline_values


def dense_linear(
    x: Tensor,
    weight: Tensor,
    residual: Tensor | None,
    knots: Tensor,
    order: int,
    extrapolation: str,
) -> Tensor:
    """The layer (N, in) -> (N, out) as one matrix product over the features."""
    values = _with_residual(spline_values(x, knots, order, extrapolation), residual)  # (T, N, in)
    return values.movedim(0, -1).flatten(-2) @ weight.flatten(0, 1)


def _with_residual(values: Tensor, residual: Tensor | None) -> Tensor:
    return values if residual is None else torch.cat([values, residual.unsqueeze(0)])


def dense_conv2d(
    x: Tensor,
    weight: Tensor,
    residual: Tensor | None,
    knots: Tensor,
    order: int,
    extrapolation: str,
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """The convolution of padded images (B, C, H, W) as one convolution of the features.

    weight: (C, kh, kw, K + R, out / groups); returns (B, out, H', W').
    """
    values = spline_values(x.movedim(1, -1), knots, order, extrapolation)  # (K, B, H, W, C)
    residual = None if residual is None else residual.movedim(1, -1)
    values = _with_residual(values, residual).movedim(0, -1)
    planes = values.flatten(-2).movedim(-1, 1)  # (B, C (K + R), H, W)
    return F.conv2d(planes, conv_weight(weight, groups), None, stride, 0, dilation, groups)


def conv_weight(weight: Tensor, groups: int) -> Tensor:
    """(C, kh, kw, T, out / groups) as ``F.conv2d`` wants it: (out, C / groups * T, kh, kw)."""
    channels, kh, kw, functions, outputs = weight.shape
    grouped = weight.reshape(groups, channels // groups, kh, kw, functions, outputs)
    return grouped.permute(0, 5, 1, 4, 2, 3).reshape(groups * outputs, -1, kh, kw)
