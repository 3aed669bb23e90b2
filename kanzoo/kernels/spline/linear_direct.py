"""B-spline layers as one node of autograd, past PyTorch's dispatcher.

Residual branch and bias are part of the node: of a small layer most of the time goes into finding
the operators, of a large one with few outputs much of it into passes over the inputs.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kanzoo.kernels.native.call import check_features, max_threads
from kanzoo.kernels.spline.calls import Sizes, bind_backward, bind_forward, order_size, sizes_of
from kanzoo.kernels.spline.linear import spline_linear

FEW_OUTPUTS = 256  # up to here sorting takes so long that the backward is told the order
MANY_INPUTS = 2**14  # numbers of a batch, from here on


def direct_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: str | None,
    knots: Tensor,
    order: int,
    extrapolation: str,
) -> Tensor:
    """bias + sum_i sum_k weight[i, k] phi_k(x[..., i]), as `spline_linear`.

    The last phi is the residual branch, by its name: one of `enumerations.SPLINE_RESIDUALS`.
    The caller has made sure that nothing but autograd must see what is done. Raises ``ValueError``
    for wrong shapes, dtypes and devices, and for no inputs.
    """
    y: Tensor = _Direct.apply(x, weight, bias, residual, knots, order, extrapolation)
    return y


class _Direct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, *options: Any) -> Any:
        residual, knots, order, extrapolation = options
        check_features(x)
        rows = x.reshape(-1, x.shape[-1]).contiguous()
        weight, knots = weight.contiguous(), knots.contiguous()
        start = None if bias is None else bias.contiguous()
        shapes = (rows.shape, weight.shape, knots.shape)
        ctx.sizes = sizes_of(*shapes, order, extrapolation, residual, max_threads())
        y = x.new_empty(*x.shape[:-1], weight.shape[2])
        sorted_rows = None
        if any(ctx.needs_input_grad[:2]):
            sorted_rows = _order_buffer(rows, ctx.sizes)
        bind_forward(ctx.sizes, rows, weight, start, knots, y.view(ctx.sizes.y), sorted_rows)()
        ctx.save_for_backward(x, weight, bias, knots, sorted_rows)
        ctx.options = residual, order, extrapolation
        return y

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        x, weight, _, knots, sorted_rows = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():  # gradients of these gradients may follow
            return *_differentiable(ctx, grad), None, None, None, None
        rows = x.reshape(-1, x.shape[-1]).contiguous()
        grad = grad.reshape(len(rows), -1).contiguous()
        grad_x = torch.empty_like(rows) if need_x else None
        grad_weight = None
        if need_weight:
            grad_weight = torch.empty_like(weight, memory_format=torch.contiguous_format)
        weight, knots = weight.contiguous(), knots.contiguous()
        tensors = (grad, rows, weight, knots, grad_x, grad_weight, sorted_rows)
        bind_backward(ctx.sizes, *tensors)()
        grad_bias = grad.sum(0) if need_bias else None
        grad_x = None if grad_x is None else grad_x.view(x.shape)
        return grad_x, grad_weight, grad_bias, None, None, None, None


def _order_buffer(x: Tensor, sizes: Sizes) -> Tensor | None:
    """Memory in which the forward tells the backward how rows are sorted, if that is worth it."""
    if sizes.weight[2] > FEW_OUTPUTS or x.numel() < MANY_INPUTS:
        return None
    count = order_size(x.dtype, sizes)
    return torch.empty(count, dtype=torch.int16) if count else None


def _differentiable(ctx: Any, grad: Tensor) -> list[Tensor | None]:
    """The gradients of x, weight and bias by operators that have derivatives of their own."""
    x, weight, bias, knots, _ = ctx.saved_tensors
    residual, order, extrapolation = ctx.options
    branch = x if residual == "identity" else F.silu(x) if residual == "silu" else None
    knots = knots if knots.dim() == 2 else knots.unsqueeze(0)
    y = spline_linear(x, weight, branch, knots, order, extrapolation)
    y = y if bias is None else y + bias
    needed = ctx.needs_input_grad[:3]
    inputs = [t for t, need in zip((x, weight, bias), needed, strict=True) if need]
    grads = iter(torch.autograd.grad(y, inputs, grad, create_graph=True))
    return [next(grads) if need else None for need in needed]
