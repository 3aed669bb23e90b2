"""`kanzoo::fused_linear` and `kanzoo::expand`, operators of PyTorch over the Triton kernels.

Each has a fake, an autograd and, where it multiplies, a FLOP rule. Forwards save their inputs only;
second derivatives go through the definition, and so does everything where a kernel fails.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from kanzoo.kernels.generic.conv import product_dtype
from kanzoo.kernels.gpu import definition, expand, linear
from kanzoo.kernels.gpu.launch import attempt
from kanzoo.kernels.gpu.layout import Layout

FUNCTIONS = "str family, float[] constants, str squash, str residual"
TAGS = torch.Tag.pt2_compliant_tag


def _define(name: str, signature: str) -> None:
    torch.library.define(f"kanzoo::{name}", signature, tags=TAGS)


_define(
    "fused_linear",
    f"(Tensor x, Tensor weight, Tensor? bias, Tensor table, {FUNCTIONS}, ScalarType dtype)"
    " -> Tensor",
)
_define(
    "fused_linear_backward",
    f"(Tensor grad, Tensor x, Tensor weight, Tensor table, {FUNCTIONS}, bool need_x,"
    " bool need_weight, bool need_table) -> (Tensor, Tensor, Tensor)",
)
_define(
    "expand",
    f"(Tensor x, Tensor table, {FUNCTIONS}, int groups, ScalarType dtype) -> Tensor",
)
_define(
    "expand_backward",
    f"(Tensor grad, Tensor x, Tensor table, {FUNCTIONS}, int groups, bool need_table)"
    " -> (Tensor, Tensor)",
)


@torch.library.impl("kanzoo::fused_linear", "default")
def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, table: Tensor, *rest: Any) -> Tensor:
    *functions, dtype = rest
    layout = Layout.of(*functions)
    arguments = (x, weight, bias, table, layout, dtype)
    return attempt(
        layout.family,
        lambda: linear.forward(*arguments),
        lambda: definition.linear(*arguments),
    )


@torch.library.impl("kanzoo::fused_linear_backward", "default")
def _linear_backward(
    grad: Tensor, x: Tensor, weight: Tensor, table: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    *functions, need_x, need_weight, need_table = rest
    layout, needs = Layout.of(*functions), (need_x, need_weight, need_table)

    def otherwise() -> tuple[Tensor, Tensor, Tensor]:
        def function(x: Tensor, weight: Tensor, table: Tensor) -> Tensor:
            return definition.linear(x, weight, None, table, layout, grad.dtype)

        found = definition.gradients(function, (x, weight, table), grad, needs)
        return found[0], found[1], found[2]

    return attempt(
        layout.family, lambda: linear.backward(grad, x, weight, table, layout, needs), otherwise
    )


@torch.library.impl("kanzoo::expand", "default")
def _expand(x: Tensor, table: Tensor, *rest: Any) -> Tensor:
    *functions, groups, dtype = rest
    layout = Layout.of(*functions)
    arguments = (x, table, layout, groups, dtype)
    return attempt(
        layout.family,
        lambda: expand.forward(*arguments),
        lambda: definition.expand(*arguments),
    )


@torch.library.impl("kanzoo::expand_backward", "default")
def _expand_backward(grad: Tensor, x: Tensor, table: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    *functions, groups, need_table = rest
    layout = Layout.of(*functions)

    def otherwise() -> tuple[Tensor, Tensor]:
        def function(x: Tensor, table: Tensor) -> Tensor:
            return definition.expand(x, table, layout, groups, grad.dtype)

        found = definition.gradients(function, (x, table), grad, (True, need_table))
        return found[0], found[1]

    arguments = (grad, x, table, layout, groups, need_table)
    return attempt(layout.family, lambda: expand.backward(*arguments), otherwise)


@torch.library.register_fake("kanzoo::fused_linear")  # type: ignore[untyped-decorator]
def _(x: Tensor, weight: Tensor, bias: Tensor | None, table: Tensor, *rest: Any) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[2], dtype=rest[-1])


@torch.library.register_fake("kanzoo::fused_linear_backward")  # type: ignore[untyped-decorator]
def _(grad: Tensor, x: Tensor, weight: Tensor, table: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return tuple(
        t.new_empty(t.shape if need else (0,))
        for t, need in zip((x, weight, table), rest[-3:], strict=True)
    )


@torch.library.register_fake("kanzoo::expand")  # type: ignore[untyped-decorator]
def _(x: Tensor, table: Tensor, *rest: Any) -> Tensor:
    *functions, _, dtype = rest
    return x.new_empty(x.shape[0], Layout.of(*functions).total(table) * x.shape[1], dtype=dtype)


@torch.library.register_fake("kanzoo::expand_backward")  # type: ignore[untyped-decorator]
def _(grad: Tensor, x: Tensor, table: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), table.new_empty(table.shape if rest[-1] else (0,))


def _save_linear(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    x, weight, _, table, *functions, ctx.dtype = inputs
    ctx.functions = functions
    ctx.save_for_backward(x, weight, table)


def _differentiate_linear(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
    need_x, need_weight, need_bias, need_table = ctx.needs_input_grad[:4]
    needs = (need_x, need_weight, need_table)
    grads: tuple[Tensor | None, ...] = (None,) * 3
    if any(needs):
        found = torch.ops.kanzoo.fused_linear_backward(
            grad, *ctx.saved_tensors, *ctx.functions, *needs
        )
        grads = tuple(g if need else None for g, need in zip(found, needs, strict=True))
    grad_x, grad_weight, grad_table = grads
    grad_bias = grad.sum(0) if need_bias else None
    return grad_x, grad_weight, grad_bias, grad_table, *[None] * 5


def _save_linear_backward(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.functions, ctx.needs = inputs[4:8], inputs[8:]
    ctx.save_for_backward(*inputs[:4])


def _differentiate_linear_twice(ctx, *grads):  # type: ignore[no-untyped-def]
    layout = Layout.of(*ctx.functions)

    def function(x: Tensor, weight: Tensor, table: Tensor) -> Tensor:
        dtype = ctx.saved_tensors[0].dtype
        return definition.linear(x, weight, None, table, layout, dtype)

    second = definition.differentiate(function, ctx.saved_tensors, grads, ctx.needs)
    return *second, *[None] * 7


def _save_expand(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    x, table, *functions, ctx.groups, _ = inputs
    ctx.functions = functions
    ctx.save_for_backward(x, table)


def _differentiate_expand(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
    need_x, need_table = ctx.needs_input_grad[:2]
    grad_x, grad_table = torch.ops.kanzoo.expand_backward(
        grad, *ctx.saved_tensors, *ctx.functions, ctx.groups, need_table
    )
    return grad_x if need_x else None, grad_table if need_table else None, *[None] * 6


def _save_expand_backward(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.functions, (ctx.groups, ctx.need_table) = inputs[3:7], inputs[7:]
    ctx.save_for_backward(*inputs[:3])


def _differentiate_expand_twice(ctx, *grads):  # type: ignore[no-untyped-def]
    layout = Layout.of(*ctx.functions)

    def function(x: Tensor, table: Tensor) -> Tensor:
        return definition.expand(x, table, layout, ctx.groups, ctx.saved_tensors[0].dtype)

    needs = (True, ctx.need_table)
    return *definition.differentiate(function, ctx.saved_tensors, grads, needs), *[None] * 6


for name, first, save in (
    ("fused_linear", _differentiate_linear, _save_linear),
    ("fused_linear_backward", _differentiate_linear_twice, _save_linear_backward),
    ("expand", _differentiate_expand, _save_expand),
    ("expand_backward", _differentiate_expand_twice, _save_expand_backward),
):
    torch.library.register_autograd(f"kanzoo::{name}", first, setup_context=save)


@register_flop_formula(torch.ops.kanzoo.fused_linear)
def _flops(x, weight, *_, out_shape=None, **__) -> int:  # type: ignore[no-untyped-def]
    return 2 * x[0] * weight[0] * weight[1] * weight[2]


@register_flop_formula(torch.ops.kanzoo.fused_linear_backward)
def _backward_flops(grad, x, weight, *rest, out_shape=None, **__) -> int:  # type: ignore[no-untyped-def]
    need_x, need_weight, _ = rest[-3:]
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
    tensors = (x.reshape(-1, x.shape[-1]), weight, bias, functions.table)
    y: Tensor = torch.ops.kanzoo.fused_linear(*tensors, *names, product_dtype(weight))
    return y.view(*x.shape[:-1], weight.shape[2])


def expand_channels(
    x: Tensor,
    functions: Functions,
    squash: str,
    residual: str | None,
    groups: int,
    dtype: torch.dtype,
) -> Tensor:
    """Functions of pixels as channels, last in memory: `(B, C, *S) -> (B, T C, *S)`.

    Functions come before the channels of a group, the residual branch last of them.
    """
    last = x.movedim(1, -1)
    names = (functions.family, functions.constants, squash, residual or "none")
    rows = last.reshape(-1, last.shape[-1])
    channels: Tensor = torch.ops.kanzoo.expand(rows, functions.table, *names, groups, dtype)
    return channels.view(*last.shape[:-1], channels.shape[-1]).movedim(-1, 1)
