"""The B-spline convolution of images as PyTorch operators over the compiled kernels."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from kanzoo.bases.knots import EXTRAPOLATIONS
from kanzoo.kernels.native.call import Argument, call, in_float32, int64_array, thread_count
from kanzoo.kernels.native.operator import register
from kanzoo.kernels.spline.calls import check_spline
from kanzoo.kernels.spline.definition import dense_conv2d


class Convolution(NamedTuple):
    """What is convolved, in the order of the operators' arguments."""

    x: Tensor
    weight: Tensor
    residual: Tensor | None
    knots: Tensor
    order: int
    extrapolation: str
    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    groups: int

    @property
    def output_shape(self) -> tuple[int, ...]:
        sizes = zip(self.x.shape[2:], self.weight.shape[1:3], strict=True)
        options = zip(self.stride, self.padding, self.dilation, strict=True)
        each = zip(sizes, options, strict=True)
        sides = [(size + 2 * p - (k - 1) * d - 1) // s + 1 for (size, k), (s, p, d) in each]
        return self.x.shape[0], self.groups * self.weight.shape[4], *sides

    def check(self) -> None:
        """Raise ``ValueError`` for what cannot be convolved."""
        shape, weight = tuple(self.x.shape), tuple(self.weight.shape)
        if len(shape) != 4 or self.groups < 1 or shape[1] % self.groups:
            raise ValueError(f"x must be (B, multiple of {self.groups}, H, W), got {shape}")
        rows = check_spline(shape[1], *self[:6])
        if len(weight) != 5 or weight[0] != shape[1] or weight[3] != rows:
            raise ValueError(f"weight must be ({shape[1]}, kh, kw, {rows}, out), got {weight}")
        if min(*self.stride, *self.dilation) < 1 or min(self.padding) < 0:
            raise ValueError(f"stride and dilation must be from 1, padding from 0, got {self[6:]}")
        if min(weight[1:3]) < 1 or min(self.output_shape[2:]) < 1:
            raise ValueError(
                f"kernel {weight[1:3]} with dilation {self.dilation} exceeds the padded image"
                f" {shape[2:]}"
            )

    def is_empty(self) -> bool:
        return self.x.numel() == 0 or self.weight.numel() == 0

    def contiguous(self) -> "Convolution":
        return self._replace(
            x=self.x.contiguous(),
            weight=self.weight.contiguous(),
            residual=None if self.residual is None else self.residual.contiguous(),
            knots=self.knots.contiguous(),
        )

    def arguments(self) -> list[Argument]:
        return [
            ("x", self.x, self.x.shape),
            ("weight", self.weight, self.weight.shape),
            ("residual", self.residual, self.x.shape),
            ("knots", self.knots, self.knots.shape),
        ]

    def numbers(self) -> Any:
        """What C functions take as their last argument."""
        _, kh, kw, functions, outputs = self.weight.shape
        cells = self.knots.shape[1] - 2 * self.order - 1
        threads = thread_count(self.x.numel() * kh * kw * (outputs // 16 + 1))
        mode = EXTRAPOLATIONS.index(self.extrapolation)
        shape = (*self.x.shape, outputs, self.groups, kh, kw, *self.stride, *self.dilation)
        options = (cells, functions, self.knots.shape[0], mode, threads)
        return int64_array(*shape, *options, *self.padding)

    def dense(self) -> Tensor:
        """The definition in differentiable operations."""
        residual = None if self.residual is None else _pad(self.residual, self.padding)
        options = (self.order, self.extrapolation, self.stride, self.dilation, self.groups)
        return dense_conv2d(_pad(self.x, self.padding), self.weight, residual, self.knots, *options)


def _pad(images: Tensor, margins: Sequence[int], value: float = 0.0) -> Tensor:
    return F.pad(images, [margins[1], margins[1], margins[0], margins[0]], value=value)


def _forward(*arguments: Any) -> Tensor:
    conv = Convolution(*arguments).contiguous()
    conv.check()
    if conv.is_empty():
        return conv.x.new_zeros(conv.output_shape)
    y = conv.x.new_empty(conv.output_shape)
    described = [*conv.arguments(), ("y", y, conv.output_shape)]
    call("kanzoo_conv_forward", conv.order, described, conv.numbers())
    return y


def _backward(grad: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    *given, need_x, need_weight, need_residual = arguments
    conv = Convolution(*given).contiguous()
    conv.check()
    x, weight = conv.x, conv.weight
    need_residual = need_residual and conv.residual is not None
    make = torch.zeros_like if conv.is_empty() else torch.empty_like
    grad_weight = make(weight) if need_weight else None
    # The kernel computes the gradients of x and of the residual in the same pass.
    grad_x = make(x) if need_x or need_residual else None
    grad_residual = make(x) if need_residual else None
    if not conv.is_empty() and (need_x or need_weight or need_residual):
        described = [
            ("grad", grad.contiguous(), conv.output_shape),
            *conv.arguments(),
            ("grad_x", grad_x, x.shape),
            ("grad_weight", grad_weight, weight.shape),
            ("grad_residual", grad_residual, x.shape),
        ]
        call("kanzoo_conv_backward", conv.order, described, conv.numbers())
    results = (grad_x if need_x else None, grad_weight, grad_residual)
    first, second, third = (x.new_empty(0) if t is None else t for t in results)
    return first, second, third


register(
    "spline_conv2d",
    "Tensor x, Tensor weight, Tensor? residual, Tensor knots, int order, str extrapolation,"
    " SymInt[2] stride, SymInt[2] padding, SymInt[2] dilation, SymInt groups",
    3,
    forward=_forward,
    backward=_backward,
    fake=lambda x, *rest: x.new_empty(Convolution(x, *rest).output_shape),
    definition=lambda *arguments: Convolution(*arguments).dense(),
)
torch.library.register_autocast("kanzoo::spline_conv2d", "cpu", torch.float32)


def _products(weight, residual, order, out) -> int:  # type: ignore[no-untyped-def]
    """Multiplications and additions of one pass, from shapes."""
    inputs, height, width, _, outputs = weight
    taps = inputs * outputs // out[1] * height * width  # of an output, for every function
    return int(2 * math.prod(out) * taps * (order + 1 + (residual is not None)))


@register_flop_formula(torch.ops.kanzoo.spline_conv2d)
def _forward_flops(x, weight, residual, knots, order, *_, out_shape, **__) -> int:  # type: ignore[no-untyped-def]
    return _products(weight, residual, order, out_shape)


@register_flop_formula(torch.ops.kanzoo.spline_conv2d_backward)
def _backward_flops(grad, x, weight, residual, knots, order, *options, **__) -> int:  # type: ignore[no-untyped-def]
    *_, need_x, need_weight, _ = options
    return _products(weight, residual, order, grad) * (need_x + need_weight)


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
    given = x.dtype
    x, weight, residual, knots = in_float32(x, weight, residual, knots)
    options = (strides, margins, dilations, groups)
    Convolution(x, weight, residual, knots, order, extrapolation, *options).check()
    if any(margins) and residual is not None and residual_padding != 0:
        x, residual = _pad(x, margins), _pad(residual, margins, residual_padding)
        margins = [0, 0]
    options = (strides, margins, dilations, groups)
    arguments = (x, weight, residual, knots, order, extrapolation, *options)
    y: Tensor = torch.ops.kanzoo.spline_conv2d(*arguments)
    return y if torch.is_autocast_enabled("cpu") else y.to(given)
