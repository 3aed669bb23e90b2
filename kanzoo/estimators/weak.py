"""Right-hand sides as sums of few terms from trajectories, by their weak form.

Axes: T times, S states, W windows, F terms.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import sympy

from kanzoo.data.dynamics import bumps, check_trajectory, weak_means
from kanzoo.estimators.weak_terms import Saturation, further_terms
from kanzoo.interpret.formula.expression import Formula, make_symbols
from kanzoo.interpret.formula.sparse import sums
from kanzoo.interpret.formula.terms import Library, polynomial_terms

WIDTH, POWER = 17, 8  # times of a window, and power of its test function
TOLERANCE = 1e-4  # relative error on other trajectories, below which a sum is taken
NOISY = 2.0  # times what the noise of the states lets expect, below which a sum is taken too
VAGUE = 0.1  # relative error from which a sum says too little
MAX_SIZE = 4  # terms that are chosen from many
Trajectories = Sequence[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class _Choice:
    """Terms that equal a state's derivative, with the relative error of coefficients elsewhere."""

    terms: list[Any]
    error: float


class _WeakForm:
    """Averages of terms `(W, F)` and of derivatives `(W, S)` in all windows of trajectories."""

    def __init__(self, trajectories: Trajectories) -> None:
        self.paths = [check_trajectory(*pair) for pair in trajectories]
        self.width = min(WIDTH, *(len(t) for t, _ in self.paths))
        sides = [weak_means(t, x, x, self.width, POWER)[1] for t, x in self.paths]
        self.sides = np.concatenate(sides)
        self.averages = [_averages(t, self.width) for t, _ in self.paths]
        sizes = [len(side) for side in sides]
        if len(sizes) > 1:
            self.groups = np.repeat(np.arange(len(sizes)), sizes)
        else:
            self.groups = 5 * np.arange(sizes[0]) // sizes[0]

    @cached_property
    def states(self) -> np.ndarray:
        """All states, `(N, S)`."""
        return np.concatenate([x for _, x in self.paths])

    def means(self, terms: Sequence[Any]) -> np.ndarray:
        """Averages of terms, `(W, F)`."""
        values = np.stack([term.values(self.states) for term in terms], 1)
        ends = np.cumsum([len(t) for t, _ in self.paths])[:-1]
        pairs = zip(self.averages, np.split(values, ends), strict=True)
        return np.concatenate([average @ part for average, part in pairs])

    def noise(self) -> np.ndarray:
        """Error of the sides relative to their size, `(S,)`, that the states' noise lets expect.

        The noise is what a polynomial of degree 6 through 9 neighbours leaves.
        """
        from scipy.signal import savgol_coeffs, savgol_filter

        left = 1 - savgol_coeffs(9, 6)[4]  # share of the variance of noise
        rough = np.concatenate([(x - savgol_filter(x, 9, 6, axis=0))[4:-4] for _, x in self.paths])
        variance = np.square(rough).mean(0) / left
        factors = []
        for t, _ in self.paths:
            for window, _, change in bumps(t, self.width, POWER):
                piece = t[window]
                rate = -np.trapezoid(change * piece, piece)
                factors.append(np.square(change * np.gradient(piece) / rate).sum())
        size = np.square(self.sides).mean(0)
        ratio: np.ndarray = np.sqrt(variance * np.mean(factors) / np.where(size > 0, size, 1))
        return ratio

    def error(self, matrix: np.ndarray, k: int) -> float:
        """Relative error for state k on each group of coefficients from the others."""
        side, squares = self.sides[:, k], 0.0
        for group in np.unique(self.groups):
            held = self.groups == group
            errors = matrix[held] @ solved(matrix[~held], side[~held]) - side[held]
            squares += float(errors @ errors)
        return float(np.sqrt(squares) / (np.linalg.norm(side) or 1.0))


def _averages(times: np.ndarray, width: int) -> Any:
    """The sparse matrix `(W, T)` that averages values at times under the test functions."""
    from scipy.sparse import csr_array

    rows, columns, entries = [], [], []
    for row, (window, test, _) in enumerate(bumps(times, width, POWER)):
        shares = test * np.gradient(times[window])  # which is zero at both ends
        rows += [row] * width
        columns += range(window.start, window.stop)
        entries += (shares / shares.sum()).tolist()
    return csr_array((entries, (rows, columns)), shape=(row + 1, len(times)))


class _One:
    """The constant term."""

    def values(self, x: np.ndarray) -> np.ndarray:
        return np.ones(len(x))

    def symbol(self, columns: Sequence[sympy.Expr]) -> sympy.Expr:
        return sympy.Integer(1)


def weak_formulas(trajectories: Trajectories, degree: int) -> list[Formula | None]:
    """The sum of few terms that each state's derivative equals, None where there is none.

    Averages of terms under test functions meet, integrated by parts, those of the derivatives (weak
    SINDy, 2005.04339): no derivative is estimated. Of all monomials up to a degree, terms go one by
    one, the least needed first; where too many stay, up to four are chosen of monomials,
    trigonometric functions and quotients x / (1 + c y^n). Errors are those on each trajectory of
    coefficients by the others, of fifths of the windows if there is only one. The fewest terms are
    taken with a relative error within 1e-4, or within twice what the noise of the states explains;
    a doubt says so then.
    """
    form = _WeakForm(trajectories)
    count = form.states.shape[1]
    monomials = [*polynomial_terms(count, degree), _One()]
    if len(form.sides) < 3 * len(monomials) or len(set(form.groups)) < 2:
        return [None] * count
    noise = form.noise()
    limits = np.where(NOISY * noise < VAGUE, np.maximum(NOISY * noise, TOLERANCE), 0.0)
    matrix = form.means(monomials)
    symbols = make_symbols(names := [f"x{k}" for k in range(count)])
    library: Library | None = None
    formulas: list[Formula | None] = []
    for k, limit in enumerate(limits.tolist()):
        choice = _fewest(form, monomials, matrix, k, limit)
        if choice is None or limit > TOLERANCE:
            if library is None:
                terms: list[Any] = [*monomials[:-1], *further_terms(form.states)]
                library = _library(form, terms)
            other = _chosen(form, library, k, limit)
            if other is not None and (choice is None or len(other.terms) < len(choice.terms)):
                choice = other
        formulas.append(choice and _formula(form, choice, k, symbols, names))
    return formulas


def _formula(
    form: _WeakForm, choice: _Choice, k: int, symbols: list[sympy.Symbol], names: list[str]
) -> Formula:
    coefficients = solved(form.means(choice.terms), form.sides[:, k])
    pairs = zip(coefficients, choice.terms, strict=True)
    expression = sympy.Add(*(sympy.Float(c, 17) * term.symbol(symbols) for c, term in pairs))
    doubts = []
    if choice.error > TOLERANCE:
        doubts = [
            f"the derivative of x{k} is met within {choice.error:.1g} only, which noise explains: "
            "other terms may do as well"
        ]
    return Formula([expression], symbols, names=names, doubts=doubts)


def _library(form: _WeakForm, terms: list[Any]) -> Library:
    """The averages of terms, each once."""
    values = form.means(terms)
    good = np.isfinite(values).all(0) & (values.std(0) > 1e-9 * np.abs(values).max(0))
    kept = np.flatnonzero(good)
    return Library(tuple(terms[int(i)] for i in kept), values[:, kept])


def _chosen(form: _WeakForm, library: Library, k: int, limit: float) -> _Choice | None:
    """The fewest of many terms within the limit, or None."""
    side = form.sides[:, k]
    for found in sums(library, side, MAX_SIZE):
        terms: list[Any] = [library.terms[i] for i in found.support]
        terms = _tuned(form, terms, k)
        for constant in ([], [_One()]):
            matrix = form.means([*terms, *constant])
            error = form.error(matrix, k)
            if error <= limit:
                return _Choice([*terms, *constant], error)
    return None


def _tuned(form: _WeakForm, terms: list[Any], k: int) -> list[Any]:
    """The terms with those constants of saturation that fit best."""
    from scipy.optimize import least_squares

    where = [i for i, term in enumerate(terms) if isinstance(term, Saturation)]
    if not where:
        return terms
    side = form.sides[:, k]

    def at(logarithms: np.ndarray) -> list[Any]:
        changed = list(terms)
        for i, value in zip(where, logarithms, strict=True):
            changed[i] = terms[i].at(float(np.exp(value)))
        return changed

    def residual(logarithms: np.ndarray) -> np.ndarray:
        matrix = form.means([*at(logarithms), _One()])
        left: np.ndarray = matrix @ solved(matrix, side) - side
        return left

    start = np.log([terms[i].constant for i in where])
    limits = (start - 5, start + 5)
    return at(least_squares(residual, start, bounds=limits, xtol=1e-12, ftol=1e-14, max_nfev=60).x)


def solved(matrix: np.ndarray, side: np.ndarray) -> np.ndarray:
    """Least squares with columns of equal length, `(F,)`."""
    length = np.linalg.norm(matrix, axis=0)
    length = np.where(length > 0, length, 1)
    solution: np.ndarray = np.linalg.lstsq(matrix / length, side, rcond=1e-12)[0] / length
    return solution


def _fewest(
    form: _WeakForm, terms: list[Any], matrix: np.ndarray, k: int, limit: float
) -> _Choice | None:
    """The fewest of the terms of a matrix `(W, F)` within the limit, at most half of them."""
    side = form.sides[:, k]
    if not np.linalg.norm(side):
        return None
    kept, path = list(range(matrix.shape[1])), []
    while kept:
        chosen = matrix[:, kept]
        path.append((form.error(chosen, k), list(kept)))
        # what a term explains that the others do not: its coefficient's square over its variance
        length = np.linalg.norm(chosen, axis=0)
        variance = np.diag(np.linalg.pinv((chosen / length).T @ (chosen / length)))
        kept.pop(int(np.argmin((solved(chosen, side) * length) ** 2 / variance)))
    for error, kept in reversed(path):
        if error <= limit:
            few = 0 < len(kept) <= matrix.shape[1] // 2
            return _Choice([terms[i] for i in kept], error) if few else None
    return None
