"""Polynomial right-hand sides from trajectories, by their weak form.

Axes: T times, S states, W windows, F terms.
"""

from collections.abc import Sequence

import numpy as np
import sympy

from kanzoo.data.dynamics import check_trajectory, weak_means
from kanzoo.interpret.formula.expression import Formula, make_symbols
from kanzoo.interpret.formula.terms import monomial_symbol, polynomial_terms

WIDTH, POWER = 17, 8  # times of a window, and power of its test function
TOLERANCE = 1e-4  # relative error on other trajectories, below which a polynomial is taken


def weak_polynomials(
    trajectories: Sequence[tuple[np.ndarray, np.ndarray]], degree: int
) -> list[Formula | None]:
    """The polynomial of few terms that each state's derivative equals, None where there is none.

    Averages of every monomial under test functions meet, integrated by parts, those of the
    derivatives (weak SINDy, 2005.04339): no derivative is estimated. Terms go one by one, the least
    needed first; errors are those on each trajectory of coefficients by the others, of fifths of
    the windows if there is only one. The fewest terms with a relative error within 1e-4
    are taken, unless they are more than half of all: then they only stand in for something else.
    """
    num_states = check_trajectory(*trajectories[0])[1].shape[1]
    terms = polynomial_terms(num_states, degree)
    rows, sides, labels = [], [], []
    for index, pair in enumerate(trajectories):
        t, x = check_trajectory(*pair)
        values = np.stack([*(term.values(x) for term in terms), np.ones(len(t))], 1)
        means, slopes = weak_means(t, values, x, min(WIDTH, len(t)), POWER)
        rows.append(means)
        sides.append(slopes)
        fifths = 5 * np.arange(len(means)) // len(means)
        labels.append(np.full(len(means), index) if len(trajectories) > 1 else fifths)
    matrix, targets, groups = (np.concatenate(parts) for parts in (rows, sides, labels))
    if len(matrix) < 3 * matrix.shape[1] or len(set(groups)) < 2:
        return [None] * num_states
    symbols = make_symbols(names := [f"x{k}" for k in range(num_states)])
    monomials = [*(monomial_symbol(symbols, term.powers) for term in terms), sympy.Integer(1)]
    formulas: list[Formula | None] = []
    for side in targets.T:
        kept = _fewest(matrix, side, groups)
        if kept is None:
            formulas.append(None)
            continue
        coefficients = _solved(matrix[:, kept], side)
        pairs = zip(coefficients, kept, strict=True)
        expression = sympy.Add(*(sympy.Float(c, 17) * monomials[k] for c, k in pairs))
        formulas.append(Formula([expression], symbols, names=names))
    return formulas


def _solved(matrix: np.ndarray, side: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(matrix, axis=0)
    length = np.where(length > 0, length, 1)
    solution: np.ndarray = np.linalg.lstsq(matrix / length, side, rcond=1e-12)[0] / length
    return solution


def _fewest(matrix: np.ndarray, side: np.ndarray, groups: np.ndarray) -> list[int] | None:
    """Numbers of the terms to keep of a matrix `(W, F)`, by the error on each group `(W,)`."""
    scale = np.linalg.norm(side)
    if not scale:
        return None
    kept, path = list(range(matrix.shape[1])), []
    while kept:
        chosen = matrix[:, kept]
        squares = 0.0
        for group in np.unique(groups):
            held = groups == group
            errors = chosen[held] @ _solved(chosen[~held], side[~held]) - side[held]
            squares += float(errors @ errors)
        path.append((np.sqrt(squares) / scale, list(kept)))
        # what a term explains that the others do not: its coefficient's square over its variance
        length = np.linalg.norm(chosen, axis=0)
        variance = np.diag(np.linalg.pinv((chosen / length).T @ (chosen / length)))
        kept.pop(int(np.argmin((_solved(chosen, side) * length) ** 2 / variance)))
    kept = next((kept for error, kept in reversed(path) if error <= TOLERANCE), [])
    return kept if 0 < len(kept) <= matrix.shape[1] // 2 else None
