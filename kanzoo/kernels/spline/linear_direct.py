"""B-spline layers as one node of autograd, past PyTorch's dispatcher.

Residual branch and bias are part of the node: of a small layer most of the time goes into finding
the operators, of a large one with few outputs much of it into passes over the inputs.
"""

import ctypes
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kanzoo.bases.knots import EXTRAPOLATIONS
from kanzoo.kernels.native.build import load
from kanzoo.kernels.native.call import REALS, thread_count
from kanzoo.kernels.spline.linear import spline_linear

RESIDUALS = (None, "identity", "silu")  # as the kernels number them
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

    The last phi is the residual branch, by its name: one of `RESIDUALS`. The caller has made sure
    that shapes and dtypes are right, and that nothing but autograd must see what is done.
    """
    y: Tensor = _Direct.apply(x, weight, bias, residual, knots, order, extrapolation)
    return y


class _Direct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, *options: Any) -> Any:
        residual, knots, order, extrapolation = options
        rows = x.reshape(-1, x.shape[-1]).contiguous()
        weight, knots = weight.contiguous(), knots.contiguous()
        start = None if bias is None else bias.contiguous()
        y = x.new_empty(len(rows), weight.shape[2])
        shapes = (rows.shape, weight.shape, knots.shape)
        ctx.sizes = sizes_of(*shapes, order, extrapolation, residual, torch.get_num_threads())
        kept = None
        if any(ctx.needs_input_grad[:2]):
            kept = _order_buffer(rows, weight.shape[2], order, ctx.sizes)
        tensors = (rows, weight, start, knots, y, kept)
        bound("kanzoo_linear_forward", order, tensors, ctx.sizes)()
        ctx.save_for_backward(x, weight, bias, knots, kept)
        ctx.options = residual, order, extrapolation
        return y.view(*x.shape[:-1], weight.shape[2])

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        x, weight, _, knots, kept = ctx.saved_tensors
        _, order, _ = ctx.options
        need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():  # gradients of these gradients may follow
            return *_differentiable(ctx, grad), None, None, None, None
        rows = x.reshape(-1, x.shape[-1]).contiguous()
        grad = grad.reshape(len(rows), -1).contiguous()
        grad_x = torch.empty_like(rows) if need_x else None
        grad_weight = torch.empty_like(weight) if need_weight else None
        tensors = (grad, rows, weight, knots, grad_x, grad_weight, kept)
        bound("kanzoo_linear_backward", order, tensors, ctx.sizes)()
        grad_bias = grad.sum(0) if need_bias else None
        grad_x = None if grad_x is None else grad_x.view(x.shape)
        return grad_x, grad_weight, grad_bias, None, None, None, None


def _order_buffer(x: Tensor, outputs: int, order: int, sizes: Any) -> Tensor | None:
    """Memory in which the forward tells the backward how rows are sorted, if that is worth it."""
    if outputs > FEW_OUTPUTS or x.numel() < MANY_INPUTS:
        return None
    count = load("kanzoo_linear_order", order, REALS[x.dtype])(sizes)
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
    wanted = [t for t, need in zip((x, weight, bias), needed, strict=True) if need]
    found = iter(torch.autograd.grad(y, wanted, grad, create_graph=True))
    return [next(found) if need else None for need in needed]


@lru_cache(maxsize=256)
def sizes_of(
    x: torch.Size,
    weight: torch.Size,
    knots: torch.Size,
    order: int,
    extrapolation: str,
    residual: str | None,
    threads: int,
) -> Any:
    """What the kernels of a layer take as their last argument; `threads` are at its disposal."""
    rows, inputs = x
    outputs = weight[2]
    cells = knots[-1] - 2 * order - 1
    vectors = knots[0] if len(knots) == 2 else 1
    used = min(threads, thread_count(rows * inputs * (-(-outputs // 16) + 4)))
    mode = EXTRAPOLATIONS.index(extrapolation)
    branch = RESIDUALS.index(residual)
    numbers = [rows, inputs, outputs, cells, weight[1], vectors, mode, used, branch]
    return (ctypes.c_int64 * len(numbers))(*numbers)


def bound(
    name: str, order: int, tensors: tuple[Tensor | None, ...], sizes: Any
) -> Callable[[], None]:
    """A call of a C function on contiguous tensors of one dtype, whose memory must stay."""
    assert tensors[0] is not None
    function = load(name, order, REALS[tensors[0].dtype])
    pointers = [None if t is None else ctypes.c_void_p(t.data_ptr()) for t in tensors]

    def run() -> None:
        if function(*pointers, sizes):
            raise MemoryError(f"{name}: no memory for tables")

    return run
