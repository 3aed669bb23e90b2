"""Launches of the kernels of linear layers.

Axes: N rows, C inputs, T functions with the residual branch, K without, O outputs.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from kanzoo.kernels.gpu.launch import (
    ceil_div,
    functions_of,
    power_of_two,
    precision,
    split,
)
from kanzoo.kernels.gpu.layout import TRAINED, Layout, table_on


class Tile(NamedTuple):
    """Sizes of a program's tile, and its number of warps."""

    rows: int
    inputs: int
    outputs: int
    warps: int

    @property
    def sizes(self) -> dict[str, int]:
        """As constants of the code."""
        return {"ROWS": self.rows, "INPUTS": self.inputs, "OUTPUTS": self.outputs}


def tiles_of(rows: int, inputs: int, outputs: int, itemsize: int) -> tuple[Tile, Tile, Tile]:
    """Tiles of the output, of the gradient of the input and of that of the weight.

    A table in place of measurements at run time: results and times depend on the sizes alone.
    Numbers of 4 bytes, which take three products of TF32, get lower tiles and more warps.
    """
    most = 128 if itemsize < 4 else 64
    high = min(most, 128 if rows >= 4096 else 64 if rows >= 1024 else 32)
    wide = power_of_two(outputs, 16, 128)
    forward = Tile(high, 32, wide, 8 if high * wide * itemsize > 16 * 1024 else 4)
    across = power_of_two(inputs, 16, 64)
    back = Tile(high, across, power_of_two(outputs, 16, 32), 8 if high * itemsize > 128 else 4)
    return forward, back, Tile(32, across, wide, 4)


def forward(
    x: Tensor,
    weight: Tensor,
    table: Tensor,
    bias: Tensor | None,
    layout: Layout,
    dtype: torch.dtype,
) -> Tensor:
    """The layer `(N, C) -> (N, O)`."""
    from kanzoo.kernels.gpu import linear_kernels

    x, table, weight = x.contiguous(), table_on(table, x.device), matrix_of(weight, dtype)
    (rows, inputs), outputs = x.shape, weight.shape[2]
    y = x.new_empty(rows, outputs, dtype=dtype)
    if x.numel() == 0 or outputs == 0:
        return y.zero_() if bias is None else y.copy_(bias)
    tile = tiles_of(rows, inputs, outputs, dtype.itemsize)[0]
    programs = ceil_div(rows, tile.rows) * ceil_div(outputs, tile.outputs)
    splits, share = split(inputs, tile.inputs, programs, x.device)
    into = y if splits == 1 else y.new_empty(splits, rows, outputs, dtype=torch.float32)
    with torch.cuda.device_of(x):
        linear_kernels.forward[(programs, splits)](
            x,
            weight,
            x if bias is None else bias,
            table,
            into,
            rows,
            inputs,
            outputs,
            layout.num_functions(table),
            weight.stride(0),
            *layout.strides(table),
            share,
            layout.constant,
            **functions_of(layout),
            HAS_BIAS=bias is not None,
            PRECISION=precision(),
            **tile.sizes,
            num_warps=tile.warps,
        )
    return y if splits == 1 else torch.sum(into, 0).to(dtype)


def backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    table: Tensor,
    layout: Layout,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and table, each empty unless needed."""
    need_x, need_weight, need_table = needs
    grad, x, given = grad.contiguous(), x.contiguous(), table
    table = table_on(table, x.device)
    empty = grad.numel() == 0 or x.numel() == 0
    unused = grad.new_empty(0)
    grad_x = torch.zeros_like(x) if need_x else unused
    grad_weight = torch.zeros_like(weight.contiguous()) if need_weight else unused
    grad_table = torch.zeros_like(given.contiguous()) if need_table else unused
    if not empty and need_weight:
        grad_weight = _weight_gradient(grad, x, weight, table, layout)
    if not empty and (need_x or need_table):
        grad_x, added = _input_gradient(grad, x, weight, table, layout, need_table)
        if need_table:
            grad_table[:2] = added
    return grad_x if need_x else unused, grad_weight, grad_table


def _input_gradient(
    grad: Tensor, x: Tensor, weight: Tensor, table: Tensor, layout: Layout, need_table: bool
) -> tuple[Tensor, Tensor]:
    from kanzoo.kernels.gpu import linear_kernels

    weight = matrix_of(weight, grad.dtype)
    (rows, inputs), outputs = x.shape, weight.shape[2]
    tile = tiles_of(rows, inputs, outputs, grad.itemsize)[1]
    if need_table:  # whose sums take registers too
        tile = tile._replace(rows=max(tile.rows // 2, 32))
    blocks = ceil_div(rows, tile.rows)
    functions, grad_x = layout.num_functions(table), torch.empty_like(x)
    partial = x.new_empty(0, dtype=torch.float32)
    if need_table:
        partial = partial.new_empty(blocks, 2, functions, inputs)
    with torch.cuda.device_of(x):
        linear_kernels.input_gradient[(blocks * ceil_div(inputs, tile.inputs),)](
            grad,
            x,
            weight,
            table,
            grad_x,
            partial,
            rows,
            inputs,
            outputs,
            functions,
            weight.stride(0),
            *layout.strides(table),
            layout.constant,
            **functions_of(layout),
            TRAINED=need_table and layout.family in TRAINED,
            PRECISION=precision(),
            **tile.sizes,
            num_warps=tile.warps,
        )
    return grad_x, partial.sum(0) if need_table else partial


def _weight_gradient(
    grad: Tensor, x: Tensor, weight: Tensor, table: Tensor, layout: Layout
) -> Tensor:
    from kanzoo.kernels.gpu import linear_kernels

    (rows, inputs), (_, total, outputs) = x.shape, weight.shape
    tile = tiles_of(rows, inputs, outputs, grad.itemsize)[2]
    pairs = ceil_div(inputs, tile.inputs) * ceil_div(outputs, tile.outputs)
    splits, share = split(rows, tile.rows, pairs * total, x.device)
    shape, whole = (splits, inputs, total, outputs), splits == 1
    partial = torch.empty(
        shape, dtype=weight.dtype if whole else torch.float32, device=weight.device
    )
    with torch.cuda.device_of(x):
        linear_kernels.weight_gradient[(pairs, total, splits)](
            grad,
            x,
            table,
            partial,
            rows,
            inputs,
            outputs,
            layout.num_functions(table),
            total,
            *layout.strides(table),
            share,
            layout.constant,
            **functions_of(layout),
            PRECISION=precision(),
            **tile.sizes,
            num_warps=tile.warps,
        )
    return partial[0] if whole else partial.sum(0).to(weight.dtype)


def matrix_of(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A weight `(C, T, O)` in the dtype of products; only its first stride is free."""
    weight = weight.to(dtype)
    rows = weight.stride()[1:] == (weight.shape[2], 1)
    return weight if rows else weight.contiguous()
