# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator"
"""Rational functions P(x) / (1 + |Q(x)|) of groups of channels, and all of their gradients.

A matrix in memory order, with a channel a column (LAST) or a row. P = a_0 + .. + a_5 x^5 for all,
Q = b_1 x + .. + b_4 x^4 by group, whose coefficients are `(4, G)`.
"""

import triton
import triton.language as tl


@triton.jit
def quotient(x, above, below, group, groups):
    """P, its slope, Q, its slope."""
    p = tl.load(above + 5) * x + tl.load(above + 4)
    steep = 5.0 * tl.load(above + 5)
    steep = steep * x + 4.0 * tl.load(above + 4)
    for i in tl.static_range(3, -1, -1):
        if i > 0:
            steep = steep * x + i * tl.load(above + i)
        p = p * x + tl.load(above + i)
    q = tl.load(below + 3 * groups + group) * x
    slope = 4.0 * tl.load(below + 3 * groups + group)
    for j in tl.static_range(2, -1, -1):
        b = tl.load(below + j * groups + group)
        slope = slope * x + (j + 1) * b
        q = (q + b) * x
    return p, steep, q, slope


@triton.jit(do_not_specialize=["rows"])
def forward(
    x,
    above,
    below,
    group_of,
    y,
    rows,
    columns,
    channels,
    groups,
    LAST: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    across = tl.cdiv(columns, COLUMNS)
    n = (tl.program_id(0) // across).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    c = (tl.program_id(0) % across) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (n < rows)[:, None] & (c < columns)[None, :]
    if LAST:
        group = tl.load(group_of + tl.minimum(c, channels - 1))[None, :]
    else:
        group = tl.load(group_of + n % channels)[:, None]
    place = n[:, None] * columns + c[None, :]
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    p, _, q, _ = quotient(value, above, below, group, groups)
    tl.store(y + place, (p / (1.0 + tl.abs(q))).to(y.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows"])
def backward(
    grad,
    x,
    above,
    below,
    group_of,
    grad_x,
    sums,
    rows,
    columns,
    channels,
    groups,
    LAST: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """grad_x and sums over a tile, `(blocks, 10, columns)` or `(blocks, 10, rows)`."""
    across = tl.cdiv(columns, COLUMNS)
    down = tl.program_id(0) // across
    right = tl.program_id(0) % across
    n = down.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    c = right * COLUMNS + tl.arange(0, COLUMNS)
    inside = (n < rows)[:, None] & (c < columns)[None, :]
    if LAST:
        group = tl.load(group_of + tl.minimum(c, channels - 1))[None, :]
        to = sums + down.to(tl.int64) * 10 * columns + c
        step = columns
        there = c < columns
    else:
        group = tl.load(group_of + n % channels)[:, None]
        to = sums + right.to(tl.int64) * 10 * rows + n
        step = rows
        there = n < rows
    place = n[:, None] * columns + c[None, :]
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    g = tl.load(grad + place, mask=inside, other=0.0).to(tl.float32)
    p, steep, q, slope = quotient(value, above, below, group, groups)
    inverse = 1.0 / (1.0 + tl.abs(q))
    up = g * inverse
    sign = tl.where(q > 0, 1.0, tl.where(q < 0, -1.0, q))
    lower = -up * p * inverse * sign
    back = up * steep + lower * slope
    tl.store(grad_x + place, back.to(grad_x.dtype.element_ty), mask=inside)
    for i in tl.static_range(6):
        tl.store(to + i * step, tl.sum(up, 0 if LAST else 1), mask=there)
        up = up * value
    for j in tl.static_range(4):
        lower = lower * value
        tl.store(to + (6 + j) * step, tl.sum(lower, 0 if LAST else 1), mask=there)
