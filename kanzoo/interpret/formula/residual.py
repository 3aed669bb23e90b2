"""Whether what a formula misses is noise.

Axes: N samples, C columns, A addends of the formula.
"""

from collections.abc import Sequence

import numpy as np
import sympy

from kanzoo.interpret.formula.expression import evaluate
from kanzoo.interpret.formula.terms import polynomial_terms

DEGREES = (1, 2, 3, 4, 6, 9, 14)  # of polynomials of what a formula misses
SIGNS, SURE = 200, 5.0  # how many are drawn; deviations from their mean that are no chance
MANY_SURE = 12.0  # the same where many addends and columns are tried
ADDENDS, ADDEND_DEGREE = 12, 5


def is_structured(
    x: np.ndarray, residual: np.ndarray, addends: np.ndarray | None = None, seed: int = 0
) -> bool:
    """Whether a residual is smooth: a polynomial explains more than of random signs, or neighbours.

    Signs are drawn for its values as they are, so that noise may have any size anywhere. Of the
    addends (N, A), each times a polynomial of each column is tried too.
    """
    from sklearn.neighbors import NearestNeighbors

    if residual.std() == 0 or len(x) < 30:
        return False
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (SIGNS, len(x)))
    z = (x - x.mean(0)) / np.where(x.std(0) > 0, x.std(0), 1.0)

    def is_explained(columns: np.ndarray, sure: float) -> bool:
        basis = np.linalg.qr(columns)[0]
        explained = np.square((signs * residual) @ basis).sum(1)
        found = float(np.square(residual @ basis).sum())
        return bool(found > explained.mean() + sure * explained.std())

    for degree in DEGREES:
        terms = polynomial_terms(x.shape[1], degree)
        if len(terms) > len(x) // 10:
            break
        if is_explained(np.column_stack([term.values(z) for term in terms]), SURE):
            return True
    for addend in () if addends is None else addends.T:
        for column in z.T:
            powers = np.vander(column, ADDEND_DEGREE + 1)
            if is_explained(addend[:, None] * powers, MANY_SURE):
                return True
    neighbours = NearestNeighbors(n_neighbors=2).fit(z).kneighbors(z)[1][:, 1]
    centred = residual - residual.mean()
    alike = centred * centred[neighbours]
    return bool(alike.sum() > SURE * np.sqrt(np.square(alike).sum()))


def addends_of(
    expression: sympy.Expr, symbols: Sequence[sympy.Symbol], x: np.ndarray
) -> np.ndarray | None:
    """Values (N, A) of what an expression is the sum of; None if there are many, or not finite."""
    parts = sympy.Add.make_args(sympy.expand_mul(expression, deep=False))
    if len(parts) > ADDENDS:
        return None
    values = evaluate(list(parts), symbols, x)
    return values if np.isfinite(values).all() else None
