"""A function to be found in data, and simple functions of it that may be easier to find.

Axes: N samples, C columns.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy

from kanzoo.fit.least_squares import rmse
from kanzoo.interpret.formula.library import EdgeFit, fit_edge

EXACT = 1e-6  # error, in deviations, of a function that fits
Invert = Callable[[sympy.Expr], sympy.Expr]


@dataclass(frozen=True)
class Problem:
    """y `(N,)` as an unknown function of x `(N, C)`, the columns being expressions.

    `invert` turns an expression for y into one for what was asked first.
    """

    x: np.ndarray
    y: np.ndarray
    columns: tuple[sympy.Expr, ...]
    invert: Invert

    @property
    def is_constant(self) -> bool:
        return bool(self.y.std() <= 1e-9 * abs(self.y.mean()))

    def transformed(self, view: "View", slack: float = 0.0) -> "Problem | None":
        """The same for a function of y; None where y is outside of its domain by more."""
        if not view.low - slack <= self.y.min() <= self.y.max() <= view.high:
            return None
        with np.errstate(all="ignore"):
            y = view.call(self.y)
        outer = self.invert
        invert: Invert = lambda e: outer(view.invert(e))  # noqa: E731
        return Problem(self.x, y, self.columns, invert) if np.isfinite(y).all() else None

    def reduced(self, y: np.ndarray, invert: Invert, drop: int, **new: Any) -> "Problem":
        """Another y, a column less, and others replaced: `x_at={index: (values, expression)}`."""
        x, columns = self.x.copy(), list(self.columns)
        for index, (values, expression) in new.get("x_at", {}).items():
            x[:, index], columns[index] = values, expression
        keep = [k for k in range(len(columns)) if k != drop]
        outer = self.invert
        return Problem(x[:, keep], y, tuple(columns[k] for k in keep), lambda e: outer(invert(e)))


@dataclass(frozen=True)
class View:
    """A function z of y: values, derivative by y, and how to get back to y."""

    name: str
    call: Callable[[np.ndarray], np.ndarray]
    slope: Callable[[np.ndarray], np.ndarray]
    invert: Invert
    low: float = -np.inf
    high: float = np.inf


def _one(y: np.ndarray) -> np.ndarray:
    return np.ones_like(y)


HALF = np.pi / 2
BELOW = 0.5  # deviations of y that noise may bring below zero
VIEWS = (
    View("y", lambda y: y, _one, lambda e: e),
    View("y^2", lambda y: y * np.abs(y), lambda y: 2 * np.abs(y), sympy.sqrt, 0.0),
    View("1/y", lambda y: 1 / y, lambda y: -1 / y**2, lambda e: 1 / e, 1e-12),
    View("1/y^2", lambda y: y**-2.0, lambda y: -2 * y**-3.0, lambda e: 1 / sympy.sqrt(e), 1e-12),
    View("log y", np.log, lambda y: 1 / y, sympy.exp, 1e-12),
    View("exp y", np.exp, np.exp, sympy.log, -30.0, 30.0),
    View("sin y", np.sin, np.cos, sympy.asin, -HALF, HALF),
    View("cos y", np.cos, lambda y: -np.sin(y), sympy.acos, 0.0, np.pi),
    View("tan y", np.tan, lambda y: 1 / np.cos(y) ** 2, sympy.atan, -HALF + 1e-3, HALF - 1e-3),
    View("sqrt y", np.sqrt, lambda y: 0.5 / np.sqrt(y), lambda e: e**2, 1e-12),
)


def views(problem: Problem, *, is_noisy: bool = False) -> Iterator[tuple[View, Problem]]:
    """The problem itself and those of simple functions of y, where they are defined.

    Of y with noise, a root may be somewhat below zero: its square has its sign.
    """
    for view in VIEWS:
        has_slack = is_noisy and view.name == "y^2"
        transformed = problem.transformed(view, BELOW * problem.y.std() if has_slack else 0.0)
        if transformed is not None:
            yield view, transformed


def one_function(problem: Problem) -> sympy.Expr | None:
    """The problem of one column solved by one function of the library, if one fits exactly.

    Tried on y and simple functions of it, and on y times a power of the column, whose inverse may
    be the argument. Returns the expression of what was asked first.
    """
    best: tuple[int, Problem, EdgeFit] | None = None
    last = 0
    for extra, transformed in _forms(problem):
        if best is not None and extra > last:
            break  # one of the simpler forms will do
        last = extra
        for fit in exact_fits(transformed):
            cost = fit.function.complexity + extra
            if best is None or cost < best[0]:
                best = cost, transformed, fit
    return None if best is None else fitted(*best[1:])


def exact_fits(problem: Problem) -> list[EdgeFit]:
    """The functions of the library that a problem of one column is without error."""
    x, y = problem.x[:, 0], problem.y
    return [fit for fit in fit_edge(x, y) if rmse(fit(x), y) < EXACT * (float(y.std()) or 1.0)]


def fitted(problem: Problem, fit: EdgeFit) -> sympy.Expr:
    """The expression of a fit to a problem of one column, for what was asked first."""
    a, b, c, d = (sympy.Float(value, 17) for value in fit.affine)
    return problem.invert(c * fit.function.symbol(a * problem.columns[0] + b) + d)


def _forms(problem: Problem) -> Iterator[tuple[int, Problem]]:
    """Other forms of a problem of one column, and how much they cost, the cheapest first."""
    for view, transformed in views(problem):
        yield (0 if view.name == "y" else 2), transformed
    column, x = problem.columns[0], problem.x[:, 0]
    if x.min() <= 0:
        return
    inverted = Problem(1 / problem.x, problem.y, (1 / column,), problem.invert)
    for form in (problem, inverted):
        for power in (0, 1, -1, 2, -2, sympy.Rational(1, 2), -sympy.Rational(1, 2), 3, -3):
            factor = column**power
            y = form.y / x ** float(power)
            if power or form is inverted:
                yield 3, Problem(form.x, y, form.columns, _times(problem.invert, factor))


def _times(invert: Invert, factor: sympy.Expr) -> Invert:
    return lambda e: invert(factor * e)
