# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator"
"""The functions of all families in Triton: values, slopes, derivatives by rows of their table.

A tile is rows by channels. Tables are `(J, K, C or 1)`; those of splines hold knots, `(1 or C, M)`.
`columns` are channels with the step of the table between them, so that one column serves all.
"""

import triton
import triton.language as tl

from kanzoo.kernels.gpu.splines import adaptive_spline, bump, positive, power, uniform_spline


@triton.jit
def tanh(x):
    """By its series where the quotient of exponentials would cancel."""
    a = tl.abs(x)
    e = tl.exp(-2.0 * a)
    square = x * x
    near = square * (-0.05396825397 + square * 0.02186948854)
    near = a * (1.0 + square * (-0.3333333333 + square * (0.1333333333 + near)))
    value = tl.where(a < 0.25, near, (1.0 - e) / (1.0 + e))
    return tl.where(x < 0, -value, value)


@triton.jit
def activate(x, NAME: tl.constexpr):
    """The residual branch: value and slope."""
    if NAME == "silu":
        gate = tl.sigmoid(x)
        value = x * gate
        slope = gate + value * (1.0 - gate)
    elif NAME == "relu":
        value = tl.where(x < 0, 0.0, x)
        slope = tl.where(x > 0, 1.0, 0.0)
    elif NAME == "tanh":
        value = tanh(x)
        slope = 1.0 - value * value
    elif NAME == "gelu":
        below = 0.5 + 0.5 * tl.erf(0.7071067811865476 * x)
        value = x * below
        slope = below + x * 0.3989422804014327 * tl.exp(-0.5 * x * x)
    else:
        value = x
        slope = tl.full(x.shape, 1.0, tl.float32)
    return value, slope


@triton.jit
def squash(x, NAME: tl.constexpr):
    """What the functions see of x, and its slope."""
    if NAME == "tanh":
        value = tanh(x)
        slope = 1.0 - value * value
    elif NAME == "sigmoid":
        value = tl.sigmoid(x)
        slope = value * (1.0 - value)
    else:
        value = x
        slope = tl.full(x.shape, 1.0, tl.float32)
    return value, slope


@triton.jit
def advance(x, k, v, d, old, steep, table, row, plane, columns):
    """From p_(k-1) to p_k = (a x + b) p_(k-1) - c p_(k-2), and its slope; p_0 = 1."""
    at = table + tl.maximum(k - 1, 0) * plane + columns
    a = tl.load(at)
    factor = a * x + tl.load(at + row)
    c = tl.load(at + 2 * row)
    next = factor * v - c * old
    slope = a * v + factor * d - c * steep
    begun = k > 0
    return (
        tl.where(begun, next, v),
        tl.where(begun, slope, d),
        tl.where(begun, v, old),
        tl.where(begun, d, steep),
    )


@triton.jit
def evaluate(
    x,
    k,
    count,  # functions
    table,
    row,
    plane,
    columns,
    constant,
    FAMILY: tl.constexpr,
    ORDER: tl.constexpr,
    EXTRAPOLATION: tl.constexpr,
):
    """Function k of x but for recurrences: value, slope, derivatives by rows 0 and 1."""
    by_first = x
    by_second = x
    if FAMILY == "uniform_spline":
        value, slope = uniform_spline(x, k, table, plane, ORDER, EXTRAPOLATION)
    elif FAMILY == "adaptive_spline":
        value, slope = adaptive_spline(x, k, table + columns, plane, ORDER, EXTRAPOLATION)
    elif FAMILY == "bernstein":
        degree = count - 1
        value = tl.load(table + k * plane + columns) + 0.0 * x
        slope = 0.0 * x
        for j in range(degree):  # the product rule, a factor at a time
            factor = tl.where(j < k, x, 1.0 - x)
            slope = slope * factor + tl.where(j < k, value, -value)
            value = value * factor
    elif FAMILY == "harmonics":
        half = count // 2
        wave = k % half + 1
        rate = constant * wave
        height = tl.load(table + k * plane + columns)
        angle = rate * x
        if k < half:
            value = height * tl.cos(angle)
            slope = -height * rate * tl.sin(angle)
        else:
            value = height * tl.sin(angle)
            slope = height * rate * tl.cos(angle)
    elif FAMILY == "waves":
        rate = tl.load(table + k * plane + columns)
        angle = rate * x + tl.load(table + row + k * plane + columns)
        value = constant * tl.sin(angle)
        by_second = constant * tl.cos(angle)
        by_first = x * by_second
        slope = rate * by_second
    elif FAMILY == "ramps":
        rising = positive((x - tl.load(table + k * plane + columns)) * constant)
        falling = positive((tl.load(table + row + k * plane + columns) - x) * constant)
        lower = power(rising * falling, ORDER - 1)
        value = lower * rising * falling
        by_first = -ORDER * constant * lower * tl.where(rising > 0, falling, 0.0)
        by_second = ORDER * constant * lower * tl.where(falling > 0, rising, 0.0)
        slope = -by_first - by_second
    else:  # of a place and an inverse width
        middle = tl.load(table + k * plane + columns)
        inverse = tl.load(table + row + k * plane + columns)
        t = (x - middle) * inverse
        if FAMILY == "gaussian":
            value = tl.exp(-t * t)
            rate = -2.0 * t * value
        elif FAMILY == "switch":
            e = tl.exp(-2.0 * tl.abs(t))
            below = 1.0 / (e + 1.0)
            value = 4.0 * e * below * below
            rate = -2.0 * tl.where(t < 0, e - 1.0, 1.0 - e) * below * value
        elif FAMILY == "spline_gaussian":
            value, rate = bump(t, ORDER)
            wide = tl.load(table + 3 * row + k * plane + columns)
            u = (x - tl.load(table + 2 * row + k * plane + columns)) * wide
            bell = tl.exp(-u * u)
            value += bell
        else:
            bell = tl.exp(-0.5 * t * t)
            if FAMILY == "mexican_hat":
                value = constant * (1.0 - t * t) * bell
                rate = constant * t * (t * t - 3.0) * bell
            elif FAMILY == "gaussian_derivative":
                value = -t * bell
                rate = (t * t - 1.0) * bell
            else:  # Morlet; where the bell is zero no cosine of a large number is needed
                u = tl.where(tl.abs(t) > 40.0, 40.0, t)
                value = tl.cos(constant * u) * bell
                rate = -(constant * tl.sin(constant * u) + u * tl.cos(constant * u)) * bell
        slope = rate * inverse
        by_first = -slope
        by_second = rate * (x - middle)
        if FAMILY == "spline_gaussian":
            slope += -2.0 * u * bell * wide
    return value, slope, by_first, by_second


@triton.jit
def evaluate_alone(
    x,
    k,
    count,
    table,
    row,
    plane,
    columns,
    constant,
    FAMILY: tl.constexpr,
    ORDER: tl.constexpr,
    EXTRAPOLATION: tl.constexpr,
):
    """The value of function k; recurrences begin anew."""
    if FAMILY == "recurrence":
        value = tl.full(x.shape, 1.0, tl.float32)
        old = tl.full(x.shape, 0.0, tl.float32)
        for n in range(1, k + 1):
            value, _, old, _ = advance(x, n, value, old, old, old, table, row, plane, columns)
    else:
        value, _, _, _ = evaluate(
            x, k, count, table, row, plane, columns, constant, FAMILY, ORDER, EXTRAPOLATION
        )
    return value
