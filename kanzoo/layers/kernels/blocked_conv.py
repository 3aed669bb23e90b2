"""Convolutions of B-splines in plain PyTorch, some images at a time: without a compiler.

The functions on equal intervals are computed elementwise, straight into the planes that the
convolution reads, while these lie in the cache. Nothing but the pixels is saved.

Axes: b images of a block, C channels, K functions, T = K or K + 1 with the residual branch,
S the pixels in any dimensions, P of them.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .cardinal import Cardinal, Places, Workspace, expand, place, prepare_cardinal
from .compiled import is_transformed
from .dense import spline_features

BUFFER = 2**18  # numbers of the planes of a block

Options = tuple[list[int], list[int], list[int], bool, list[int], int]


def _features(x: Tensor, residual: Tensor | None, knots: Tensor, order: int, kind: str) -> Tensor:
    """All functions of the pixels as channels, (B, C T, *S), by the dense definition."""
    values = spline_features(x.movedim(1, -1), knots, order, kind)
    if residual is not None:
        values = torch.cat([values, residual.movedim(1, -1).unsqueeze(-1)], -1)
    return values.flatten(-2).movedim(-1, 1)


class _Images:
    """Blocks of images and their planes, channels last and functions before channels.

    Elementwise operations then run over whole rows of channels, and so do convolutions.
    """

    def __init__(self, x: Tensor, residual: Tensor | None, spline: Cardinal, options: Options):
        self.x, self.residual = x.movedim(1, -1), residual  # a view where channels are last
        self.groups = 1 if options[3] else options[-1]
        self.spline = spline.in_groups(self.groups)
        self.count = spline.count
        self.functions = spline.count + (residual is not None)
        size = x[:1].numel() * self.functions  # of one image
        self.block = max(min(x.shape[0], BUFFER // max(size, 1)), 1)
        self.memory = x.new_empty(self.block * size)
        self.work = Workspace(x, self.block * size)

    def grouped(self, pixels: Tensor) -> Tensor:
        """(b, *S, C) as (b P, groups, C / groups)."""
        return pixels.reshape(-1, self.groups, pixels.shape[-1] // self.groups)

    def blocks(self, slopes: bool) -> Iterator[tuple[slice, Tensor, Tensor | None, Places]]:
        """Images, their planes (b, T C, *S), the slopes of functions if wanted, their places."""
        for n in range(0, self.x.shape[0], self.block):
            images = slice(n, min(n + self.block, self.x.shape[0]))
            x = self.x[images]
            places = place(self.grouped(x), self.spline)
            planes = self.memory[: x.numel() * self.functions]
            planes = planes.view(*places.inside.shape[:2], self.functions, -1)
            functions, out = range(self.count), planes[:, :, : self.count]
            _, steep = expand(places, self.spline, functions, self.work, slopes, axis=2, out=out)
            if self.residual is not None:
                planes[:, :, -1] = self.grouped(self.residual[images].movedim(1, -1))
            yield images, planes.view(*x.shape[:-1], -1).movedim(-1, 1), steep, places


def functions_first(weight: Tensor, options: Options, functions: int) -> Tensor:
    """The weight with functions before channels in every group, as the planes are."""
    *_, transposed, _, groups = options
    if transposed:  # (groups, C / groups, T, ...)
        parts = weight.unflatten(0, (groups, -1, functions)).transpose(1, 2)
        return parts.flatten(0, 2)
    return weight.unflatten(1, (-1, functions)).transpose(1, 2).flatten(1, 2)


def channels_first(weight: Tensor, options: Options, functions: int) -> Tensor:
    """The way back."""
    *_, transposed, _, groups = options
    inner = weight.shape[0] // groups if transposed else weight.shape[1]
    return functions_first(weight, options, inner // functions)


class _BlockedConv(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx,
        x: Tensor,
        weight: Tensor,
        residual: Tensor | None,
        knots: Tensor,
        order: int,
        extrapolation: str,
        spline: Cardinal,
        options: Options,
    ) -> Tensor:
        ctx.order, ctx.extrapolation = order, extrapolation
        ctx.spline, ctx.options = spline, options
        ctx.save_for_backward(x, weight, residual, knots)
        every = _Images(x, residual, spline, options)
        turned = functions_first(weight, options, every.functions)
        y = [
            torch.ops.aten.convolution(planes, turned, None, *options)
            for _, planes, _, _ in every.blocks(False)
        ]
        return torch.cat(y).contiguous()

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        if torch.is_grad_enabled():  # a second derivative will follow
            return *_differentiable(ctx, grad), *[None] * 5
        x, weight, residual, _ = ctx.saved_tensors
        need_x, need_weight, need_residual = ctx.needs_input_grad[:3]
        every = _Images(x, residual, ctx.spline, ctx.options)
        turned = functions_first(weight, ctx.options, every.functions)
        channels_last = x.movedim(1, -1).shape
        grad_x = x.new_empty(channels_last) if need_x else None
        grad_residual = x.new_empty(channels_last) if need_residual else None
        grad_weight = torch.zeros_like(turned) if need_weight else None
        mask = [need_x or need_residual, need_weight, False]
        for images, planes, slopes, places in every.blocks(need_x):
            back, part, _ = torch.ops.aten.convolution_backward(
                grad[images], planes, turned, None, *ctx.options, mask
            )
            if grad_weight is not None:
                grad_weight += part
            if not mask[0]:
                continue
            back = back.movedim(1, -1).reshape(*places.inside.shape[:2], every.functions, -1)
            if grad_x is not None and slopes is not None:
                total = every.grouped(grad_x[images])
                torch.sum(slopes.mul_(back[:, :, : every.count]), 2, out=total)
                total *= every.spline.scale
                if places.moving is not None:
                    total.masked_fill_(~places.moving & ~places.inside.isnan(), 0)
            if grad_residual is not None:
                every.grouped(grad_residual[images]).copy_(back[:, :, -1])
        if grad_weight is not None:
            grad_weight = channels_first(grad_weight, ctx.options, every.functions)
        found = (None if t is None else t.movedim(-1, 1) for t in (grad_x, grad_residual))
        grad_x, grad_residual = found
        return grad_x, grad_weight, grad_residual, *[None] * 5


def _differentiable(ctx: Any, grad: Tensor) -> list[Tensor | None]:
    """Gradients of x, weight and residual with a graph, through the dense definition."""
    x, weight, residual, knots = ctx.saved_tensors
    # Aliases, as one variable may have been computed from another (residual from x).
    a, b = x.view_as(x), weight.view_as(weight)
    c = None if residual is None else residual.view_as(residual)
    needed = [t for t in (a, b, c) if t is not None and t.requires_grad]
    planes = _features(a, c, knots, ctx.order, ctx.extrapolation)
    y = torch.ops.aten.convolution(planes, b, None, *ctx.options)
    found = iter(torch.autograd.grad(y, needed, grad, create_graph=True, materialize_grads=True))
    return [None if t is None or not t.requires_grad else next(found) for t in (a, b, c)]


def blocked_spline_conv(
    x: Tensor,
    weight: Tensor,
    residual: Tensor | None,
    knots: Tensor,
    order: int,
    extrapolation: str,
    options: Options,
) -> Tensor | None:
    """The convolution of the functions of x (B, C, *S), None where their grid has no fast path.

    weight: as the plain operator on (B, C T, *S) takes it; residual: as x, or None and then T = K;
    knots: (1 or C, G + 2 order + 1); options: those of ``torch.ops.aten.convolution`` after the
    bias. float32 and float64, on any device, whatever autocast says. Returns (B, out, *S').
    """
    spline = None if is_transformed() else prepare_cardinal(knots, order, extrapolation)
    if spline is None or x.numel() == 0:
        return None
    with torch.autocast(x.device.type, enabled=False):
        y: Tensor = _BlockedConv.apply(
            x, weight, residual, knots, order, extrapolation, spline, options
        )
    return y
