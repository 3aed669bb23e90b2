"""Convolutions of other functions than B-splines, some images at a time, as ``functions`` does.

Functions come before channels. With enough channels these are last in memory, as convolutions like
it most; few channels stay first, so that vectors run along pixels.

Axes: b images of a block, C channels, T functions with the residual branch, S the pixels in any
dimensions, P of them with the margins.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .blocked import even_size
from .blocked_conv import Options, channels_first, functions_first
from .functions import LANES, Functions, Plan
from .recompute import differentiable_gradients, operate, spread

BLOCK_BYTES = 4 << 20
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def pad(x: Tensor, margins: Sequence[int]) -> Tensor:
    """Zeros around the pixels (B, C, *S)."""
    return F.pad(x, [side for size in reversed(margins) for side in (size, size)])


class _Images:
    """Blocks of images with their margins, and their functions as channels."""

    def __init__(self, x: Tensor, functions: Functions, margins: Sequence[int], groups: int):
        self.x, self.functions, self.margins = x, functions, tuple(margins)
        self.channels, self.inner = x.shape[1], x.shape[1] // groups
        self.last = functions.each or self.inner >= LANES
        self.sides = [n + 2 * m for n, m in zip(x.shape[2:], self.margins, strict=True)]
        size = max(self.channels * torch.Size(self.sides).numel(), 1)
        fit = max(BLOCK_BYTES // (size * functions.total * x.element_size()), 1)
        self.block = even_size(x.shape[0], fit)
        self.planes = x.new_empty(self.block * size * functions.total)

    def scratch(self) -> Tensor:
        """Memory for the pixels of a block, zeros in the margins: (b, *P, C) or (b, C, *P)."""
        sides = (*self.sides, self.channels) if self.last else (self.channels, *self.sides)
        return self.x.new_zeros(self.block, *sides)

    def inside(self, pixels: Tensor) -> Tensor:
        """A view (b, C, *S) of such memory without the margins."""
        shown = self.shown(pixels)
        for dim, (margin, size) in enumerate(zip(self.margins, self.x.shape[2:], strict=True), 2):
            shown = shown.narrow(dim, margin, size)
        return shown

    def shown(self, pixels: Tensor) -> Tensor:
        """Pixels in the order of the memory as (b, .., *P)."""
        return pixels.movedim(-1, 1) if self.last else pixels

    def blocks(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Images, their pixels and memory for their functions, both in the order of the memory."""
        memory, total = self.scratch(), self.functions.total
        for n in range(0, self.x.shape[0], self.block):
            images = slice(n, min(n + self.block, self.x.shape[0]))
            pixels = memory[: images.stop - n]
            self.inside(pixels).copy_(self.x[images])
            shape = list(pixels.shape)
            shape[-1 if self.last else 1] *= total
            yield images, pixels, self.planes[: pixels.numel() * total].view(shape)

    def run(
        self,
        pixels: Tensor,
        out: Tensor | None,
        back: Tensor | None = None,
        grad: Tensor | None = None,
    ) -> None:
        """The kernel on blocks of memory; ``back`` is (b, T C, *P) in any order."""
        width = self.inner if self.last else self.inner * torch.Size(self.sides).numel()
        rows = pixels.view(-1, width)  # pixels, or images, of every group
        if back is not None:
            back = (back.movedim(1, -1) if self.last else back).contiguous()
        into = None if grad is None else grad.view(-1, width)
        strides = (width, self.functions.total * width)
        self.functions.run(rows, out, strides, slice(0, self.channels), back, into)

    def laid(self, grad: Tensor) -> Tensor:
        """A gradient (b, O, *S') in the order that convolutions of the planes prefer."""
        if not self.last or grad.dim() not in FORMATS:
            return grad.contiguous()
        return grad.contiguous(memory_format=FORMATS[grad.dim()])


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
        every = _Images(x, Functions(plan, x), margins, options[-1])
        turned = functions_first(weight, options, every.functions.total)
        y = x.new_empty(0)
        for images, pixels, planes in every.blocks():
            every.run(pixels, planes)
            part = torch.ops.aten.convolution(every.shown(planes), turned, bias, *options)
            if images.start == 0:
                y = part.new_empty(x.shape[0], *part.shape[1:])
            y[images] = part
        return y

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        x, weight, *parameters = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad[4:7]
        grad_bias = grad.sum([0, *range(2, grad.dim())]) if need_bias else None
        if torch.is_grad_enabled():  # a second derivative will follow
            grad_x, grad_weight, *found = differentiable_gradients(
                lambda x, w: operate(ctx.features, pad(x, ctx.margins), w, ctx.options, w.dtype),
                x,
                weight,
                parameters,
                grad,
            )
            return None, None, None, None, grad_x, grad_weight, grad_bias, *found
        wanted = [p for p in parameters if p.requires_grad]
        functions = Functions(ctx.plan, x, bool(wanted))
        every = _Images(x, functions, ctx.margins, ctx.options[-1])
        turned = functions_first(weight, ctx.options, functions.total)
        grad_x = torch.empty_like(x) if need_x else None
        memory = every.scratch() if need_x else None
        grad_weight = torch.zeros_like(turned) if need_weight else None
        for images, pixels, planes in every.blocks():
            back, into = None, None if memory is None else memory[: len(pixels)]
            arguments = (every.laid(grad[images]), every.shown(planes), turned, None)
            if need_x or functions.trained:
                back, _, _ = torch.ops.aten.convolution_backward(
                    *arguments, *ctx.options, [True, False, False]
                )
            every.run(pixels, planes if need_weight else None, back, into)
            if grad_x is not None and into is not None:
                grad_x[images] = every.inside(into)
            if grad_weight is not None:
                _, part, _ = torch.ops.aten.convolution_backward(
                    *arguments, *ctx.options, [False, True, False]
                )
                grad_weight += part
        if grad_weight is not None:
            grad_weight = channels_first(grad_weight, ctx.options, functions.total)
        more = spread(iter(functions.parameter_gradients(wanted) if wanted else []), parameters)
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
    """``recomputed_conv`` with functions that the kernel knows, and a bias.

    x: (B, C, *S); margins: zeros on each side of the pixels that go through the functions as all
    do; options: those of ``torch.ops.aten.convolution`` after the bias. Returns (B, out, *S').
    """
    with torch.autocast(x.device.type, enabled=False):
        y: Tensor = _Conv.apply(plan, features, margins, options, x, weight, bias, *parameters)
    return y
