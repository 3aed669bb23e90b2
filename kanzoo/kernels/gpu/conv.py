"""`kanzoo::fused_conv`, an operator of PyTorch: convolutions of features that a kernel writes.

Features are written before the convolution and again in the backward; the input alone is kept.

Axes: B images, C channels, O outputs, T functions with the residual branch, S the pixels.
"""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from kanzoo.kernels.generic.conv import (
    Options,
    flat_weight,
    full_precision,
    product_dtype,
    unflatten_weight,
)
from kanzoo.kernels.gpu import definition, expand
from kanzoo.kernels.gpu.launch import attempt
from kanzoo.kernels.gpu.layout import Layout
from kanzoo.kernels.gpu.operators import FUNCTIONS, Functions
from kanzoo.kernels.native.operator import register

FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


class Convolution(NamedTuple):
    """The operator's options, in their order; `margins` are zeros that go through the functions."""

    family: str
    constants: list[float]
    squash: str
    residual: str
    margins: list[int]
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    transposed: bool
    output_padding: list[int]
    groups: int
    dtype: torch.dtype

    @property
    def layout(self) -> Layout:
        return Layout.of(*self[:4])

    def padded(self, x: Tensor) -> Tensor:
        """The input with its margins: `(B, C, *S)`."""
        sides = [side for size in reversed(self.margins) for side in (size, size)]
        return F.pad(x, sides) if any(sides) else x

    def inside(self, x: Tensor) -> Tensor:
        """The way back."""
        for dim, size in enumerate(self.margins, 2):
            x = x.narrow(dim, size, x.shape[dim] - 2 * size)
        return x

    def multiply(self, features: Tensor, weight: Tensor) -> Tensor:
        """The ordinary convolution of features `(B, T C, *S)`, channels last in memory."""
        options: Options = self[5:11]
        flat = flat_weight(weight.to(self.dtype), options)
        y = torch.ops.aten.convolution(features, flat, None, *options)
        return y.contiguous(memory_format=FORMATS.get(y.dim(), torch.contiguous_format))


def as_rows(images: Tensor) -> Tensor:
    """`(B, C, *S) -> (B S, C)`."""
    last = images.movedim(1, -1)
    return last.reshape(-1, last.shape[-1])


def as_images(rows: Tensor, like: Tensor) -> Tensor:
    """The way back, to the images and pixels of another tensor."""
    return rows.view(like.shape[0], *like.shape[2:], rows.shape[1]).movedim(-1, 1)


def _features(pixels: Tensor, table: Tensor, conv: Convolution) -> Tensor:
    """All functions as channels `(B, T C, *S)`, last in memory."""
    arguments = (as_rows(pixels), table, conv.layout, conv.groups, conv.dtype)
    rows = attempt(
        conv.family,
        lambda: expand.forward(*arguments),
        lambda: definition.expand(*arguments),
    )
    return as_images(rows, pixels)


def _forward(x: Tensor, weight: Tensor, table: Tensor, *options: Any) -> Tensor:
    conv = Convolution(*options)
    with full_precision(x):
        return conv.multiply(_features(conv.padded(x), table, conv), weight)


def _backward(
    grad: Tensor, x: Tensor, weight: Tensor, table: Tensor, *options: Any
) -> tuple[Tensor, ...]:
    *given, need_x, need_weight, need_table = options
    conv, needs = Convolution(*given), (need_x, need_table)
    found = [grad.new_empty(0)] * 3
    with full_precision(x):
        pixels, flat = conv.padded(x), flat_weight(weight.to(conv.dtype), conv[5:11])
        features = _features(pixels, table, conv)
        mask = [any(needs), need_weight, False]
        back, grad_weight, _ = torch.ops.aten.convolution_backward(
            grad, features, flat, None, *conv[5:11], mask
        )
        if need_weight:
            grad_weight = unflatten_weight(grad_weight, weight, conv[5:11])
            found[1] = _laid(grad_weight.to(weight.dtype), weight)
        if any(needs):
            grad_pixels, grad_table = _through(as_rows(back), as_rows(pixels), table, conv, needs)
            if need_x:
                found[0] = _laid(conv.inside(as_images(grad_pixels, pixels)), x)
            if need_table:
                found[2] = _laid(grad_table, table)
    return tuple(found)


def _through(
    grad: Tensor, rows: Tensor, table: Tensor, conv: Convolution, needs: tuple[bool, bool]
) -> tuple[Tensor, ...]:
    """Gradients of pixels and table through the functions, each empty unless needed."""

    def otherwise() -> tuple[Tensor, ...]:
        def function(rows: Tensor, table: Tensor) -> Tensor:
            return definition.expand(rows, table, conv.layout, conv.groups, grad.dtype)

        return definition.gradients(function, (rows, table), grad, needs)

    arguments = (grad, rows, table, conv.layout, conv.groups, needs)
    return attempt(conv.family, lambda: expand.backward(*arguments), otherwise)


def _laid(grad: Tensor, like: Tensor) -> Tensor:
    """A gradient in the memory order of its tensor, as it was announced."""
    wanted = torch.empty_like(like, device="meta").stride()
    return grad if grad.stride() == wanted else torch.empty_like(like).copy_(grad)


def _definition(x: Tensor, weight: Tensor, table: Tensor, *options: Any) -> Tensor:
    conv = Convolution(*options)
    pixels = conv.padded(x)
    rows = definition.expand(as_rows(pixels), table, conv.layout, conv.groups, conv.dtype)
    with full_precision(x):
        return conv.multiply(as_images(rows, pixels), weight)


def _fake(x: Tensor, weight: Tensor, table: Tensor, *options: Any) -> Tensor:
    conv = Convolution(*options)
    pixels, functions = conv.padded(x), weight.shape[1 if conv.transposed else 2]
    sizes = (x.shape[0], x.shape[1] * functions, *pixels.shape[2:])
    return conv.multiply(x.new_empty(sizes, dtype=conv.dtype), weight)


register(
    "fused_conv",
    f"Tensor x, Tensor weight, Tensor table, {FUNCTIONS}, int[] margins, int[] stride,"
    " int[] padding, int[] dilation, bool transposed, int[] output_padding, int groups,"
    " ScalarType dtype",
    3,
    forward=_forward,
    backward=_backward,
    fake=_fake,
    definition=_definition,
    layout=lambda t: t,
    devices="default",
)


def _products(x, weight, options, out) -> int:  # type: ignore[no-untyped-def]
    """Multiplications and additions of one pass, from shapes."""
    pixels = x if Convolution(*options).transposed else out
    return 2 * x[0] * math.prod(pixels[2:]) * math.prod(weight)


@register_flop_formula(torch.ops.kanzoo.fused_conv)
def _flops(x, weight, table, *options, out_shape=None, **__) -> int:  # type: ignore[no-untyped-def]
    return _products(x, weight, options, out_shape)


@register_flop_formula(torch.ops.kanzoo.fused_conv_backward)
def _backward_flops(grad, x, weight, table, *rest, out_shape=None, **__) -> int:  # type: ignore[no-untyped-def]
    *options, need_x, need_weight, need_table = rest
    return _products(x, weight, options, grad) * ((need_x or need_table) + need_weight)


def fused_conv(
    x: Tensor,
    weight: Tensor,
    functions: Functions,
    squash: str,
    residual: str | None,
    margins: list[int],
    options: Options,
) -> Tensor:
    """The convolution of all functions of x `(B, C, *S)` with a weight, saving x only.

    margins: zeros on each side of the pixels that go through the functions; weight and options:
    those of `recomputed_conv`. Returns `(B, O, *S')`, in lower precision under autocast.
    """
    stride, padding, dilation, transposed, output_padding, groups = options
    sizes = (margins, list(stride), list(padding), list(dilation))
    names = (functions.family, functions.constants, squash, residual or "none")
    y: Tensor = torch.ops.kanzoo.fused_conv(
        *(x, weight, functions.table, *names, *sizes, transposed, list(output_padding), groups),
        product_dtype(weight),
    )
    return y
