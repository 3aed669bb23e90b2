# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator"
"""Three kernels of a linear layer: output, gradient of the input, gradient of the weight.

Axes: N rows, C inputs, T functions with the residual branch last, O outputs. A program makes one
function of a tile after the other in registers and multiplies it at once. Sums that several
programs share are written side by side and added up afterwards, in a fixed order.
"""

import triton
import triton.language as tl

from kanzoo.kernels.gpu.functions import activate, advance, evaluate, evaluate_alone, squash


@triton.jit(do_not_specialize=["rows"])
def forward(
    x,
    weight,
    bias,
    table,
    y,
    rows,
    inputs,
    outputs,
    functions,
    weight_in,
    table_row,
    table_plane,
    table_step,
    share,  # inputs of a split
    constant,
    FAMILY: tl.constexpr,
    ORDER: tl.constexpr,
    EXTRAPOLATION: tl.constexpr,
    SQUASH: tl.constexpr,
    RESIDUAL: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
):
    """y (splits, N, O)."""
    across = tl.cdiv(outputs, OUTPUTS)
    pid = tl.program_id(0)
    split = tl.program_id(1)
    n = (pid // across).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    o = (pid % across) * OUTPUTS + tl.arange(0, OUTPUTS)
    in_rows = n < rows
    in_outputs = o < outputs
    total = tl.zeros((ROWS, OUTPUTS), tl.float32)
    if HAS_BIAS:
        started = tl.load(bias + o, mask=in_outputs & (split == 0), other=0.0).to(tl.float32)
        total += started[None, :]
    for begin in range(split * share, tl.minimum((split + 1) * share, inputs), INPUTS):
        c = begin + tl.arange(0, INPUTS)
        in_inputs = c < inputs
        inside = in_rows[:, None] & in_inputs[None, :]
        raw = tl.load(x + n[:, None] * inputs + c[None, :], mask=inside, other=0.0)
        raw = raw.to(tl.float32)
        seen, _ = squash(raw, SQUASH)
        columns = (tl.minimum(c, inputs - 1) * table_step)[None, :]
        at = weight + c[:, None].to(tl.int64) * weight_in + o[None, :]
        mask = in_inputs[:, None] & in_outputs[None, :]
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
            w = tl.load(at + k * outputs, mask=mask, other=0.0)
            total = tl.dot(value.to(w.dtype), w, total, input_precision=PRECISION)
        if RESIDUAL != "none":
            value, _ = activate(raw, RESIDUAL)
            w = tl.load(at + functions * outputs, mask=mask, other=0.0)
            total = tl.dot(value.to(w.dtype), w, total, input_precision=PRECISION)
    to = y + split.to(tl.int64) * rows * outputs + n[:, None] * outputs + o[None, :]
    tl.store(to, total.to(y.dtype.element_ty), mask=in_rows[:, None] & in_outputs[None, :])


@triton.jit
def taken_back(
    grad, at, n, in_rows, in_inputs, outputs, like, PRECISION: tl.constexpr, OUTPUTS: tl.constexpr
):
    """Gradient of one function's tile `(rows, inputs)`, from those of all outputs."""
    back = tl.zeros_like(like)
    for begin in range(0, outputs, OUTPUTS):
        o = begin + tl.arange(0, OUTPUTS)
        there = o < outputs
        mask = in_rows[:, None] & there[None, :]
        g = tl.load(grad + n[:, None] * outputs + o[None, :], mask=mask, other=0.0)
        w = tl.load(at + o[:, None], mask=there[:, None] & in_inputs[None, :], other=0.0)
        back = tl.dot(g, w, back, input_precision=PRECISION)
    return back


@triton.jit(do_not_specialize=["rows"])
def input_gradient(
    grad,
    x,
    weight,
    table,
    grad_x,
    grad_table,
    rows,
    inputs,
    outputs,
    functions,
    weight_in,
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
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
):
    """grad_x (N, C) and, of trained tables, grad_table (blocks of rows, 2, K, C)."""
    across = tl.cdiv(inputs, INPUTS)
    pid = tl.program_id(0)
    block = pid // across
    n = block.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    c = (pid % across) * INPUTS + tl.arange(0, INPUTS)
    in_rows = n < rows
    in_inputs = c < inputs
    inside = in_rows[:, None] & in_inputs[None, :]
    raw = tl.load(x + n[:, None] * inputs + c[None, :], mask=inside, other=0.0).to(tl.float32)
    seen, squashed = squash(raw, SQUASH)
    columns = (tl.minimum(c, inputs - 1) * table_step)[None, :]
    at = weight + c[None, :].to(tl.int64) * weight_in
    total = tl.zeros((ROWS, INPUTS), tl.float32)
    value = tl.full((ROWS, INPUTS), 1.0, tl.float32)
    old = tl.full((ROWS, INPUTS), 0.0, tl.float32)
    slope = old
    steep = old
    for k in range(functions):
        back = taken_back(
            grad, at + k * outputs, n, in_rows, in_inputs, outputs, seen, PRECISION, OUTPUTS
        )
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
                to = grad_table + (block.to(tl.int64) * 2 * functions + k) * inputs + c
                tl.store(to, tl.sum(back * first, 0), mask=in_inputs)
                tl.store(to + functions * inputs, tl.sum(back * second, 0), mask=in_inputs)
        total += back * slope
    total = total * squashed
    if RESIDUAL != "none":
        at += functions * outputs
        back = taken_back(grad, at, n, in_rows, in_inputs, outputs, seen, PRECISION, OUTPUTS)
        _, slope = activate(raw, RESIDUAL)
        total += back * slope
    to = grad_x + n[:, None] * inputs + c[None, :]
    tl.store(to, total.to(grad_x.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows", "share"])
def weight_gradient(
    grad,
    x,
    table,
    grad_weight,
    rows,
    inputs,
    outputs,
    functions,
    every,  # functions with the residual branch
    table_row,
    table_plane,
    table_step,
    share,  # rows of a split
    constant,
    FAMILY: tl.constexpr,
    ORDER: tl.constexpr,
    EXTRAPOLATION: tl.constexpr,
    SQUASH: tl.constexpr,
    RESIDUAL: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
):
    """grad_weight (splits, C, T, O)."""
    across = tl.cdiv(outputs, OUTPUTS)
    pid = tl.program_id(0)
    k = tl.program_id(1)
    split = tl.program_id(2)
    c = (pid // across) * INPUTS + tl.arange(0, INPUTS)
    o = (pid % across) * OUTPUTS + tl.arange(0, OUTPUTS)
    in_inputs = c < inputs
    in_outputs = o < outputs
    columns = (tl.minimum(c, inputs - 1) * table_step)[None, :]
    total = tl.zeros((INPUTS, OUTPUTS), tl.float32)
    for begin in range(split * share, tl.minimum((split + 1) * share, rows), ROWS):
        n = (begin + tl.arange(0, ROWS)).to(tl.int64)
        in_rows = n < rows
        inside = in_rows[:, None] & in_inputs[None, :]
        raw = tl.load(x + n[:, None] * inputs + c[None, :], mask=inside, other=0.0)
        raw = raw.to(tl.float32)
        inside = in_rows[:, None] & in_outputs[None, :]
        g = tl.load(grad + n[:, None] * outputs + o[None, :], mask=inside, other=0.0)
        seen, _ = squash(raw, SQUASH)
        if RESIDUAL != "none" and k == functions:
            value, _ = activate(raw, RESIDUAL)
        else:
            value = evaluate_alone(
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
        total = tl.dot(tl.trans(value).to(g.dtype), g, total, input_precision=PRECISION)
    place = split.to(tl.int64) * inputs + c[:, None]
    to = grad_weight + (place * every + k) * outputs + o[None, :]
    mask = in_inputs[:, None] & in_outputs[None, :]
    tl.store(to, total.to(grad_weight.dtype.element_ty), mask=mask)
