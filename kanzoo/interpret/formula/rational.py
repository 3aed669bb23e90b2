"""Quotients of polynomials that equal given values, found as linear relations.

Axes: N samples, C columns.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import sympy
from scipy.linalg import qr

from kanzoo.interpret.formula.problem import Problem
from kanzoo.interpret.formula.sparse import sums
from kanzoo.interpret.formula.surrogate import fit_polynomial
from kanzoo.interpret.formula.terms import (
    Library,
    Powers,
    monomial,
    monomial_symbol,
    polynomial_terms,
)

DEGREES = ((1, 1), (2, 1), (1, 2), (2, 2), (3, 2), (2, 3), (3, 3), (4, 2), (2, 4), (4, 3), (4, 4))
# Of few columns; so many coefficients fit any smooth function, so that they have to be simple.
HIGHER = ((5, 2), (5, 4), (6, 2), (6, 4), (6, 6), (8, 4))
FEW, SIMPLE = 2, 60  # columns; a multiple of simple numbers that is whole
NEAR, SURELY = 1e-5, 0.01  # how near, of the largest number, and at most
VIOLATED = 1e-9  # how much a relation may be, of the size of its columns
GAP = 1e-4  # by which the next relation must be worse
NOISY_DEGREES = {1: 5, 2: 4, 3: 3}  # of quotients for y with noise, by columns; 2 of more
NOISY_SIZE = 12  # terms of such a quotient
NOISY_KEPT = 4  # of such quotients
NORMAL_DEGREE = 2  # of the term of the denominator that has the coefficient 1


def quotients(problem: Problem) -> Iterator[sympy.Expr]:
    """P(x) / Q(x) for y, of the smallest degrees that will do, if any.

    P - y Q = 0 at all samples is a vector of coefficients in the null space of the monomials and of
    y times the monomials. For y with noise there is none.
    """
    x, y = problem.x, problem.y
    scale = np.abs(x).max(0)
    scale[scale == 0] = 1.0
    height = float(np.abs(y).max()) or 1.0
    z, values = x / scale, y / height
    for top, bottom in (*DEGREES, *HIGHER) if x.shape[1] <= FEW else DEGREES:
        powers = [_independent(z, degree) for degree in (top, bottom)]
        count = len(powers[0]) + len(powers[1])
        if count > len(y) // 3:
            return
        design = np.column_stack(
            [monomial(z, p) for p in powers[0]] + [values * monomial(z, p) for p in powers[1]]
        )
        length = np.linalg.norm(design, axis=0)
        _, sizes, vectors = np.linalg.svd(design / length, full_matrices=False)
        if sizes[-1] > VIOLATED * sizes[0]:
            continue
        weights = vectors[-1]
        if sizes[-2] * GAP < sizes[-1]:
            weights = _sparse(vectors[sizes < VIOLATED * sizes[0]])
        coefficients = weights / length
        small = np.abs(weights) < 1e-5 * np.abs(weights).max()
        coefficients[small] = 0.0
        parts = []
        for chosen, numbers in (
            (powers[0], coefficients[: len(powers[0])]),
            (powers[1], -coefficients[len(powers[0]) :]),
        ):
            units = [float(np.prod(scale ** np.array(p, np.float64))) for p in chosen]
            parts.append(
                sympy.Add(
                    *(
                        sympy.Float(number / unit, 17) * monomial_symbol(problem.columns, p)
                        for number, unit, p in zip(numbers, units, chosen, strict=True)
                        if number
                    )
                )
            )
        if parts[1] == 0:
            continue
        bottoms = [abs(float(c)) for c in parts[1].as_coefficients_dict().values()]
        largest = max(bottoms)
        if (top, bottom) in HIGHER:
            tops = [height * abs(float(c)) for c in parts[0].as_coefficients_dict().values()]
            numbers = SIMPLE * np.array(tops + bottoms) / largest
            if np.abs(numbers - numbers.round()).max() > min(NEAR * numbers.max(), SURELY):
                continue
        yield (
            sympy.Float(height, 17) * (parts[0] / largest).expand() / (parts[1] / largest).expand()
        )
        return


def noisy_quotients(problem: Problem) -> Iterator[sympy.Expr]:
    """P(x) / Q(x) of few terms for y with noise, those that describe it most shortly first.

    y = P / t - y (Q - t) / t for a term t of Q is a sum of terms. On the right a smooth fit stands
    for y, then the best quotient, so that noise does not pull the coefficients of Q towards zero.
    """
    x, y, count = problem.x, problem.y, problem.x.shape[1]
    scale = np.where(np.abs(x).max(0) > 0, np.abs(x).max(0), 1.0)
    powers = _monomials(count, NOISY_DEGREES.get(count, 2))
    values = np.column_stack([monomial(x / scale, p) for p in powers])
    smooth, found = fit_polynomial(x, y).gradient(x)[0], list[_Quotient]()
    for _ in range(2):
        found = sorted(_fitted(values, powers, y, smooth), key=lambda quotient: quotient.length)
        if not found:
            return
        smooth = (values @ found[0].top) / (values @ found[0].bottom)
    units = np.array([np.prod(scale ** np.array(p, np.float64)) for p in powers])
    for quotient in found[:NOISY_KEPT]:
        unit = units[quotient.normal]
        parts = [
            sympy.Add(
                *(
                    (1 if p is powers[quotient.normal] and n == 1.0 else sympy.Float(n * unit / u))
                    * monomial_symbol(problem.columns, p)
                    for n, u, p in zip(numbers, units, powers, strict=True)
                    if n
                )
            )
            for numbers in (quotient.top, quotient.bottom)
        ]
        yield parts[0] / parts[1]


@dataclass(frozen=True)
class _Quotient:
    """Coefficients of a quotient, the term with the coefficient 1, and the description's length."""

    length: float
    normal: int
    top: np.ndarray
    bottom: np.ndarray


def _fitted(
    values: np.ndarray, powers: Sequence[Powers], y: np.ndarray, smooth: np.ndarray
) -> Iterator[_Quotient]:
    cost = np.log(len(y) * len(powers))
    for normal, power in enumerate(powers):
        size = np.abs(values[:, normal])
        if sum(power) > NORMAL_DEGREE or size.min() <= 1e-3 * size.max():
            continue
        others = [k for k in range(len(powers)) if k != normal]
        ratios = values[:, others] / values[:, [normal]]
        library = Library((), np.column_stack([ratios, -ratios * smooth[:, None]]))
        for candidate in sums(library, y, NOISY_SIZE):
            top, bottom = np.zeros(len(powers)), np.zeros(len(powers))
            top[normal], bottom[normal] = candidate.coefficients[-1], 1.0
            for k, number in zip(candidate.support, candidate.coefficients, strict=False):
                (top if k < len(others) else bottom)[others[k % len(others)]] = number
            below = values @ bottom
            if below.min() > 0 or below.max() < 0:
                error = max(float(np.square(values @ top / below - y).mean()), 1e-300)
                size = len(candidate.support) + 1
                yield _Quotient(len(y) * np.log(error) / 2 + cost * size, normal, top, bottom)


def _monomials(num_columns: int, degree: int) -> list[Powers]:
    """The powers of all monomials up to a degree, the constant first."""
    powers = [term.powers for term in polynomial_terms(num_columns, degree)]
    return [tuple(0 * p for p in powers[0]), *powers]


def _independent(x: np.ndarray, degree: int) -> list[Powers]:
    """Monomials up to a degree, without those that others give: flags have such, as f f = f."""
    powers = _monomials(x.shape[1], degree)
    _, triangle, order = qr(
        np.column_stack([monomial(x, p) for p in powers]), mode="economic", pivoting=True
    )
    sizes = np.abs(np.diag(triangle))
    return [powers[k] for k in sorted(order[: len(sizes)][sizes > VIOLATED * sizes[0]])]


def _sparse(vectors: np.ndarray) -> np.ndarray:
    """A vector of the space of some with a zero in as many places as there are others."""
    space = vectors.copy()
    while len(space) > 1:
        pivot = int(np.abs(space).max(0).argmax())
        row = int(np.abs(space[:, pivot]).argmax())
        taken = space[row] / space[row, pivot]
        space = np.delete(space, row, axis=0)
        space = space - np.outer(space[:, pivot], taken)
    return np.asarray(space[0])
