"""`kanzoo::fused_linear`, an operator of PyTorch over the Triton kernels.

Where a kernel fails, its definition in PyTorch's operations takes its place.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from kanzoo.kernels.generic.conv import product_dtype
from kanzoo.kernels.generic.linear import unflatten_rows
from kanzoo.kernels.gpu import definition, linear
from kanzoo.kernels.gpu.launch import attempt
from kanzoo.kernels.gpu.layout import Layout
from kanzoo.kernels.native.operator import register

FUNCTIONS = "str family, float[] constants, str squash, str residual"


def _linear(x: Tensor, weight: Tensor, table: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
    *functions, dtype = rest
    layout = Layout.of(*functions)
    arguments = (x, weight, table, bias, layout, dtype)
    return attempt(
        layout.family,
        lambda: linear.forward(*arguments),
        lambda: definition.linear(*arguments),
    )


def _linear_backward(
    grad: Tensor, x: Tensor, weight: Tensor, table: Tensor, bias: Tensor | None, *rest: Any
) -> tuple[Tensor, ...]:
    *functions, _, need_x, need_weight, need_table, need_bias = rest
    layout, needs = Layout.of(*functions), (need_x, need_weight, need_table)

    def otherwise() -> tuple[Tensor, ...]:
        def function(x: Tensor, weight: Tensor, table: Tensor) -> Tensor:
            return definition.linear(x, weight, table, None, layout, grad.dtype)

        return definition.gradients(function, (x, weight, table), grad, needs)

    grads = attempt(
        layout.family, lambda: linear.backward(grad, x, weight, table, layout, needs), otherwise
    )
    wanted = bias is not None and need_bias
    return *grads, grad.sum(0).to(bias) if wanted else grad.new_empty(0)


register(
    "fused_linear",
    f"Tensor x, Tensor weight, Tensor table, Tensor? bias, {FUNCTIONS}, ScalarType dtype",
    4,
    forward=_linear,
    backward=_linear_backward,
    fake=lambda x, weight, *rest: x.new_empty(x.shape[0], weight.shape[2], dtype=rest[-1]),
    definition=lambda x, weight, table, bias, *rest: definition.linear(
        x, weight, table, bias, Layout.of(*rest[:-1]), rest[-1]
    ),
    devices="default",
)


@register_flop_formula(torch.ops.kanzoo.fused_linear)
def _flops(x, weight, *_, out_shape=None, **__) -> int:  # type: ignore[no-untyped-def]
    return 2 * x[0] * weight[0] * weight[1] * weight[2]


@register_flop_formula(torch.ops.kanzoo.fused_linear_backward)
def _backward_flops(grad, x, weight, *rest, out_shape=None, **__) -> int:  # type: ignore[no-untyped-def]
    need_x, need_weight, _, _ = rest[-4:]
    return _flops(x, weight) * (need_x + need_weight)


class Functions(NamedTuple):
    """What the kernels know of a basis: a family, its table and its constants.

    Splines are the families "uniform_spline" and "adaptive_spline": the table holds knots,
    `(1 or C, G + 2 order + 1)`, the constants are order and the number of the extrapolation.
    """

    family: str
    table: Tensor
    constants: list[float]


def fused_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    functions: Functions,
    squash: str,
    residual: str | None,
) -> Tensor:
    """b_o + sum_i sum_k weight[i, k, o] phi_k(squash(x[..., i])), features in registers alone.

    x: `(..., in)`; weight: `(in, K [+ 1], out)`, the residual branch last; bias: `(out)` or None.
    Returns `(..., out)`, in lower precision under autocast as products are.
    """
    names = (functions.family, functions.constants, squash, residual or "none")
    tensors = (x.reshape(-1, x.shape[-1]), weight, functions.table, bias)
    y: Tensor = torch.ops.kanzoo.fused_linear(*tensors, *names, product_dtype(weight))
    return unflatten_rows(y, x)
