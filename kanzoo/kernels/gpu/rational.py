"""Launches of the kernels of rational functions, as `kanzoo::rational` on GPUs.

Coefficients' gradients are summed over tiles, then over tiles in a fixed order: no atomics.

Axes: C channels last, G groups.
"""

import torch
from torch import Tensor

from kanzoo.kernels.families.rational import dense_rational, layout_of, memory_order
from kanzoo.kernels.gpu.definition import gradients
from kanzoo.kernels.gpu.launch import attempt, ceil_div, power_of_two

ROWS = 32  # of a tile


def forward(x: Tensor, above: Tensor, below: Tensor, group_of: Tensor) -> Tensor:
    """P(x) / (1 + |Q(x)|): `(..., C) -> (..., C)`."""
    from kanzoo.kernels.gpu import rational_kernels

    x, (outer, channels, inner) = layout_of(x)
    y = torch.empty_like(x)
    if x.numel() == 0:
        return y
    rows, columns = (outer, channels) if inner == 1 else (outer * channels, inner)
    wide = power_of_two(columns, 16, 64)
    with torch.cuda.device_of(x):
        rational_kernels.forward[(ceil_div(rows, ROWS) * ceil_div(columns, wide),)](
            memory_order(x),
            above.float().contiguous(),
            below.float().contiguous(),
            group_of,
            memory_order(y),
            rows,
            columns,
            channels,
            below.shape[1],
            LAST=inner == 1,
            ROWS=ROWS,
            COLUMNS=wide,
        )
    return y


def backward(
    grad: Tensor, x: Tensor, above: Tensor, below: Tensor, group_of: Tensor, *needs: bool
) -> tuple[Tensor, ...]:
    """Gradients of x and of both sets of coefficients, each empty unless needed."""
    from kanzoo.kernels.gpu import rational_kernels

    x, (outer, channels, inner) = layout_of(x)
    grad_x = torch.empty_like(x)
    last = inner == 1
    rows, columns = (outer, channels) if last else (outer * channels, inner)
    wide = power_of_two(columns, 16, 64)
    down, across = ceil_div(rows, ROWS), ceil_div(columns, wide)
    sums = above.new_zeros(down if last else across, 10, columns if last else rows)
    sums = sums.float()
    if x.numel():
        with torch.cuda.device_of(x):
            rational_kernels.backward[(down * across,)](
                memory_order(torch.empty_like(x).copy_(grad)),
                memory_order(x),
                above.float().contiguous(),
                below.float().contiguous(),
                group_of,
                memory_order(grad_x),
                sums,
                rows,
                columns,
                channels,
                below.shape[1],
                LAST=last,
                ROWS=ROWS,
                COLUMNS=wide,
            )
    each = sums.sum(0)
    each = each if last else each.view(10, -1, channels).sum(1)  # (10, C)
    member = torch.arange(below.shape[1], device=x.device) == group_of.unsqueeze(1)  # (C, G)
    grad_below = (each[6:].unsqueeze(-1) * member).sum(1)
    found = grad_x, each[:6].sum(1).to(above.dtype), grad_below.to(below.dtype)
    return tuple(t if need else grad.new_empty(0) for t, need in zip(found, needs, strict=True))


def _forward(x: Tensor, above: Tensor, below: Tensor, group_of: Tensor) -> Tensor:
    arguments = (x, above, below, group_of)
    return attempt("rational", lambda: forward(*arguments), lambda: dense_rational(*arguments))


def _backward(
    grad: Tensor, x: Tensor, above: Tensor, below: Tensor, group_of: Tensor, *needs: bool
) -> tuple[Tensor, ...]:
    def otherwise() -> tuple[Tensor, ...]:
        def function(x: Tensor, above: Tensor, below: Tensor) -> Tensor:
            return dense_rational(x, above, below, group_of)

        return gradients(function, (x, above, below), grad, needs)

    return attempt("rational", lambda: backward(grad, x, above, below, group_of, *needs), otherwise)


for _device in ("cuda", "xpu"):
    torch.library.impl("kanzoo::rational", _device, _forward)
    torch.library.impl("kanzoo::rational_backward", _device, _backward)


def rational(x: Tensor, above: Tensor, below: Tensor, group_of: Tensor) -> Tensor:
    """P(x) / (1 + |Q(x)|) by `kanzoo::rational`, with kernels in C++ or Triton by device.

    x: `(..., C)`; above: `(6)`; below: `(4, G)`; group_of: `(C)`, the group of every channel.
    """
    y: Tensor = torch.ops.kanzoo.rational(x, above, below, group_of)
    return y
