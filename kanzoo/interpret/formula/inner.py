"""A polynomial plus one function of a polynomial: the outer constants by least squares.

Axes: N samples, C columns, P coefficients.
"""

from collections.abc import Iterator

import numpy as np
import sympy
from scipy.optimize import least_squares

from kanzoo.interpret.formula.clock import Clock
from kanzoo.interpret.formula.problem import Problem
from kanzoo.interpret.formula.terms import library, monomial_symbol, polynomial_terms

STARTS = 40
SCALES = (0.5, 1.0, 2.0, 4.0, 8.0)  # sizes of the coefficients that are started from
DEGREE = 2
MAX_COLUMNS = 3
EXACT = 1e-9
OUTER = {
    "sin": (lambda t: [np.sin(t), np.cos(t)], lambda t: [sympy.sin(t), sympy.cos(t)]),
    "exp": (lambda t: [np.exp(np.clip(t, -30, 30))], lambda t: [sympy.exp(t)]),
    "gauss": (lambda t: [1 / (1 + t * t)], lambda t: [1 / (1 + t**2)]),
    "root": (lambda t: [np.sqrt(1 + t * t)], lambda t: [sympy.sqrt(1 + t**2)]),
    "tanh": (lambda t: [np.tanh(t)], lambda t: [sympy.tanh(t)]),
}  # fmt: skip


def inner_functions(
    problem: Problem, clock: Clock, rows: int = 200, seed: int = 0
) -> Iterator[sympy.Expr]:
    """P(x) + c f(Q(x)) for y, both of degree two at most, from random starts of Q."""
    count = problem.x.shape[1]
    if not 1 <= count <= MAX_COLUMNS:
        return
    random = np.random.default_rng(seed)
    chosen = np.linspace(0, len(problem.x) - 1, min(len(problem.x), rows)).astype(int)
    low, high = problem.x.min(0), problem.x.max(0)
    shift, half = (low + high) / 2, np.where(high > low, (high - low) / 2, 1.0)
    u = (problem.x[chosen] - shift) / half
    y = problem.y[chosen]
    terms = library(u, polynomial_terms(count, DEGREE))
    monomials = terms.values
    scale = float(y.std()) or 1.0
    columns = [(c - s) / h for c, s, h in zip(problem.columns, shift, half, strict=True)]
    symbols = [monomial_symbol(columns, term.powers) for term in terms.terms]
    outer = np.column_stack([np.ones(len(u)), monomials])
    linear = len(outer.T)
    for name, (call, symbol) in OUTER.items():
        bias = name not in ("sin", "exp")
        design = np.column_stack([monomials, np.ones(len(u))]) if bias else monomials
        best: tuple[float, np.ndarray, np.ndarray] | None = None
        for start in range(STARTS):
            clock.show(f"{name} of polynomials", start, STARTS)
            clock.check()

            def projected(q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
                with np.errstate(all="ignore"):
                    full = np.column_stack([outer, *call(design @ q)])  # noqa: B023
                full = np.nan_to_num(full, nan=0.0, posinf=0.0, neginf=0.0)
                solution = np.linalg.lstsq(full, y, rcond=1e-12)[0]
                return (full @ solution - y) / scale, solution

            size = (design.shape[1],)
            first = random.normal(0, SCALES[start % len(SCALES)], size)
            result = least_squares(
                lambda q: projected(q)[0], first, method="lm", max_nfev=25 * (len(first) + 1)
            )
            residual, solution = projected(result.x)
            error = float(np.sqrt(np.square(residual).mean()))
            if best is None or error < best[0]:
                best = error, result.x, solution
            if error < EXACT:
                break
        assert best is not None
        error, q, solution = best
        parts = [*symbols, *([sympy.Integer(1)] if bias else [])]
        argument = sympy.expand(
            sympy.Add(*(sympy.Float(v, 17) * s for v, s in zip(q, parts, strict=True)))
        )
        pieces = [sympy.Integer(1), *symbols]
        total = sympy.expand(
            sympy.Add(
                *(sympy.Float(v, 17) * s for v, s in zip(solution[:linear], pieces, strict=True))
            )
        )
        yield total + _joined(solution[linear:], symbol(argument), argument)
        if error < EXACT:
            return


def _joined(numbers: np.ndarray, functions: list[sympy.Expr], argument: sympy.Expr) -> sympy.Expr:
    """Sine and cosine of one argument as a sine with a phase."""
    if len(functions) == 2:
        size, phase = np.hypot(*numbers), np.arctan2(numbers[1], numbers[0])
        return sympy.Float(size, 17) * sympy.sin(argument + sympy.Float(phase, 17))
    return sympy.Float(numbers[0], 17) * functions[0]
