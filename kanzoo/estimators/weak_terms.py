"""Terms of right-hand sides beyond polynomials: trigonometric ones, and such that saturate.

Axes: N samples, S states, F terms.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import combinations, product

import numpy as np
import sympy

from kanzoo.interpret.formula.terms import (
    Argument,
    Powers,
    Term,
    monomial,
    monomial_symbol,
    polynomial_terms,
)

ALONE, PAIRED = ("sin", "cos"), ("sin", "cos", "sin^2", "cos^2", "tan", "cot")
MAX_STATES = 3  # of which products of functions are terms


@dataclass(frozen=True)
class Saturation:
    """A monomial over 1 + constant times another."""

    powers: Powers
    below: Powers
    constant: float

    def values(self, x: np.ndarray) -> np.ndarray:
        """Values `(N,)` at x `(N, S)`."""
        return monomial(x, self.powers) / (1 + self.constant * monomial(x, self.below))

    def symbol(self, columns: Sequence[sympy.Expr]) -> sympy.Expr:
        """The expression of it."""
        divisor = 1 + sympy.Float(self.constant, 17) * monomial_symbol(columns, self.below)
        return monomial_symbol(columns, self.powers) / divisor

    def at(self, constant: float) -> "Saturation":
        """The same with another constant."""
        return replace(self, constant=constant)


def _unit(count: int, *states: int) -> Powers:
    return tuple(Fraction(states.count(k)) for k in range(count))


def trigonometric_terms(x: np.ndarray) -> list[Term]:
    """Sines and cosines, times and over a state, and in pairs, that are finite at x `(N, S)`."""
    with np.errstate(all="ignore"):
        return [term for term in _trigonometric(x) if np.isfinite(term.values(x)).all()]


def _trigonometric(x: np.ndarray) -> Iterator[Term]:
    count = x.shape[1]
    zero = _unit(count)
    inner = [Argument(_unit(count, k)) for k in range(count)]
    for i, j in combinations(range(count), 2):
        for sign in (1, -1):
            weights = list(_unit(count, i))
            weights[j] = Fraction(sign)
            inner.append(Argument(tuple(weights), is_sum=True))
    far = np.abs(x).min(0) > 1e-3 * np.abs(x).max(0)  # from zero, so that quotients are tame
    outer = [zero, *(_unit(count, k) for k in range(count))]
    outer += [tuple(-p for p in _unit(count, k)) for k in range(count) if far[k]]
    for powers, argument, name in product(outer, inner, ALONE):
        yield Term(powers, ((name, argument),))
    if count <= MAX_STATES:
        for i, j in combinations(range(count), 2):
            for first, second in product(PAIRED, PAIRED):
                yield Term(zero, ((first, inner[i]), (second, inner[j])))


def saturations(x: np.ndarray) -> list[Saturation]:
    """Monomials over 1 + c y or 1 + c y^2 for states y that are positive, c from their median."""
    count = x.shape[1]
    found = []
    for state, power in product(range(count), (1, 2)):
        below = _unit(count, *[state] * power)
        if (x[:, state] > 0).all():
            constant = 1 / float(np.median(monomial(x, below)))
            for term in polynomial_terms(count, 2):
                found.append(Saturation(term.powers, below, constant))
    return found
