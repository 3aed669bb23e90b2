"""Symmetries that data show: what a formula multiplies, adds or keeps together.

A smooth fit of the data has derivatives. Wherever they obey sum_i (v_i x_i + w_i) dy/dx_i = a y + b
with constants v, w, a, b, moving along v x + w changes y in a known way, and the function is one of
fewer variables: y = x_i^p F(the others), y = F(x_i / x_j, the others), y = F(x_i - x_j), and so on.
For scales alone this is dimensional analysis (Buckingham), found from numbers instead of units.
Symmetries of a simple function of y, as its square or its sine, are found as well.

Axes: N samples, C columns.
"""

import logging
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import combinations
from typing import Any, Protocol

import numpy as np
import sympy

from kanzoo.interpret.formula.problem import Problem, views

log = logging.getLogger("kanzoo")

INNER = 0.9  # share of every column's range whose derivatives are trusted
EXPONENT = 0.03  # how far an exponent may be from a simple fraction
LARGEST = 6  # exponent
SNAP = 0.005  # relative distance to a half number below which a constant is taken for it
TRIES = 4  # symmetries that are tried before others of the same function are given up


# The columns of a relation, its name, and the smaller problem for its constants.
_Row = tuple[tuple[np.ndarray, ...], str, Callable[[Any], "Problem | None"]]


class Smooth(Protocol):
    """A smooth fit of data: its error, relative to the data's deviation, and its derivatives."""

    @property
    def error(self) -> float:
        """Root mean square, in deviations of the data."""

    def gradient(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values `(N,)` and derivatives `(N, C)` at x `(N, C)`."""


def simplify(
    problem: Problem, fit: Callable[[np.ndarray, np.ndarray], Smooth], smooth: Smooth
) -> Problem:
    """The problem with as few columns as its symmetries leave; itself where there are none."""
    for _, smaller in simpler(problem, fit, smooth):
        problem = smaller
    return problem


def simpler(
    problem: Problem, fit: Callable[[np.ndarray, np.ndarray], Smooth], smooth: Smooth
) -> Iterator[tuple[str, Problem]]:
    """One symmetry after another: what it is, and the problem of fewer columns that it leaves.

    `fit` makes a smooth fit; `smooth` is that of the problem. A symmetry counts when the function
    of fewer columns can be fitted as well as the one before.
    """
    while problem.x.shape[1] and not problem.is_constant:
        for title, smaller in _tries(problem, smooth):
            if smaller.is_constant or not smaller.x.shape[1]:
                if smaller.y.std() > 1e-2 * abs(smaller.y.mean()):
                    continue
                yield title, smaller
                return
            candidates = fit(smaller.x, smaller.y)
            if candidates.error <= max(4 * smooth.error, 1e-3):
                log.debug("%s leaves %d columns", title, smaller.x.shape[1])
                problem, smooth = smaller, candidates
                yield title, problem
                break
        else:
            break


def _tries(problem: Problem, smooth: Smooth) -> Iterator[tuple[str, Problem]]:
    values, slopes = smooth.gradient(problem.x)
    middle = (problem.x.max(0) + problem.x.min(0)) / 2
    inner = (np.abs(problem.x - middle) <= INNER * np.ptp(problem.x, 0) / 2).all(1)
    limit = float(np.clip(20 * smooth.error, 2e-3, 2e-2))
    for view, transformed in views(problem):
        near = values.clip(problem.y.min(), problem.y.max())
        with np.errstate(all="ignore"):
            z, derivatives = view.call(near), slopes * view.slope(near)[:, None]
        good = inner & np.isfinite(z) & np.isfinite(derivatives).all(1)
        if good.sum() < 20:
            continue
        tried = 0
        for title, smaller in _reductions(
            transformed, z[good], derivatives[good], problem.x[good], limit
        ):
            if not np.isfinite(smaller.y).all() or not np.isfinite(smaller.x).all():
                continue
            yield f"{view.name}: {title}", smaller
            tried += 1
            if tried == TRIES:
                break


def _reductions(
    problem: Problem, z: np.ndarray, slopes: np.ndarray, x: np.ndarray, limit: float
) -> Iterator[tuple[str, Problem]]:
    """Smaller problems, the simplest symmetries first, and of these the surest."""
    scaled, one = x * slopes, np.ones_like(z)
    deviation = max(float(z.std()), 1e-300)
    alive = [
        float((slopes[:, i] * np.ptp(x[:, i])).std() + abs(slopes[:, i].mean())) > 1e-6 * deviation
        for i in range(x.shape[1])
    ]
    names = [str(c) for c in problem.columns]

    def of_one(i: int) -> tuple[_Row, _Row]:
        return (
            ((scaled[:, i], z), "power of", lambda c: _power(problem, i, c[0], 0, -c[1], 0)),
            ((slopes[:, i], one), "multiple of", lambda c: _linear(problem, i, -c[1] / c[0])),
        )

    def of_two(i: int, j: int) -> tuple[_Row, _Row]:
        u, v = scaled[:, i], scaled[:, j]
        return (
            ((u, v), "ratio of", lambda c: _scale(problem, (i, j), c, 0.0)),
            (
                (slopes[:, i], slopes[:, j]),
                "sum of",
                lambda c: _shift(problem, i, j, c[0] / c[1]),
            ),
        )

    def of_one_further(i: int) -> tuple[_Row, ...]:
        u, slope = scaled[:, i], slopes[:, i]
        return (
            ((slope, z), "exp of", lambda c: _exponential(problem, i, -c[1] / c[0])),
            ((u, one), "log of", lambda c: _logarithm(problem, i, -c[1] / c[0])),
            (
                (u, z, one),
                "power and constant of",
                lambda c: _power(problem, i, c[0], 0, -c[1], -c[2]),
            ),
            ((u, slope, z), "shifted power of", lambda c: _power(problem, i, c[0], c[1], -c[2], 0)),
        )

    def of_scales(*group: int) -> _Row:
        columns = (*(scaled[:, k] for k in group), z)
        return columns, "scale of", lambda c: _scale(problem, group, c[:-1], -c[-1])

    def of_ratios(*group: int) -> _Row:
        columns = tuple(scaled[:, k] for k in group)
        return columns, "ratios of", lambda c: _scale(problem, group, c, 0.0)

    stages: tuple[tuple[int, Callable[..., tuple[_Row, ...]]], ...] = (
        (1, of_one), (2, of_two), (1, of_one_further), (2, lambda *g: (of_scales(*g),)),
        (3, lambda *g: (of_scales(*g), of_ratios(*g))),
    )  # fmt: skip
    for size, rows_of in stages:
        candidates = []
        for group in combinations(range(x.shape[1]), size):
            if size == 1 and not alive[group[0]]:
                continue
            for columns, title, build in rows_of(*group):
                relation = null_vector(list(columns))
                if relation is not None and relation[0] < limit:
                    of = " and ".join(names[k] for k in group)
                    candidates.append((relation[0], f"{title} {of}", build, relation[1]))
        for _, title, build, constants in sorted(candidates, key=lambda entry: entry[0]):
            smaller = build(constants)
            if smaller is not None:
                yield title, smaller


def null_vector(columns: list[np.ndarray]) -> tuple[float, np.ndarray] | None:
    """The linear relation of columns `(N,)` and how much it is violated; None unless unique.

    Every column must take part in it, or it is one of fewer columns.
    """
    norms = np.array([max(float(np.linalg.norm(c)), 1e-300) for c in columns])
    matrix = np.stack(columns, 1) / norms
    _, sizes, vectors = np.linalg.svd(matrix, full_matrices=False)
    least = vectors[-1]
    if sizes[-2] < 5 * sizes[-1] or sizes[-2] < 0.02 or np.abs(least).min() < 0.02:
        return None
    return float(sizes[-1]), least / norms


def _power(problem: Problem, i: int, v: float, w: float, a: float, b: float) -> Problem | None:
    """y = C + (x_i + shift)^p F(the others), from (v x + w) y' = a y + b."""
    x = problem.x[:, i]
    exponent, shift = _simple(a / v), _snapped(w / v, np.ptp(x))
    if not exponent:
        return None
    constant = _snapped(-b / a, problem.y.std())
    base, symbol = x + float(shift), problem.columns[i] + shift
    if base.max() < 0:
        base, symbol = -base, -symbol
    if base.min() <= 0 and exponent.denominator > 1:
        return None
    power = symbol ** sympy.Rational(exponent.numerator, exponent.denominator)
    with np.errstate(all="ignore"):
        y = (problem.y - float(constant)) / base ** float(exponent)
    return problem.reduced(y, lambda e: constant + power * e, i)


def _linear(problem: Problem, i: int, slope: float) -> Problem:
    """y = slope x_i + F(the others)."""
    number = _snapped(slope, 0)
    symbol = problem.columns[i]
    y = problem.y - float(number) * problem.x[:, i]
    return problem.reduced(y, lambda e: number * symbol + e, i)


def _logarithm(problem: Problem, i: int, slope: float) -> Problem | None:
    """y = slope log(x_i) + F(the others)."""
    if problem.x[:, i].min() <= 0:
        return None
    number, symbol = _snapped(slope, 0), problem.columns[i]
    y = problem.y - float(number) * np.log(problem.x[:, i])
    return problem.reduced(y, lambda e: number * sympy.log(symbol) + e, i)


def _exponential(problem: Problem, i: int, rate: float) -> Problem:
    """y = exp(rate x_i) F(the others)."""
    number, symbol = _snapped(rate, 0), problem.columns[i]
    y = problem.y * np.exp(-float(number) * problem.x[:, i])
    return problem.reduced(y, lambda e: sympy.exp(number * symbol) * e, i)


def _shift(problem: Problem, i: int, j: int, ratio: float) -> Problem:
    """y = F(x_i - ratio x_j, the others)."""
    number = _snapped(ratio, 0)
    values = problem.x[:, i] - float(number) * problem.x[:, j]
    expression = problem.columns[i] - number * problem.columns[j]
    return problem.reduced(problem.y, lambda e: e, j, x_at={i: (values, expression)})


def _scale(
    problem: Problem, group: tuple[int, ...], weights: np.ndarray, a: float
) -> Problem | None:
    """y = x_k^(a / v_k) F(x_i x_k^(-v_i / v_k), ..), k being that of a group furthest from zero."""
    x, columns = problem.x, problem.columns
    order = np.argsort([_distance(x[:, k]) for k in group], kind="stable")
    *others, last = (group[index] for index in order)
    weights = weights[order]
    power = _simple(a / weights[-1])
    if power is None:
        return None
    x_at = {}
    for i, weight in zip(others, weights[:-1], strict=True):
        ratio = _simple(weight / weights[-1])
        if not ratio:
            return None
        top, below = ratio.denominator, -ratio.numerator
        with np.errstate(all="ignore"):
            values = x[:, i] ** float(top) * x[:, last] ** float(below)
        x_at[i] = (values, columns[i] ** top * columns[last] ** below)
    if power.denominator > 1 and x[:, last].min() <= 0:
        return None
    factor = columns[last] ** sympy.Rational(power.numerator, power.denominator)
    with np.errstate(all="ignore"):
        y = problem.y / x[:, last] ** float(power)
    return problem.reduced(y, lambda e: factor * e, last, x_at=x_at)


def _distance(x: np.ndarray) -> float:
    """How far a column stays from zero, relative to its size; 0 if it changes its sign."""
    same = x.min() > 0 or x.max() < 0
    return float(np.abs(x).min() / np.abs(x).max()) if same else 0.0


def _simple(value: float) -> Fraction | None:
    """The simple fraction next to an exponent; None where there is none."""
    if not abs(value) <= LARGEST + EXPONENT:
        return None
    for denominator in (1, 2, 3, 4):
        fraction = Fraction(round(value * denominator), denominator)
        if abs(float(fraction) - value) <= EXPONENT / denominator:
            return fraction
    return None


def _snapped(value: float, scale: float) -> sympy.Expr:
    """A constant, as zero or a half number where it is one within `SNAP` of its size."""
    if abs(value) <= SNAP * abs(scale):
        return sympy.Integer(0)
    near = round(2 * value)
    if near and abs(near / 2 - value) <= SNAP * abs(value):
        return sympy.Rational(near, 2)
    return sympy.Float(value, 17)
