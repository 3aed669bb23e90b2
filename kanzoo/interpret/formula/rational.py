"""Quotients of polynomials that equal given values, found as linear relations.

Axes: N samples, C columns.
"""

from collections.abc import Iterator

import numpy as np
import sympy

from kanzoo.interpret.formula.problem import Problem
from kanzoo.interpret.formula.terms import monomial, monomial_symbol, polynomial_terms

DEGREES = ((1, 1), (2, 1), (1, 2), (2, 2), (3, 2), (2, 3), (3, 3), (4, 2), (2, 4), (4, 3), (4, 4))
VIOLATED = 1e-9  # how much a relation may be, of the size of its columns
GAP = 1e-4  # by which the next relation must be worse


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
    for top, bottom in DEGREES:
        powers = [
            [tuple(0 * p for p in polynomial_terms(x.shape[1], 1)[0].powers)]
            + [term.powers for term in polynomial_terms(x.shape[1], degree)]
            for degree in (top, bottom)
        ]
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
        largest = max(abs(float(c)) for c in parts[1].as_coefficients_dict().values())
        yield (
            sympy.Float(height, 17) * (parts[0] / largest).expand() / (parts[1] / largest).expand()
        )
        return


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
