"""Convolutions of other functions than B-splines, some images at a time, as ``functions`` does.

Functions come before channels. With enough channels these are last in memory, as convolutions like
it most; few channels stay first, so that vectors run along pixels.

Axes: b images of a block, C channels, T functions with the residual branch, S the pixels in any
dimensions, P of them.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from .blocked_conv import Options, channels_first, functions_first
from .functions import LANES, Functions, Plan
from .recompute import differentiable_gradients, operate, spread

BLOCK_BYTES = 1 << 20


class _Images:
    """Blocks of images and their functions as channels (b, T C, *S)."""

    def __init__(self, x: Tensor, functions: Functions, groups: int) -> None:
        self.functions, self.count, self.channels = functions, functions.total, x.shape[1]
        self.inner = x.shape[1] // groups
        self.last = functions.each or self.inner >= LANES
        self.x = x.movedim(1, -1) if self.last else x.contiguous()
        size = max(x[:1].numel() * self.count, 1)
        self.block = max(min(x.shape[0], BLOCK_BYTES // (size * x.element_size())), 1)
        self.memory = x.new_empty(self.block * size)

    def empty(self) -> Tensor:
        """Memory for a gradient of all pixels, laid out as blocks of them are."""
        return torch.empty_like(self.x, memory_format=torch.contiguous_format)

    def shown(self, pixels: Tensor) -> Tensor:
        """Pixels as (.., channels, *S)."""
        return pixels.movedim(-1, 1) if self.last else pixels

    def rows(self, pixels: Tensor) -> Tensor:
        """Rows (n, c) of the kernel: the pixels, or the images, of every group."""
        return pixels.reshape(-1, self.inner if self.last else pixels[0, : self.inner].numel())

    def planes(self, back: Tensor) -> Tensor:
        """A gradient (b, T C, *S) in the order of the planes."""
        return (back.movedim(1, -1) if self.last else back).contiguous()

    def blocks(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Images, their pixels as rows, and memory for their functions."""
        for n in range(0, self.x.shape[0], self.block):
            images = slice(n, min(n + self.block, self.x.shape[0]))
            pixels = self.x[images]
            shape = list(pixels.shape)
            shape[-1 if self.last else 1] *= self.count
            size = pixels.numel() * self.count
            yield images, self.rows(pixels), self.memory[:size].view(shape)

    def run(
        self,
        rows: Tensor,
        out: Tensor | None,
        back: Tensor | None = None,
        grad_rows: Tensor | None = None,
    ) -> None:
        """The kernel on rows; all tensors are contiguous."""
        width = rows.shape[1]
        strides = (width, self.count * width)
        self.functions.run(rows, out, strides, slice(0, self.channels), back, grad_rows)


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx,
        plan: Plan,
        features: Callable[[Tensor], Tensor],
        options: Options,
        x: Tensor,
        weight: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        ctx.plan, ctx.features, ctx.options = plan, features, options
        ctx.save_for_backward(x, weight, *parameters)
        every = _Images(x, Functions(plan, x), options[-1])
        turned = functions_first(weight, options, every.count)
        y = []
        for _, rows, planes in every.blocks():
            every.run(rows, planes)
            y.append(torch.ops.aten.convolution(every.shown(planes), turned, None, *options))
        return torch.cat(y).contiguous()

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        x, weight, *parameters = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative will follow
            found = differentiable_gradients(
                lambda x, w: operate(ctx.features, x, w, ctx.options, w.dtype),
                x,
                weight,
                parameters,
                grad,
            )
            return None, None, None, *found
        need_x, need_weight = ctx.needs_input_grad[3:5]
        wanted = [p for p in parameters if p.requires_grad]
        functions = Functions(ctx.plan, x, bool(wanted))
        every = _Images(x, functions, ctx.options[-1])
        turned = functions_first(weight, ctx.options, every.count)
        grad_x = every.empty() if need_x else None
        grad_weight = torch.zeros_like(turned) if need_weight else None
        for images, rows, planes in every.blocks():
            channels, back = every.shown(planes), None
            arguments = (grad[images], channels, turned, None, *ctx.options)
            if need_x or functions.trained:
                found = torch.ops.aten.convolution_backward(*arguments, [True, False, False])[0]
                back = every.planes(found)
            into = None if grad_x is None else every.rows(grad_x[images])
            every.run(rows, planes if need_weight else None, back, into)
            if grad_weight is not None:
                grad_weight += torch.ops.aten.convolution_backward(
                    *arguments, [False, True, False]
                )[1]
        if grad_weight is not None:
            grad_weight = channels_first(grad_weight, ctx.options, every.count)
        grad_x = None if grad_x is None else every.shown(grad_x)
        spreads = spread(iter(functions.parameter_gradients(wanted) if wanted else []), parameters)
        return None, None, None, grad_x, grad_weight, *spreads


def function_conv(
    plan: Plan,
    features: Callable[[Tensor], Tensor],
    x: Tensor,
    weight: Tensor,
    parameters: Sequence[Tensor],
    options: Options,
) -> Tensor:
    """``recomputed_conv`` with functions that the kernel knows.

    options: those of ``torch.ops.aten.convolution`` after the bias.
    """
    with torch.autocast(x.device.type, enabled=False):
        y: Tensor = _Conv.apply(plan, features, options, x, weight, *parameters)
    return y
