# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc,untyped-decorator,assignment"
"""B-splines in Triton, a function at a time: in closed form on equal cells, else by recursion."""

import triton
import triton.language as tl


@triton.jit
def power(x, N: tl.constexpr):
    value = tl.full(x.shape, 1.0, tl.float32)
    for _ in tl.static_range(N):
        value = value * x
    return value


@triton.jit
def positive(x):
    """max(x, 0) that keeps NaN."""
    return tl.where(x < 0, 0.0, x)


@triton.jit
def bump(t, ORDER: tl.constexpr):
    """The uniform B-spline around 0 of orders 1 to 5 and its slope, that of order 1 not at knots.

    (q^n - (n + 1) r^n + n (n + 1) / 2 s^n) / n! with q, r, s the positive parts of
    (n + 1) / 2 - j - |t| (Schoenberg's sum of truncated powers, of the nearer half).
    """
    left = (ORDER + 1) / 2 - tl.abs(t)
    lower = power(positive(left), ORDER - 1)
    value = lower * positive(left)
    if ORDER > 1:
        right = positive(left - 1.0)
        next = (ORDER + 1) * power(right, ORDER - 1)
        lower = lower - next
        value = value - next * right
    if ORDER > 3:
        right = positive(left - 2.0)
        next = ORDER * (ORDER + 1) / 2 * power(right, ORDER - 1)
        lower = lower + next
        value = value + next * right
    factorial = 1
    for n in tl.static_range(2, ORDER):
        factorial = factorial * n
    slope = lower * (1.0 / factorial)
    return value * (1.0 / (factorial * ORDER)), tl.where(t < 0, slope, -slope)


@triton.jit
def uniform_spline(x, k, knots, count, ORDER: tl.constexpr, EXTRAPOLATION: tl.constexpr):
    """Function k of equal cells; `count` knots."""
    first = tl.load(knots)
    cells = count - 1
    scale = cells / (tl.load(knots + cells) - first)
    outer = ORDER
    if EXTRAPOLATION == "zero":
        outer = 0
    place = (x - first) * scale
    inside = tl.where(place < outer, outer * 1.0, place)
    inside = tl.where(place > cells - outer, (cells - outer) * 1.0, inside)
    value, slope = bump(inside - k - (ORDER + 1) / 2, ORDER)
    away = (x < tl.load(knots + outer)) | (x > tl.load(knots + cells - outer))
    if ORDER == 1:  # the cell of x decides, the right one at knots
        cell = tl.minimum(tl.floor(inside), cells - outer - 1.0)
        slope = tl.where(cell == k, 1.0, tl.where(cell == k + 1, -1.0, 0.0))
    if EXTRAPOLATION == "linear":
        value += (place - inside) * slope
    else:
        slope = tl.where(away, 0.0, slope)
    return value, slope * scale


@triton.jit
def inverse(width):
    """1 / width, 0 for knots that coincide."""
    return tl.where(width > 0, 1.0 / tl.where(width > 0, width, 1.0), 0.0)


@triton.jit
def splines_on(x, knots, k, top, ORDER: tl.constexpr, COUNT: tl.constexpr):
    """COUNT B-splines from k on by Cox and de Boor, the last cell closed, as a tuple.

    `knots` point at those of every channel.
    """
    values = ()
    if ORDER == 0:
        for n in tl.static_range(COUNT):
            start = tl.load(knots + k + n)
            after = tl.load(knots + k + n + 1)
            last = (start < top) & (after >= top)
            inside = tl.where(x == top, last, (start <= x) & (x < after))
            values = values + (inside.to(tl.float32),)  # noqa: RUF005
    else:
        lower = splines_on(x, knots, k, top, ORDER - 1, COUNT + 1)
        for n in tl.static_range(COUNT):
            start = tl.load(knots + k + n)
            after = tl.load(knots + k + n + 1)
            end = tl.load(knots + k + n + ORDER + 1)
            rising = (x - start) * inverse(tl.load(knots + k + n + ORDER) - start)
            falling = (end - x) * inverse(end - after)
            values = values + (rising * lower[n] + falling * lower[n + 1],)  # noqa: RUF005
    return values


@triton.jit
def adaptive_spline(x, k, knots, count, ORDER: tl.constexpr, EXTRAPOLATION: tl.constexpr):
    """Function k of cells of any widths."""
    outer = ORDER
    if EXTRAPOLATION == "zero":
        outer = 0
    bottom = tl.load(knots + outer)
    top = tl.load(knots + count - 1 - outer)
    inside = tl.where(x < bottom, bottom, tl.where(x > top, top, x))
    if EXTRAPOLATION == "zero":
        inside = x
    start = tl.load(knots + k)
    after = tl.load(knots + k + 1)
    end = tl.load(knots + k + ORDER + 1)
    low = tl.load(knots + k + ORDER) - start
    high = end - after
    lower = splines_on(inside, knots, k, top, ORDER - 1, 2)
    first = inverse(low) * lower[0]
    second = inverse(high) * lower[1]
    value = (inside - start) * first + (end - inside) * second
    slope = ORDER * (first - second)
    if EXTRAPOLATION == "linear":
        value += (x - inside) * slope
    if EXTRAPOLATION == "clamp":
        slope = tl.where(x == inside, slope, 0.0)
    return tl.where(x != x, x, value), slope
