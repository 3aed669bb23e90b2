"""Sums and products of functions of fewer columns: whether data are such, and the functions.

Axes: N samples, C columns.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
import sympy

from kanzoo.interpret.formula.clock import Clock
from kanzoo.interpret.formula.front import Front
from kanzoo.interpret.formula.problem import Problem
from kanzoo.interpret.formula.surrogate import Polynomial

PAIRS = 400  # pairs of samples that mixed differences are taken between
KEPT = 2  # functions of a group of columns that are combined with those of the others


@dataclass(frozen=True)
class Separation:
    """Groups of columns whose functions are added, or multiplied."""

    groups: tuple[tuple[int, ...], ...]
    is_product: bool

    def title(self, names: list[str]) -> str:
        """What the data show, in words."""
        parts = [f"f{k + 1}({', '.join(names[i] for i in g)})" for k, g in enumerate(self.groups)]
        return (" * " if self.is_product else " + ").join(parts)


def separations(problem: Problem, smooth: Polynomial, seed: int = 0) -> Iterator[Separation]:
    """How the function may be taken apart, by mixed differences of a smooth fit.

    For pairs of samples a and b, f(a) + f(b) = f(a_i, b) + f(b_i, a) if the columns i are apart
    from the others in a sum; the products are equal if they are so in a product.
    """
    x, count = problem.x, problem.x.shape[1]
    if count < 2:
        return
    random = np.random.default_rng(seed)
    inner = _inner(x)
    a, b = (x[random.choice(inner, PAIRS)] for _ in range(2))
    deviation = float(problem.y.std()) or 1.0
    limit = max(10 * smooth.error, 1e-6)

    def value(points: np.ndarray) -> np.ndarray:
        return smooth.gradient(points)[0] / deviation

    for is_product in (False, True):
        joined = np.zeros((count, count), bool)
        for i, j in combinations(range(count), 2):
            left, right, both = a.copy(), a.copy(), a.copy()
            left[:, i] = b[:, i]
            right[:, j] = b[:, j]
            both[:, [i, j]] = b[:, [i, j]]
            f, g, h, k = map(value, (a, both, left, right))
            off = f * g - h * k if is_product else f + g - h - k
            size = np.abs(f * g) + np.abs(h * k) if is_product else np.ones(1)
            joined[i, j] = joined[j, i] = np.sqrt(np.square(off).mean()) > limit * np.sqrt(
                np.square(size).mean()
            )
        groups = _components(joined)
        if len(groups) > 1:
            yield Separation(groups, is_product)


def solve_separated(
    problem: Problem,
    smooth: Polynomial,
    separation: Separation,
    search: Callable[[Problem, Front, Clock], None],
    clock: Clock,
) -> Iterator[sympy.Expr]:
    """Formulas of y as sums or products of those of the groups, which `search` looks for."""
    x = problem.x
    inner = x[_inner(x)]
    values = smooth.gradient(inner)[0]
    middle = np.median(x, axis=0)
    if separation.is_product:
        middle = inner[int(np.abs(values - np.median(values)).argmax())]
        if abs(smooth.gradient(middle[None])[0][0]) < 0.1 * np.abs(values).max():
            middle = inner[int(np.abs(values).argmax())]
    choices: list[list[sympy.Expr]] = []
    for group in separation.groups:
        points = np.repeat(middle[None], len(x), 0)
        points[:, list(group)] = x[:, list(group)]
        rows = _inner(x[:, list(group)])
        heights = smooth.gradient(points)[0][rows]
        symbols = tuple(sympy.Symbol(f"u{k}", real=True) for k in group)
        front = Front(x[rows][:, list(group)], heights, symbols, clock)
        search(Problem(x[rows][:, list(group)], heights, symbols, lambda e: e), front, clock)
        columns = {s: problem.columns[k] for s, k in zip(symbols, group, strict=True)}
        entries = [front.choose(), *sorted(front.pareto(), key=lambda e: e.error)]
        choices.append([e.expression.xreplace(columns) for e in entries[: KEPT + 1]])
    for parts in product(*choices):
        if separation.is_product:
            yield sympy.Float(1.0) * sympy.Mul(*parts)
        else:
            yield sympy.Float(1e-3) + sympy.Add(*parts)


def _inner(x: np.ndarray) -> np.ndarray:
    """Samples where the smooth fit is trusted: off the ends of columns that are more than flags."""
    middle, half = (x.max(0) + x.min(0)) / 2, np.ptp(x, 0) / 2
    inside = np.abs(x - middle) <= 0.97 * half
    rows = np.flatnonzero(inside[:, inside.mean(0) > 0.5].all(1))
    return rows if len(rows) else np.arange(len(x))


def _components(joined: np.ndarray) -> tuple[tuple[int, ...], ...]:
    left, groups = set(range(len(joined))), []
    while left:
        group, grown = {min(left)}, set[int]()
        while group != grown:
            grown = set(group)
            group |= {int(j) for i in grown for j in np.flatnonzero(joined[i])}
        groups.append(tuple(sorted(group)))
        left -= group
    return tuple(groups)
