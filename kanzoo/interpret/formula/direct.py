"""The direct way from data to formulas: sums of terms, products and quotients, by linear algebra.

Axes: N samples, C columns.
"""

import logging
from collections.abc import Iterable, Iterator

import numpy as np
import sympy

from kanzoo.interpret.formula.clock import Clock
from kanzoo.interpret.formula.front import NOISY, Front, complexity
from kanzoo.interpret.formula.problem import Problem, exact_fits, fitted, views
from kanzoo.interpret.formula.products import products
from kanzoo.interpret.formula.rational import noisy_quotients, quotients
from kanzoo.interpret.formula.sparse import Sum, sums, thinned
from kanzoo.interpret.formula.terms import (
    Library,
    function_terms,
    laurent_terms,
    library,
    polynomial_terms,
    simple_terms,
)

log = logging.getLogger("kanzoo")

MAX_NUMBERS = 4_000_000  # of a library of terms
ROWS = 400  # samples that terms are chosen on
DEGREES = {1: 9, 2: 6, 3: 5, 4: 4, 5: 3, 6: 3}
QUOTIENTS = ("y", "y^2", "exp y")  # functions of y that are looked for as quotients
SKIPPED = ("tan y", "sin y", "cos y")  # functions of y that symmetries look at
KEPT = 2  # sums of a library that are looked at
SIZE = 6  # terms of a sum
NEAR = 1.05  # factor of the least error up to which a formula of noisy data is made shorter
LONG = 100  # complexity from which it is not
HEAVY = 5.0  # largest weight, relative to the median
VAGUE = 0.2  # error of a smooth fit, in deviations, from which it says nothing
RAISED = 1e-3  # how far the least value below a root is raised above zero, of its size
WORSE = 3.0  # factor of the error from the best, above which a sum is not looked at


def search(problem: Problem, front: Front, clock: Clock, smooth_error: float = 0.0) -> None:
    """Add the formulas of all direct ways to a front, until one is exact.

    Also until a simple one predicts noisy data as well as a smooth fit with `smooth_error`, unless
    that says nothing.
    """
    if problem.y.max() < 0:
        outer = problem.invert
        problem = Problem(problem.x, -problem.y, problem.columns, lambda e: outer(-e))
    for expression in _expressions(problem, front, clock, smooth_error > NOISY):
        clock.check()
        error = front.add(expression)
        is_near = smooth_error > NOISY and error < NEAR * front.least
        if is_near and complexity(expression) < LONG:
            front.shorten(expression)
        if front.is_exact or (smooth_error < VAGUE and front.is_settled(smooth_error)):
            return


def _likely(candidates: Iterable[Sum], terms: Library) -> list[Sum]:
    """The sums whose error pays for their terms: those that are chosen from many cost more."""
    count = len(terms.values)
    cost = 0.5 * np.log(count) + np.log(len(terms.terms) + 1)

    def length(entry: Sum) -> float:
        return float(count * np.log(max(entry.error, 1e-15)) + cost * len(entry.support))

    return sorted(candidates, key=length)[:KEPT]


def _expressions(
    problem: Problem, front: Front, clock: Clock, is_noisy: bool
) -> Iterator[sympy.Expr]:
    x, count = problem.x, problem.x.shape[1]
    if problem.is_constant or not count:
        yield problem.invert(sympy.Float(float(problem.y.mean()), 17))
        return
    clock.show(f"products of {count} columns")
    for expression in products(problem, is_noisy=is_noisy):
        yield problem.invert(expression)
    choices = [(v.name, t) for v, t in views(problem, is_noisy=is_noisy) if v.name not in SKIPPED]
    weights = _weights(problem, is_noisy)
    rows = np.random.default_rng(0).permutation(len(x))[:ROWS]
    dense = library(x, polynomial_terms(count, DEGREES.get(count, 2)))
    for name, transformed in choices:
        clock.show(f"polynomials for {name}")
        full = thinned(dense, transformed.y, weights=weights.get(name))
        if full is not None and full.error < WORSE * front.least:
            yield transformed.invert(_expression(dense, full, problem, is_root=name == "y^2"))
    if count == 1 and not is_noisy:
        clock.show("one function")
        for fit in exact_fits(problem):
            yield fitted(problem, fit)
    clock.show("quotients of polynomials")
    for name, transformed in choices:
        if name in QUOTIENTS:
            for quotient in quotients(transformed):
                yield transformed.invert(quotient)
    if is_noisy:
        for quotient in noisy_quotients(problem):
            yield problem.invert(quotient)
    for title, build in (
        ("polynomials", lambda: dense.terms),
        ("simple functions", lambda: simple_terms(x)),
        ("powers", lambda: laurent_terms(x)),
        ("functions", lambda: [*function_terms(x), *laurent_terms(x, 400)]),
    ):
        terms = library(x[rows], build())
        rows_of = rows[: max(100, MAX_NUMBERS // max(len(terms.terms), 1))]
        terms = Library(terms.terms, terms.values[: len(rows_of)])
        for name, transformed in choices:
            clock.show(f"sums of {title} for {name}")
            clock.check()
            given = weights[name][rows_of] if name in weights else None
            found = sums(terms, transformed.y[rows_of], SIZE, weights=given)
            for candidate in _likely(found, terms):
                if candidate.error < WORSE * front.least:
                    is_root = name == "y^2"
                    yield transformed.invert(
                        _expression(terms, candidate, problem, is_root=is_root)
                    )


def _weights(problem: Problem, is_noisy: bool) -> dict[str, np.ndarray]:
    """How an error of y weighs on its functions, `(N,)` each, where there is noise."""
    result = {}
    for view, _ in views(problem, is_noisy=True) if is_noisy else ():
        weights = 1 / np.maximum(np.abs(view.slope(problem.y)), 1e-300)
        if view.name != "y":
            result[view.name] = np.minimum(weights / np.median(weights), HEAVY)
    return result


def _expression(terms: Library, candidate: Sum, problem: Problem, *, is_root: bool) -> sympy.Expr:
    """The expression of a sum; that of a root is raised where noise has brought it below zero."""
    chosen = [terms.terms[k].symbol(problem.columns) for k in candidate.support]
    coefficients = np.array(candidate.coefficients)
    if is_root:
        least = float((terms.values[:, list(candidate.support)] @ coefficients[:-1]).min())
        coefficients[-1] = max(coefficients[-1], RAISED * abs(least) - least)
    numbers = [sympy.Float(c, 17) for c in coefficients]
    return sympy.Add(*(c * t for c, t in zip(numbers, [*chosen, sympy.Integer(1)], strict=True)))
