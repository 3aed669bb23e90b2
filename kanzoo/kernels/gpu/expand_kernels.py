# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator"
"""Two kernels that write features as channels and take their gradients back, for convolutions.

Axes: N pixels, C channels in groups of `inner`, T functions with the residual branch last, which
come before the channels of a group.
"""

import triton
import triton.language as tl

from kanzoo.kernels.gpu.functions import activate, advance, evaluate, squash


@triton.jit(do_not_specialize=["rows"])
def forward(
    x,
    table,
    out,
    rows,
    channels,
    functions,
    every,  # functions with the residual branch
    inner,
    table_row,
    table_plane,
    table_step,
    constant,
    FAMILY: tl.constexpr,
    ORDER: tl.constexpr,
    EXTRAPOLATION: tl.constexpr,
    SQUASH: tl.constexpr,
    RESIDUAL: tl.constexpr,
    ROWS: tl.constexpr,
    INPUTS: tl.constexpr,
):
    """out (N, groups, T, inner)."""
    across = tl.cdiv(channels, INPUTS)
    pid = tl.program_id(0)
    n = (pid // across).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    c = (pid % across) * INPUTS + tl.arange(0, INPUTS)
    inside = (n < rows)[:, None] & (c < channels)[None, :]
    raw = tl.load(x + n[:, None] * channels + c[None, :], mask=inside, other=0.0).to(tl.float32)
    seen, _ = squash(raw, SQUASH)
    columns = (tl.minimum(c, channels - 1) * table_step)[None, :]
    group = c // inner
    to = out + n[:, None] * channels * every + (group * every * inner + c % inner)[None, :]
    value = tl.full((ROWS, INPUTS), 1.0, tl.float32)
    old = tl.full((ROWS, INPUTS), 0.0, tl.float32)
    for k in range(functions):
        if FAMILY == "recurrence":
            value, _, old, _ = advance(
                seen, k, value, old, old, old, table, table_row, table_plane, columns
            )
        else:
            value, _, _, _ = evaluate(
                seen,
                k,
                functions,
                table,
                table_row,
                table_plane,
                columns,
                constant,
                FAMILY,
                ORDER,
                EXTRAPOLATION,
            )
        tl.store(to + k * inner, value.to(out.dtype.element_ty), mask=inside)
    if RESIDUAL != "none":
        value, _ = activate(raw, RESIDUAL)
        tl.store(to + functions * inner, value.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows"])
def backward(
    grad,
    x,
    table,
    grad_x,
    grad_table,
    rows,
    channels,
    functions,
    every,
    inner,
    table_row,
    table_plane,
    table_step,
    constant,
    FAMILY: tl.constexpr,
    ORDER: tl.constexpr,
    EXTRAPOLATION: tl.constexpr,
    SQUASH: tl.constexpr,
    RESIDUAL: tl.constexpr,
    TRAINED: tl.constexpr,
    ROWS: tl.constexpr,
    INPUTS: tl.constexpr,
):
    """grad_x (N, C) and, of trained tables, grad_table (blocks of rows, 2, K, C)."""
    across = tl.cdiv(channels, INPUTS)
    pid = tl.program_id(0)
    block = pid // across
    n = block.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    c = (pid % across) * INPUTS + tl.arange(0, INPUTS)
    in_inputs = c < channels
    inside = (n < rows)[:, None] & in_inputs[None, :]
    raw = tl.load(x + n[:, None] * channels + c[None, :], mask=inside, other=0.0).to(tl.float32)
    seen, squashed = squash(raw, SQUASH)
    columns = (tl.minimum(c, channels - 1) * table_step)[None, :]
    group = c // inner
    at = grad + n[:, None] * channels * every + (group * every * inner + c % inner)[None, :]
    total = tl.zeros((ROWS, INPUTS), tl.float32)
    value = tl.full((ROWS, INPUTS), 1.0, tl.float32)
    old = tl.full((ROWS, INPUTS), 0.0, tl.float32)
    slope = old
    steep = old
    for k in range(functions):
        back = tl.load(at + k * inner, mask=inside, other=0.0).to(tl.float32)
        if FAMILY == "recurrence":
            value, slope, old, steep = advance(
                seen, k, value, slope, old, steep, table, table_row, table_plane, columns
            )
        else:
            _, slope, first, second = evaluate(
                seen,
                k,
                functions,
                table,
                table_row,
                table_plane,
                columns,
                constant,
                FAMILY,
                ORDER,
                EXTRAPOLATION,
            )
            if TRAINED:
                to = grad_table + (block.to(tl.int64) * 2 * functions + k) * channels + c
                tl.store(to, tl.sum(back * first, 0), mask=in_inputs)
                tl.store(to + functions * channels, tl.sum(back * second, 0), mask=in_inputs)
        total += back * slope
    total = total * squashed
    if RESIDUAL != "none":
        back = tl.load(at + functions * inner, mask=inside, other=0.0).to(tl.float32)
        _, slope = activate(raw, RESIDUAL)
        total += back * slope
    to = grad_x + n[:, None] * channels + c[None, :]
    tl.store(to, total.to(grad_x.dtype.element_ty), mask=inside)
