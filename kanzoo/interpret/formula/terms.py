"""Terms that formulas are sums of: powers of columns, times functions of simple arguments.

Axes: N samples, C columns, F terms.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import combinations, product
from typing import Any

import numpy as np
import sympy

MAX_ARGUMENTS = 600
MAX_TERMS = 20_000  # of a library
MANY = 6  # columns, beyond which a monomial has only few of them
LARGEST = 1e6  # factor between the values of a term beyond which it is left out
Powers = tuple[Fraction, ...]
FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "sin": (np.sin, sympy.sin),
    "cos": (np.cos, sympy.cos),
    "exp": (np.exp, sympy.exp),
    "log": (np.log, sympy.log),
    "tan": (np.tan, sympy.tan),
    "cot": (lambda t: 1 / np.tan(t), lambda t: 1 / sympy.tan(t)),
    "tanh": (np.tanh, sympy.tanh),
    "cosh": (np.cosh, sympy.cosh),
    "sinh": (np.sinh, sympy.sinh),
    "sin^2": (lambda t: np.sin(t) ** 2, lambda t: sympy.sin(t) ** 2),
    "cos^2": (lambda t: np.cos(t) ** 2, lambda t: sympy.cos(t) ** 2),
    "exp-": (lambda t: np.exp(-t), lambda t: sympy.exp(-t)),
    "1+": (lambda t: 1 + t, lambda t: 1 + t),
    "1-": (lambda t: 1 - t, lambda t: 1 - t),
    "1+2": (lambda t: 1 + t * t, lambda t: 1 + t**2),
    "1-2": (lambda t: 1 - t * t, lambda t: 1 - t**2),
    "abs": (np.abs, sympy.Abs),
    "exp-1": (np.expm1, lambda t: sympy.exp(t) - 1),
}
PLAIN = ("sin", "cos", "exp", "exp-", "log", "tan", "cot", "tanh", "sin^2", "cos^2", "abs")
FEW = ("sin", "cos", "exp", "exp-", "log", "sin^2", "cos^2")  # of more than three columns
DRESSES = ("sin", "cos", "tan", "tanh", "cosh", "sinh", "log", "1+", "1-", "1+2", "1-2", "exp-1")


@dataclass(frozen=True)
class Argument:
    """What a function is taken of: a monomial with these powers, or a sum with these weights."""

    weights: Powers
    is_sum: bool = False
    factor: float = 1.0

    def values(self, x: np.ndarray) -> np.ndarray:
        """Values `(N,)` at x `(N, C)`."""
        if self.is_sum:
            return self.factor * (x @ np.array(self.weights, np.float64))
        return self.factor * monomial(x, self.weights)

    def symbol(self, columns: Sequence[sympy.Expr]) -> sympy.Expr:
        """The expression of it."""
        number = _number(self.factor)
        if self.is_sum:
            pairs = zip(self.weights, columns, strict=True)
            return number * sympy.Add(*(_rational(w) * c for w, c in pairs if w))
        return number * monomial_symbol(columns, self.weights)


@dataclass(frozen=True)
class Term:
    """Powers of the columns times functions of arguments."""

    powers: Powers
    factors: tuple[tuple[str, Argument], ...] = ()

    def values(self, x: np.ndarray) -> np.ndarray:
        """Values `(N,)` at x `(N, C)`."""
        result = monomial(x, self.powers)
        for name, argument in self.factors:
            result = result * FUNCTIONS[name][0](argument.values(x))
        return result

    def symbol(self, columns: Sequence[sympy.Expr]) -> sympy.Expr:
        """The expression of it."""
        result = monomial_symbol(columns, self.powers)
        for name, argument in self.factors:
            result = result * FUNCTIONS[name][1](argument.symbol(columns))
        return result


@dataclass(frozen=True)
class Library:
    """Terms and their values `(N, F)`."""

    terms: tuple[Term, ...]
    values: np.ndarray

    @cached_property
    def scaled(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Centred values of unit length, means and lengths."""
        mean = self.values.mean(0)
        centred = self.values - mean
        length = np.linalg.norm(centred, axis=0)
        return centred / np.where(length > 0, length, 1.0), mean, length


def library(x: np.ndarray, terms: Sequence[Term]) -> Library:
    """The terms that are finite, not constant and not wild at x `(N, C)`, each once."""
    nothing = Library((), np.zeros((len(x), 0)))
    if not terms:
        return nothing
    with np.errstate(all="ignore"):
        values = np.stack([term.values(x) for term in terms], 1)
        size = np.abs(values)
        good = np.isfinite(values).all(0)
        top, middle = size.max(0), np.median(size, axis=0)
        for k in np.flatnonzero((middle == 0) & good & (top > 0)):  # flags, and products with them
            middle[k] = np.median(size[size[:, k] > 0, k])
        good &= (top < LARGEST * np.maximum(middle, 1e-300)) & (top > 0)
        good &= values.std(0) > 1e-9 * top
    kept = np.flatnonzero(good)
    if not len(kept):
        return nothing
    probe = values[: min(len(values), 7), kept]
    with np.errstate(all="ignore"):
        probe = np.round(probe / np.abs(probe[:1]), 9)
    _, first = np.unique(probe, axis=1, return_index=True)
    kept = kept[np.sort(first)]
    return Library(tuple(terms[int(k)] for k in kept), values[:, kept])


def monomial(x: np.ndarray, powers: Powers) -> np.ndarray:
    """The product of powers of the columns of x, `(N,)`."""
    result = np.ones(len(x))
    for k, power in enumerate(powers):
        if power:
            column = x[:, k]
            result = result * (column if power == 1 else column ** float(power))
    return result


def monomial_symbol(columns: Sequence[sympy.Expr], powers: Powers) -> sympy.Expr:
    """The product of powers of columns as an expression."""
    pairs = zip(columns, powers, strict=True)
    return sympy.Mul(*(c ** _rational(p) for c, p in pairs if p))


def polynomial_terms(num_columns: int, degree: int) -> list[Term]:
    """All monomials up to a degree but the constant, the lowest first."""
    powers = sorted(_exponents(num_columns, degree), key=lambda p: (sum(p), p))
    return [Term(tuple(Fraction(p) for p in power)) for power in powers if any(power)]


def _exponents(num_columns: int, degree: int) -> Iterator[tuple[int, ...]]:
    if num_columns == 0:
        yield ()
        return
    for first in range(degree + 1):
        for rest in _exponents(num_columns - 1, degree - first):
            yield (first, *rest)


def laurent_terms(x: np.ndarray, limit: int = 4000) -> list[Term]:
    """Monomials whose powers may be negative where a column keeps off zero; at most `limit`.

    Columns of two values have no powers. Of many columns a monomial has few, to higher powers.
    """
    for largest, negative in ((4, 3), (3, 2), (2, 2), (2, 1), (1, 1)):
        ranges = [_range(column, largest, negative) for column in x.T]
        if np.prod([len(r) for r in ranges]) <= limit:
            break
    found = set(product(*ranges)) if x.shape[1] <= MANY else _sparse_powers(x)
    powers = sorted(found, key=lambda p: (sum(map(abs, p)), p))
    return [Term(tuple(Fraction(p) for p in power)) for power in powers if any(power)][:limit]


def _range(column: np.ndarray, largest: int, negative: int) -> range:
    if _is_flag(column):
        return range(2)
    return range(-negative if _keeps_sign(column) else 0, largest + 1)


def _sparse_powers(x: np.ndarray) -> set[tuple[int, ...]]:
    """Powers of up to three columns that add up to four at most."""
    ranges = [_range(column, 3, 2) for column in x.T]
    found = {(0,) * len(ranges)}
    for _ in range(3):
        found |= {
            (*powers[:k], power, *powers[k + 1 :])
            for powers in found
            for k in range(len(ranges))
            for power in ranges[k]
            if not powers[k] and sum(map(abs, powers)) + abs(power) <= 4
        }
    return found


def arguments(x: np.ndarray, with_sums: bool = True) -> list[Argument]:
    """Simple arguments of functions: products, quotients, sums and differences of columns."""
    count = x.shape[1]
    largest = 2 if count <= 2 else 1
    ranges = [range(-largest if _keeps_sign(c) else 0, largest + 1) for c in x.T]
    powers = sorted(product(*ranges), key=lambda p: (sum(map(abs, p)), p))
    powers = [p for p in powers if sum(map(abs, p)) <= 5][:MAX_ARGUMENTS]
    result = [Argument(tuple(Fraction(v) for v in p)) for p in powers if any(p)]
    unit = [Fraction(0)] * count
    for i, j in combinations(range(count), 2) if with_sums else ():
        for sign in (1, -1):
            weights = unit.copy()
            weights[i], weights[j] = Fraction(1), Fraction(sign)
            result.append(Argument(tuple(weights), is_sum=True))
    return result


def simple_terms(x: np.ndarray) -> list[Term]:
    """Functions of a column, alone and times a column, and monomials: few, for many columns."""
    count = x.shape[1]
    inner = [Argument(_power(count, k, 1)) for k in range(count)]
    factors = [f for f in ((name, a) for a in inner for name in FEW) if _is_fine(f, x)]
    outer = [(Fraction(0),) * count, *(argument.weights for argument in inner)]
    return [Term(p, (f,)) for p in outer for f in factors] + laurent_terms(x, 400)


def function_terms(x: np.ndarray) -> list[Term]:
    """Functions of simple arguments, alone, times powers of columns, and in pairs."""
    count = x.shape[1]
    zero = (Fraction(0),) * count
    inner = arguments(x)
    if count == 1:
        one = _power(count, 0, 1)
        inner += [Argument(one, factor=f) for f in (0.5, 2.0, 3.0, np.pi, 2 * np.pi)]
    if count > 4:
        inner = [argument for argument in inner if sum(map(bool, argument.weights)) == 1]
    factors = [(name, argument) for argument in inner for name in (PLAIN if count < 4 else FEW)]
    factors = [f for f in factors if _is_fine(f, x)]
    outer = [zero, *(t.powers for t in laurent_terms(x, 9 if count == 1 else 800))]
    alone = [f for f in factors if sum(map(bool, f[1].weights)) == 1 and f[1].factor == 1]
    alone = [f for f in alone if sum(f[1].weights) in (1, 2)]
    pairs = [Term(zero, pair) for pair in combinations(alone, 2)][:1500]
    # The simplest first: what is beyond the limit is left out.
    costs = [(_size(p) + _size(f[1].weights), p, f) for p in outer for f in factors]
    costs = sorted(costs, key=lambda entry: entry[0])
    terms = [Term(p, (f,)) for _, p, f in costs]
    if count == 1:
        return [*terms, *(Term(p, pair.factors) for p in outer for pair in pairs)][:MAX_TERMS]
    return [*pairs, *terms][:MAX_TERMS]


def _size(powers: Powers) -> float:
    return float(sum(abs(p) for p in powers))


def _is_fine(factor: tuple[str, Argument], x: np.ndarray) -> bool:
    with np.errstate(all="ignore"):
        t = factor[1].values(x)
        values = FUNCTIONS[factor[0]][0](t)
    used = [k for k, weight in enumerate(factor[1].weights) if weight]
    if len(used) == 1 and _is_flag(x[:, used[0]]):
        return False
    if not np.isfinite(values).all() or np.abs(t).max() > 60 or np.ptp(values) == 0:
        return False
    if factor[0] == "abs" and not t.min() < 0 < t.max():
        return False
    return bool(np.abs(values).max() < LARGEST * max(float(np.median(np.abs(values))), 1e-300))


def _keeps_sign(column: np.ndarray) -> bool:
    size = np.abs(column)
    same = column.min() > 0 or column.max() < 0
    return bool(same and size.min() > 1e-3 * size.max())


def _is_flag(column: np.ndarray) -> bool:
    return bool(np.isin(column, (column.min(), column.max())).all())


def _power(count: int, k: int, power: int) -> Powers:
    return tuple(Fraction(power if i == k else 0) for i in range(count))


def _rational(value: Fraction) -> sympy.Rational:
    return sympy.Rational(value.numerator, value.denominator)


def _number(value: float) -> sympy.Expr:
    return sympy.Integer(int(value)) if value == int(value) else sympy.Float(value, 17)
