"""B-spline features in plain PyTorch, differentiable any number of times.

The definition that the kernels accelerate, and their stand-in where a kernel has no rule
(second derivatives, torch.func transforms, forward-mode gradients).
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

EXTRAPOLATIONS = ("zero", "clamp", "linear")


def _ratio(numerator: Tensor, width: Tensor) -> Tensor:
    """Divide by a knot distance; 0 where knots coincide, as Cox and de Boor define it."""
    safe = torch.where(width > 0, width, torch.ones_like(width))
    return torch.where(width > 0, numerator / safe, torch.zeros_like(safe))


def _raise_degree(lower: Tensor, x: Tensor, knots: Tensor, degree: int) -> Tensor:
    """Functions of ``degree`` (..., m) from those of ``degree - 1`` (..., m + 1)."""
    left = _ratio(x - knots[..., : -degree - 1], knots[..., degree:-1] - knots[..., : -degree - 1])
    right = _ratio(knots[..., degree + 1 :] - x, knots[..., degree + 1 :] - knots[..., 1:-degree])
    return left * lower[..., :-1] + right * lower[..., 1:]


def _slope(lower: Tensor, knots: Tensor, order: int) -> Tensor:
    """First derivatives from the functions of one degree less."""
    scaled = _ratio(lower * order, knots[..., order:] - knots[..., :-order])
    return scaled[..., :-1] - scaled[..., 1:]


def _cell_indicator(x: Tensor, knots: Tensor, outer: int) -> Tensor:
    """Degree-0 functions: one at the cell of x, the right end in the last non-empty cell.

    x lies between the knots that are left without the ``outer`` first and last ones.
    """
    grid = knots[..., outer : knots.shape[-1] - outer].contiguous()
    cells = grid.shape[-1] - 1
    last = (grid[..., :-1] < grid[..., -1:]).sum(-1, keepdim=True) - 1
    inner = (x >= grid[..., 1:-1]).sum(-1, keepdim=True)
    cell = torch.minimum(inner, last.clamp(min=0)) + outer
    positions = torch.arange(cells + 2 * outer, device=x.device)
    return (positions == cell).to(x.dtype)


def spline_features(x: Tensor, knots: Tensor, order: int, extrapolation: str) -> Tensor:
    """All B-splines (de Boor, "A Practical Guide to Splines") at x.

    x: (..., features); knots: (1 or features, G + 2 * order + 1), ascending. Returns
    (..., features, G + order). Outside [knots[order], knots[-order - 1]] the functions decay over
    the outer knots, as they are defined ("zero"), keep their value at the end ("clamp") or go on
    with value and slope ("linear").
    """
    if extrapolation not in EXTRAPOLATIONS:
        raise ValueError(f"extrapolation must be one of {EXTRAPOLATIONS}, got {extrapolation!r}")
    points = x.unsqueeze(-1)
    outer = 0 if extrapolation == "zero" else order
    low, high = knots[:, outer, None], knots[:, knots.shape[-1] - outer - 1, None]
    outside = (points < low) | (points > high)
    # not clamp alone: with tensor bounds it halves the gradient at the very ends
    inside = torch.where(outside, points.detach().clamp(low, high), points)
    value = lower = _cell_indicator(inside.detach(), knots, outer)
    for degree in range(1, order + 1):
        lower, value = value, _raise_degree(value, inside, knots, degree)
    if extrapolation == "linear" and order > 0:
        value = value + _slope(lower, knots, order) * (points - inside)
    if extrapolation == "zero":
        value = torch.where(outside, torch.zeros_like(value), value)
    return torch.where(points.isnan(), points, value)


def dense_linear(
    x: Tensor,
    weight: Tensor,
    residual: Tensor | None,
    knots: Tensor,
    order: int,
    extrapolation: str,
) -> Tensor:
    """The layer (N, in) -> (N, out) as one matrix product over the features."""
    features = spline_features(x, knots, order, extrapolation)  # (N, in, K)
    if residual is not None:
        features = torch.cat([features, residual.unsqueeze(-1)], -1)
    return features.flatten(-2) @ weight.flatten(0, 1)


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
    features = spline_features(x.movedim(1, -1), knots, order, extrapolation)  # (B, H, W, C, K)
    if residual is not None:
        features = torch.cat([features, residual.movedim(1, -1).unsqueeze(-1)], -1)
    planes = features.flatten(-2).movedim(-1, 1)  # (B, C (K + R), H, W)
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
