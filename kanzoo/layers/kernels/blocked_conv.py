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
    """Blocks of images and their planes."""

    def __init__(self, x: Tensor, residual: Tensor | None, spline: Cardinal, functions: int):
        self.x, self.residual, self.spline = x, residual, spline.on_planes()
        self.count = functions - (residual is not None)
        batch, channels, *pixels = x.shape
        size = x[:1].numel() * functions  # of one image
        self.block = max(min(batch, BUFFER // max(size, 1)), 1)
        self.planes = x.new_empty(self.block, channels, functions, *pixels)
        self.work = Workspace(x, self.block * size)

    def blocks(self, slopes: bool) -> Iterator[tuple[slice, Tensor, Tensor | None, Places]]:
        """Images, their planes (b, C T, *S), the slopes (b, C, K, P) if wanted, their places."""
        for n in range(0, self.x.shape[0], self.block):
            images = slice(n, min(n + self.block, self.x.shape[0]))
            places = place(self.x[images].flatten(2), self.spline)
            planes = self.planes[: images.stop - n]
            values = planes.flatten(3)[:, :, : self.count]
            functions = range(self.count)
            _, steep = expand(
                places, self.spline, functions, self.work, slopes, axis=2, out=values
            )
            if self.residual is not None:
                planes[:, :, -1] = self.residual[images]
            yield images, planes.flatten(1, 2), steep, places


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
        functions = knots.shape[1] - order - 1 + (residual is not None)
        blocks = _Images(x, residual, spline, functions).blocks(False)
        return torch.cat(
            [torch.ops.aten.convolution(planes, weight, None, *options) for _, planes, _, _ in blocks]
        )

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        if torch.is_grad_enabled():  # a second derivative will follow
            return *_differentiable(ctx, grad), *[None] * 5
        x, weight, residual, knots = ctx.saved_tensors
        need_x, need_weight, need_residual = ctx.needs_input_grad[:3]
        grad_x = torch.empty_like(x) if need_x else None
        grad_weight = None
        grad_residual = torch.empty_like(x) if need_residual else None
        functions = knots.shape[1] - ctx.order - 1 + (residual is not None)
        mask = [need_x or need_residual, need_weight, False]
        grad = grad.contiguous()
        every = _Images(x, residual, ctx.spline, functions)
        for images, planes, slopes, places in every.blocks(need_x):
            back, part, _ = torch.ops.aten.convolution_backward(
                grad[images], planes, weight, None, *ctx.options, mask
            )
            if need_weight:
                grad_weight = part if grad_weight is None else grad_weight.add_(part)
            if not mask[0]:
                continue
            back = back.view(*x[images].shape[:2], functions, -1)  # (b, C, T, P)
            if grad_x is not None and slopes is not None:
                total = grad_x[images].flatten(2)
                torch.sum(slopes.mul_(back[:, :, : slopes.shape[2]]), 2, out=total)
                total *= every.spline.scale
                if places.moving is not None:
                    total.masked_fill_(~places.moving & ~places.inside.isnan(), 0)
            if grad_residual is not None:
                grad_residual[images].flatten(2).copy_(back[:, :, -1])
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
            x.contiguous(), weight, residual, knots, order, extrapolation, spline, options
        )
    return y
