"""Launches of the kernels that write features as channels.

Axes: N pixels, C channels, T functions with the residual branch, K without.
"""

import torch
from torch import Tensor

from kanzoo.kernels.gpu.launch import (
    ceil_div,
    functions_of,
    power_of_two,
)
from kanzoo.kernels.gpu.layout import TRAINED, Layout, table_on


def forward(x: Tensor, table: Tensor, layout: Layout, groups: int, dtype: torch.dtype) -> Tensor:
    """Features as channels: `(N, C) -> (N, T C)`."""
    from kanzoo.kernels.gpu import expand_kernels

    x, table = x.contiguous(), table_on(table, x.device)
    total, (rows, channels) = layout.total(table), x.shape
    out = x.new_empty(rows, total * channels, dtype=dtype)
    if out.numel() == 0:
        return out
    high, wide = 32, power_of_two(channels, 16, 64)
    with torch.cuda.device_of(x):
        expand_kernels.forward[(ceil_div(rows, high) * ceil_div(channels, wide),)](
            x,
            table,
            out,
            rows,
            channels,
            layout.num_functions(table),
            total,
            channels // groups,
            *layout.strides(table),
            layout.constant,
            **functions_of(layout),
            ROWS=high,
            INPUTS=wide,
        )
    return out


def backward(
    grad: Tensor, x: Tensor, table: Tensor, layout: Layout, groups: int, needs: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    """Gradients of x and table, each empty unless needed."""
    from kanzoo.kernels.gpu import expand_kernels

    need_x, need_table = needs
    grad, x, given = grad.contiguous(), x.contiguous(), table
    table = table_on(table, x.device)
    grad_x, (rows, channels) = torch.zeros_like(x), x.shape
    unused = grad.new_empty(0)
    grad_table = torch.zeros_like(given.contiguous()) if need_table else unused
    if x.numel() == 0:
        return grad_x if need_x else unused, grad_table
    functions, total = layout.num_functions(table), layout.total(table)
    high, wide = 32, power_of_two(channels, 16, 64)
    blocks = ceil_div(rows, high)
    partial = table.new_empty((blocks, 2, functions, channels) if need_table else 0)
    with torch.cuda.device_of(x):
        expand_kernels.backward[(blocks * ceil_div(channels, wide),)](
            grad,
            x,
            table,
            grad_x,
            partial,
            rows,
            channels,
            functions,
            total,
            channels // groups,
            *layout.strides(table),
            layout.constant,
            **functions_of(layout),
            TRAINED=need_table and layout.family in TRAINED,
            ROWS=high,
            INPUTS=wide,
        )
    if need_table:
        grad_table[:2] = partial.sum(0)
    return grad_x if need_x else unused, grad_table
