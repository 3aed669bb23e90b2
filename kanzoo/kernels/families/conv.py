"""Convolutions of basis functions, some images at a time, as ``functions`` does for matrices.

Functions come before channels. With enough channels these are last in memory, as convolutions like
it most; few channels stay first, so that vectors run along pixels, and are transposed afterwards.

Axes: b images of a block, C channels, T functions with the residual branch, S the pixels in any
dimensions.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kanzoo.kernels.families.linear import LANES, Functions, Plan
from kanzoo.kernels.generic.conv import (
    Options,
    check_dims,
    differentiable_gradients,
    flat_weight,
    operate,
    unflatten_weight,
)
from kanzoo.kernels.generic.linear import even_size
from kanzoo.kernels.native.scratch import scratch

BLOCK_BYTES = 8 << 20
FEW_IMAGES = 8  # up to here margins cost less as pixels than as an image of their own
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def pad(x: Tensor, margins: Sequence[int]) -> Tensor:
    """Zeros around the pixels (B, C, *S)."""
    return F.pad(x, [side for size in reversed(margins) for side in (size, size)])


class _Images:
    """Blocks of images and their functions as channels."""

    def __init__(self, x: Tensor, functions: Functions, groups: int) -> None:
        self.functions, self.channels = functions, x.shape[1]
        self.inner = x.shape[1] // groups
        apart = functions.each and groups > 1  # a group's table is not that of all channels
        self.last = self.inner >= LANES and not apart
        self.reorders = not self.last and groups == 1 and x.dim() in FORMATS
        self.x = x.movedim(1, -1) if self.last else x
        size = max(x[:1].numel() * functions.total, 1)
        self.block = even_size(x.shape[0], max(BLOCK_BYTES // (size * x.element_size()), 1))
        self.planes = scratch("planes", x, self.block * size)

    def blocks(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Images, their pixels and memory for their functions, both in the order of the memory."""
        for n in range(0, self.x.shape[0], self.block):
            images = slice(n, min(n + self.block, self.x.shape[0]))
            pixels = self.x[images].contiguous()
            yield images, pixels, self.planes[: pixels.numel() * self.functions.total]

    def run(
        self,
        pixels: Tensor,
        out: Tensor | None,
        back: Tensor | None = None,
        grad: Tensor | None = None,
    ) -> None:
        """The kernel on blocks of memory; ``back`` is (b, T C, *S) in any order."""
        width = self.inner if self.last else self.inner * pixels[0, 0].numel()
        of_channels = not self.last and self.functions.each
        columns = width // self.inner if of_channels else width
        rows = pixels.view(-1, columns)  # pixels, or images, of every group; or their channels
        if back is not None:
            back = (back.movedim(1, -1) if self.last else back).contiguous()
        into = None if grad is None else grad.view(-1, columns)
        strides = (width, self.functions.total * width)
        inner = self.inner if of_channels else 0
        self.functions.run(rows, out, strides, slice(0, self.channels), back, into, inner=inner)

    def as_channels(self, planes: Tensor, pixels: Tensor) -> Tensor:
        """The functions of pixels as channels, (b, T C, *S)."""
        shape = list(pixels.shape)
        shape[-1 if self.last else 1] *= self.functions.total
        channels = planes.view(shape).movedim(-1, 1) if self.last else planes.view(shape)
        return self.in_format(channels) if self.reorders else channels

    def in_format(self, images: Tensor) -> Tensor:
        """Images (b, *, *S) in the order that convolutions prefer."""
        if not (self.last or self.reorders) or images.dim() not in FORMATS:
            return images.contiguous()
        return images.contiguous(memory_format=FORMATS[images.dim()])


class _Margins:
    """What margins add to every image: that of one with phi(0) there and zeros inside.

    Pixels and functions of the zeros are as in ``_Images``, for a single pixel.
    """

    def __init__(self, expanded: _Images, margins: Sequence[int]) -> None:
        self.expanded, self.margins = expanded, margins
        sides = [1] * len(margins)
        shape = (1, *sides, expanded.channels) if expanded.last else (1, expanded.channels, *sides)
        self.zero = expanded.planes.new_zeros(shape)
        values = torch.empty(expanded.functions.total * expanded.channels, dtype=self.zero.dtype)
        expanded.run(self.zero, values)
        self.values = expanded.as_channels(values, self.zero)  # (1, T C, 1, ..)

    def image(self, sides: Sequence[int]) -> Tensor:
        """Functions of an image of that size without its inside: (1, T C, *S with margins)."""
        sizes = [n + 2 * m for n, m in zip(sides, self.margins, strict=True)]
        image = self.values.expand(-1, -1, *sizes).clone()
        self._inside(image, sides).zero_()
        return image

    def _inside(self, image: Tensor, sides: Sequence[int]) -> Tensor:
        for dim, (margin, size) in enumerate(zip(self.margins, sides, strict=True), 2):
            image = image.narrow(dim, margin, size)
        return image

    def take_back(self, back: Tensor, sides: Sequence[int]) -> None:
        """Gradients of trained functions through such an image."""
        self._inside(back, sides).zero_()
        dims = list(range(2, back.dim()))
        self.expanded.run(self.zero, None, back.sum(dims, keepdim=True))


def _check_weight(weight: Tensor, x: Tensor, functions: int, options: Options) -> None:
    """Raise ``ValueError`` unless a weight fits x (B, C, *S) and the number of functions."""
    *_, transposed, _, groups = options
    shape = weight.shape[:2] if transposed else (groups * weight.shape[1], weight.shape[2])
    if tuple(shape) != (x.shape[1], functions) or x.shape[1] % groups:
        raise ValueError(
            f"weight {tuple(weight.shape)} does not fit x {tuple(x.shape)}, {functions} functions a"
            f" channel and {groups} groups"
        )
    if (weight.dtype, weight.device) != (x.dtype, x.device):
        raise ValueError(
            f"weight must be {x.dtype} on {x.device}, got {weight.dtype} on {weight.device}"
        )


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx,
        plan: Plan,
        features: Callable[[Tensor], Tensor],
        margins: Sequence[int],
        options: Options,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *parameters: Tensor,
    ) -> Tensor:
        ctx.plan, ctx.features, ctx.margins, ctx.options = plan, features, margins, options
        ctx.save_for_backward(x, weight, *parameters)
        functions = plan.prepare(x, False)
        _check_weight(weight, x, functions.total, options)
        expanded = _Images(x, functions, options[-1])
        flat = flat_weight(weight, options)
        border = None
        if any(margins):
            image = _Margins(expanded, margins).image(x.shape[2:])
            border = torch.ops.aten.convolution(image, flat, bias, *options)
            bias, options = None, (options[0], list(margins), *options[2:])
        y = x.new_empty(0)
        for images, pixels, planes in expanded.blocks():
            expanded.run(pixels, planes)
            channels = expanded.as_channels(planes, pixels)
            part = torch.ops.aten.convolution(channels, flat, bias, *options)
            if images.start == 0:
                y = part.new_empty(x.shape[0], *part.shape[1:])
            if border is None:
                y[images] = part
            else:
                torch.add(part, border, out=y[images])
        return y

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        x, weight, *parameters = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad[4:7]
        total = grad.sum(0, keepdim=True)
        grad_bias = total.flatten(2).sum(2).squeeze(0) if need_bias else None
        if torch.is_grad_enabled():  # a second derivative will follow
            grad_x, grad_weight, *grads = differentiable_gradients(
                lambda x, w: operate(ctx.features, pad(x, ctx.margins), w, ctx.options, w.dtype),
                x,
                weight,
                parameters,
                grad,
            )
            return None, None, None, None, grad_x, grad_weight, grad_bias, *grads
        functions = ctx.plan.prepare(x, any(p.requires_grad for p in parameters))
        expanded = _Images(x, functions, ctx.options[-1])
        flat = flat_weight(weight, ctx.options)
        backward, options = torch.ops.aten.convolution_backward, ctx.options
        grad_weight = torch.zeros_like(flat) if need_weight else None
        if any(ctx.margins):
            edge = _Margins(expanded, ctx.margins)
            mask = [functions.trained, need_weight, False]
            image = edge.image(x.shape[2:])
            back, grad_weight, _ = backward(total, image, flat, None, *options, mask)
            if functions.trained:
                edge.take_back(back, x.shape[2:])
            options = (options[0], list(ctx.margins), *options[2:])
        grad_x = torch.empty_like(x) if need_x else None
        for images, pixels, planes in expanded.blocks():
            back, into = None, torch.empty_like(pixels) if need_x else None
            grad_block = expanded.in_format(grad[images])
            if need_x or functions.trained:
                shape = expanded.as_channels(planes, pixels)  # all that is used of it
                back = backward(grad_block, shape, flat, None, *options, [True, False, False])[0]
            expanded.run(pixels, planes if need_weight else None, back, into)
            if grad_x is not None and into is not None:
                grad_x[images] = into.movedim(-1, 1) if expanded.last else into
            if grad_weight is not None:
                channels = expanded.as_channels(planes, pixels)
                more = backward(grad_block, channels, flat, None, *options, [False, True, False])[1]
                grad_weight += more
        if grad_weight is not None:
            grad_weight = unflatten_weight(grad_weight, weight, ctx.options)
        more = functions.parameter_gradients(parameters)
        return None, None, None, None, grad_x, grad_weight, grad_bias, *more


def function_conv(
    plan: Plan,
    features: Callable[[Tensor], Tensor],
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    parameters: Sequence[Tensor],
    margins: Sequence[int],
    options: Options,
) -> Tensor:
    """``recomputed_conv`` with functions that a plan knows, and a bias.

    x: (B, C, *S); margins: zeros on each side of the pixels that go through the functions as all
    do; options: those of ``torch.ops.aten.convolution`` after the bias. Returns (B, out, *S').
    """
    check_dims(x, weight)
    if bias is not None and (bias.dtype, bias.device) != (weight.dtype, weight.device):
        raise ValueError(f"bias must be {weight.dtype} on {weight.device}, as weight")
    with torch.autocast(x.device.type, enabled=False):
        if len(x) < FEW_IMAGES:
            x, margins = pad(x, margins), [0] * len(margins)
        y: Tensor = _Conv.apply(plan, features, margins, options, x, weight, bias, *parameters)
    return y
