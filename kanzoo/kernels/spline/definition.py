"""B-spline features in plain PyTorch, differentiable any number of times.

The definition that the kernels accelerate, and their stand-in where a kernel has no rule
(second derivatives, torch.func transforms, forward-mode gradients).
"""

from collections.abc import Callable, Sequence

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


def differentiate_gradient(
    function: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    variables: Sequence[Tensor | None],
    grads: Sequence[Tensor | None],
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Gradients of <grads, gradient of function> with respect to (grad y, x, weight, residual).

    For operators whose backward is a kernel without derivatives: ``function`` is the same map in
    differentiable operations. ``needs`` tells which of the first gradients were computed.
    """
    keep_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Aliases, as one variable may have been computed from another (residual from x).
        grad_y, x, weight, residual = (
            t if t is None else t.view_as(t) if t.requires_grad else t.detach().requires_grad_()
            for t in variables
        )
        assert grad_y is not None
        assert x is not None
        assert weight is not None
        inputs = [x, weight] if residual is None else [x, weight, residual]
        first = torch.autograd.grad(
            function(x, weight, residual), inputs, grad_y, create_graph=True, materialize_grads=True
        )
        pairs = [
            (f, g)
            for f, g, need in zip(first, grads, needs, strict=False)
            if need and g is not None and f.requires_grad
        ]
        if not pairs:
            return (None,) * len(variables)
        second = torch.autograd.grad(
            [f for f, _ in pairs],
            [grad_y, *inputs],
            [g for _, g in pairs],
            create_graph=keep_graph,
            materialize_grads=True,
        )
    return *second, *[None] * (len(variables) - len(second))
