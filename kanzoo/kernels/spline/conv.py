"""The B-spline convolution as PyTorch operators over the compiled kernels.

As ``compiled``: ``kanzoo::spline_conv2d`` convolves images; the forward saves its inputs
only, second derivatives go through the dense definition.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from kanzoo.bases.knots import EXTRAPOLATIONS
from kanzoo.kernels.native.call import call, in_float32, thread_count
from kanzoo.kernels.spline.definition import dense_conv2d, differentiate_gradient
from kanzoo.kernels.spline.linear import check_spline

SIGNATURE = (
    "Tensor x, Tensor weight, Tensor? residual, Tensor knots, int order, str extrapolation,"
    " SymInt[2] stride, SymInt[2] padding, SymInt[2] dilation, SymInt groups"
)
torch.library.define(
    "kanzoo::spline_conv2d", f"({SIGNATURE}) -> Tensor", tags=torch.Tag.pt2_compliant_tag
)
torch.library.define(
    "kanzoo::spline_conv2d_backward",
    f"(Tensor grad, {SIGNATURE}, bool need_x, bool need_weight, bool need_residual)"
    " -> (Tensor, Tensor, Tensor)",
    tags=torch.Tag.pt2_compliant_tag,
)


def _output_size(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> list[int]:
    every = zip(x.shape[2:], weight.shape[1:3], stride, padding, dilation, strict=True)
    return [(size + 2 * p - (k - 1) * d - 1) // s + 1 for size, k, s, p, d in every]


def _sizes(
    x: Tensor,
    weight: Tensor,
    knots: Tensor,
    order: int,
    extrapolation: str,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> list[int]:
    _, kh, kw, functions, outputs = weight.shape
    cells = knots.shape[-1] - 2 * order - 1
    work = x.numel() * kh * kw * (outputs // 16 + 1)
    mode = EXTRAPOLATIONS.index(extrapolation)
    shape = [*x.shape, outputs, groups, kh, kw, *stride, *dilation]
    return [*shape, cells, functions, knots.shape[0], mode, thread_count(work), *padding]


def _pad(images: Tensor, margins: Sequence[int], value: float = 0.0) -> Tensor:
    return F.pad(images, [margins[1], margins[1], margins[0], margins[0]], value=value)


def _dense(
    x: Tensor,
    weight: Tensor,
    residual: Tensor | None,
    knots: Tensor,
    order: int,
    extrapolation: str,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """The definition in differentiable operations."""
    padded = None if residual is None else _pad(residual, padding)
    options = (order, extrapolation, stride, dilation, groups)
    return dense_conv2d(_pad(x, padding), weight, padded, knots, *options)


@torch.library.impl("kanzoo::spline_conv2d", "cpu")
def _forward(
    x: Tensor,
    weight: Tensor,
    residual: Tensor | None,
    knots: Tensor,
    order: int,
    extrapolation: str,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    x, weight, knots = x.contiguous(), weight.contiguous(), knots.contiguous()
    residual = None if residual is None else residual.contiguous()
    height, width = _output_size(x, weight, stride, padding, dilation)
    shape = (x.shape[0], groups * weight.shape[4], height, width)
    if x.numel() == 0 or weight.numel() == 0:
        return x.new_zeros(shape)
    y = x.new_empty(shape)
    sizes = _sizes(x, weight, knots, order, extrapolation, stride, padding, dilation, groups)
    call("kanzoo_conv_forward", order, [x, weight, residual, knots, y], sizes)
    return y


@torch.library.impl("kanzoo::spline_conv2d_backward", "cpu")
def _backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    residual: Tensor | None,
    knots: Tensor,
    order: int,
    extrapolation: str,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    need_x: bool,
    need_weight: bool,
    need_residual: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    grad, x, weight, knots = (t.contiguous() for t in (grad, x, weight, knots))
    residual = None if residual is None else residual.contiguous()
    need_residual = need_residual and residual is not None
    empty = grad.numel() == 0 or x.numel() == 0
    make = torch.zeros_like if empty else torch.empty_like
    grad_weight = make(weight) if need_weight else None
    # The kernel computes the gradients of x and of the residual in the same pass.
    grad_x = make(x) if need_x or need_residual else None
    grad_residual = make(x) if need_residual else None
    if not empty and (need_x or need_weight or need_residual):
        sizes = _sizes(x, weight, knots, order, extrapolation, stride, padding, dilation, groups)
        tensors = [grad, x, weight, residual, knots, grad_x, grad_weight, grad_residual]
        call("kanzoo_conv_backward", order, tensors, sizes)
    wanted = (grad_x if need_x else None, grad_weight, grad_residual)
    first, second, third = (x.new_empty(0) if t is None else t for t in wanted)
    return first, second, third


@torch.library.register_fake("kanzoo::spline_conv2d")
def _forward_fake(x, weight, residual, knots, order, extrapolation, *options):  # type: ignore[no-untyped-def]
    stride, padding, dilation, groups = options
    height, width = _output_size(x, weight, stride, padding, dilation)
    return x.new_empty(x.shape[0], groups * weight.shape[4], height, width)


@torch.library.register_fake("kanzoo::spline_conv2d_backward")
def _backward_fake(grad, x, weight, residual, *options):  # type: ignore[no-untyped-def]
    *_, need_x, need_weight, need_residual = options
    return (
        x.new_empty(x.shape if need_x else 0),
        weight.new_empty(weight.shape if need_weight else 0),
        x.new_empty(x.shape if residual is not None and need_residual else 0),
    )


def _save(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs[:4])
    ctx.options = inputs[4:]


def _first_derivative(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
    x, weight, residual, knots = ctx.saved_tensors
    needs = ctx.needs_input_grad[:3]
    found = torch.ops.kanzoo.spline_conv2d_backward(
        grad, x, weight, residual, knots, *ctx.options, *needs
    )
    wanted = (*needs[:2], needs[2] and residual is not None)
    gradients = [g if need else None for g, need in zip(found, wanted, strict=True)]
    return *gradients, *[None] * 7


def _save_backward(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs[:5])
    ctx.options, ctx.needs = inputs[5:-3], inputs[-3:]


def _second_derivative(ctx, *grads):  # type: ignore[no-untyped-def]
    *variables, knots = ctx.saved_tensors
    second = differentiate_gradient(
        lambda x, w, r: _dense(x, w, r, knots, *ctx.options), variables, grads, ctx.needs
    )
    return *second, *[None] * (len(ctx.needs_input_grad) - len(second))


torch.library.register_autograd("kanzoo::spline_conv2d", _first_derivative, setup_context=_save)
torch.library.register_autograd(
    "kanzoo::spline_conv2d_backward", _second_derivative, setup_context=_save_backward
)
torch.library.register_autocast("kanzoo::spline_conv2d", "cpu", torch.float32)


@register_flop_formula(torch.ops.kanzoo.spline_conv2d)
def _forward_flops(x, weight, residual, knots, order, *_, out_shape, **__) -> int:  # type: ignore[no-untyped-def]
    batch, outputs, height, width = out_shape
    inner = (
        weight[0] * weight[4] // outputs * weight[1] * weight[2]
    )  # products per output and function
    return int(2 * batch * outputs * height * width * inner * (order + 1 + (residual is not None)))


@register_flop_formula(torch.ops.kanzoo.spline_conv2d_backward)
def _backward_flops(grad, x, weight, residual, knots, order, *options, **__) -> int:  # type: ignore[no-untyped-def]
    *_, need_x, need_weight, _ = options
    once = _forward_flops(x, weight, residual, knots, order, out_shape=grad)
    return int(once * (need_x + need_weight))


def _pair(name: str, value: int | Sequence[int], least: int) -> list[int]:
    pair = [value, value] if isinstance(value, int) else list(value)
    if len(pair) != 2 or min(pair) < least:
        raise ValueError(f"{name} must be one or two integers of at least {least}, got {value!r}")
    return pair


def spline_conv2d(
    x: Tensor,
    weight: Tensor,
    residual: Tensor | None,
    knots: Tensor,
    order: int,
    extrapolation: str,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    residual_padding: float = 0.0,
) -> Tensor:
    """Convolution of B-spline functions, compiled; the options are those of ``F.conv2d``.

    x: (B, C, H, W); weight: (C, kh, kw, K [+ 1], out / groups), the functions of each input
    channel to the outputs of its group; residual: as x or None; knots: (1 or C, G + 2 order + 1).
    A padded pixel is x = 0 and goes through the functions; its residual is ``residual_padding``.
    Returns (B, out, H', W'). Precision and errors as ``spline_linear``.
    """
    strides, margins = _pair("stride", stride, 1), _pair("padding", padding, 0)
    dilations = _pair("dilation", dilation, 1)
    if x.ndim != 4 or groups < 1 or x.shape[1] % groups:
        raise ValueError(f"x must be (B, multiple of {groups}, H, W), got {tuple(x.shape)}")
    given = x.dtype
    x, weight, residual, knots = in_float32(x, weight, residual, knots)
    channels = x.shape[1]
    rows = check_spline(channels, x, weight, residual, knots, order, extrapolation)
    if weight.ndim != 5 or weight.shape[0] != channels or weight.shape[3] != rows:
        raise ValueError(
            f"weight must be ({channels}, kh, kw, {rows}, out), got {tuple(weight.shape)}"
        )
    if any(margins) and residual is not None and residual_padding != 0:
        x, residual = _pad(x, margins), _pad(residual, margins, residual_padding)
        margins = [0, 0]
    if min(_output_size(x, weight, strides, margins, dilations)) < 1:
        raise ValueError(
            f"kernel {tuple(weight.shape[1:3])} with dilation {dilations} exceeds the padded"
            f" image {tuple(x.shape[2:])}"
        )
    options = (strides, margins, dilations, groups)
    arguments = (x, weight, residual, knots, order, extrapolation, *options)
    y: Tensor = torch.ops.kanzoo.spline_conv2d(*arguments)
    return y if torch.is_autocast_enabled("cpu") else y.to(given)
