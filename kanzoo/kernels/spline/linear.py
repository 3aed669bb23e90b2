"""The B-spline layer as PyTorch operators over the compiled kernels."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from kanzoo.kernels.generic.linear import unflatten_rows
from kanzoo.kernels.native.call import check_features, in_float32, max_threads
from kanzoo.kernels.native.operator import register
from kanzoo.kernels.spline.calls import Sizes, bind_backward, bind_forward, check_spline, sizes_of
from kanzoo.kernels.spline.definition import dense_linear

Options = tuple[int, str]  # order and extrapolation


def _sizes(
    x: Tensor, weight: Tensor, residual: Tensor | None, knots: Tensor, options: Options
) -> Sizes:
    """A residual is added by PyTorch, as any tensor."""
    rows_beside = int(residual is not None)
    shapes = (x.shape, weight.shape, knots.shape)
    return sizes_of(*shapes, *options, None, max_threads(), rows_beside)


def _forward(
    x: Tensor, weight: Tensor, residual: Tensor | None, knots: Tensor, *options: Any
) -> Tensor:
    x, weight, knots = x.contiguous(), weight.contiguous(), knots.contiguous()
    y = x.new_empty(x.shape[0], weight.shape[2])
    if y.numel() == 0 or x.numel() == 0:
        return y.zero_()
    bind_forward(_sizes(x, weight, residual, knots, options), x, weight, None, knots, y, None)()
    return y if residual is None else y.addmm_(residual, weight[:, -1])


def _backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    residual: Tensor | None,
    knots: Tensor,
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    *options, need_x, need_weight, need_residual = rest
    grad, x, weight, knots = (t.contiguous() for t in (grad, x, weight, knots))
    empty = grad.numel() == 0 or x.numel() == 0
    make = torch.zeros_like if empty else torch.empty_like
    grad_x = make(x) if need_x else x.new_empty(0)
    grad_weight = make(weight) if need_weight else x.new_empty(0)
    grad_residual = x.new_empty(0)
    if residual is not None and need_residual:
        grad_residual = torch.mm(grad, weight[:, -1].t())
    if not empty and (need_x or need_weight):
        results = (grad_x if need_x else None, grad_weight if need_weight else None)
        sizes = _sizes(x, weight, residual, knots, (options[0], options[1]))
        bind_backward(sizes, grad, x, weight, knots, *results, None)()
    if residual is not None and need_weight and not empty:
        torch.mm(residual.t(), grad, out=grad_weight[:, -1])
    return grad_x, grad_weight, grad_residual


register(
    "spline_linear",
    "Tensor x, Tensor weight, Tensor? residual, Tensor knots, int order, str extrapolation",
    3,
    forward=_forward,
    backward=_backward,
    fake=lambda x, weight, *_: x.new_empty(x.shape[0], weight.shape[2]),
    definition=dense_linear,
)
torch.library.register_autocast("kanzoo::spline_linear", "cpu", torch.float32)


def _products(x: tuple[int, ...], weight: tuple[int, ...], residual: object, order: int) -> int:
    """Multiplications and additions of one pass: the non-zero functions and the residual."""
    return 2 * x[0] * x[1] * weight[2] * (order + 1 + (residual is not None))


@register_flop_formula(torch.ops.kanzoo.spline_linear)
def _forward_flops(x, weight, residual, knots, order, *_, out_shape=None, **__) -> int:  # type: ignore[no-untyped-def]
    return _products(x, weight, residual, order)


@register_flop_formula(torch.ops.kanzoo.spline_linear_backward)
def _backward_flops(grad, x, weight, residual, knots, order, *rest, out_shape=None, **__) -> int:  # type: ignore[no-untyped-def]
    _, need_x, need_weight, _ = rest
    return int(_products(x, weight, residual, order) * (need_x + need_weight))


def spline_linear(
    x: Tensor,
    weight: Tensor,
    residual: Tensor | None,
    knots: Tensor,
    order: int,
    extrapolation: str,
) -> Tensor:
    """sum_i sum_k weight[i, k] B_k(x[..., i]) + sum_i weight[i, K] residual[..., i], compiled.

    x: (..., in); weight: (in, K [+ 1], out) with K = G + order; residual: as x, or None and then
    no last weight row; knots: (1 or in, G + 2 * order + 1), ascending, not differentiated.
    Returns (..., out). float32 and float64 on the CPU; lower precisions are computed in float32.
    Raises ``ValueError`` for wrong shapes, ``CompileError`` where there is no compiler.
    """
    check_features(x)
    given = x.dtype
    x, weight, residual, knots = in_float32(x, weight, residual, knots)
    inputs = x.shape[-1]
    functions = check_spline(inputs, x, weight, residual, knots, order, extrapolation)
    if weight.ndim != 3 or tuple(weight.shape[:2]) != (inputs, functions):
        raise ValueError(f"weight must be ({inputs}, {functions}, out), got {tuple(weight.shape)}")
    flat = None if residual is None else residual.reshape(-1, inputs)
    rows = x.reshape(-1, inputs)
    y: Tensor = torch.ops.kanzoo.spline_linear(rows, weight, flat, knots, order, extrapolation)
    y = unflatten_rows(y, x)
    return y if torch.is_autocast_enabled("cpu") else y.to(given)
