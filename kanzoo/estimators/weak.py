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
from kanzoo.estimators.weak_terms import Saturation, saturations, trigonometric_terms
from kanzoo.interpret.formula.expression import Formula, make_symbols
from kanzoo.interpret.formula.sparse import sums
from kanzoo.interpret.formula.terms import Library, polynomial_terms

WIDTHS, POWER = (17, 33, 65), 8  # times of a window, and power of its test function
SURE = 0.02  # relative error by noise, from which windows become longer
EXACT = 1e-5  # relative error up to which there is no doubt
TOLERANCE = 1e-4  # relative error on other trajectories, below which a sum is taken
NOISY = 1.5  # times what the noise of the states lets expect, below which a sum is taken too
VAGUE = 0.3  # relative error from which a sum says too little
PLAIN, OTHER = 1.0, 2.0  # price of a monomial and of another term: log 10 and log 100 choices
DRAWS = 3  # of noise, by which its effect is measured
MAX_SIZE, KEPT = 4, 4  # terms that are chosen from many; quotients that are looked at
Trajectories = Sequence[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class _Choice:
    """Terms that equal a state's derivative, with the relative error of coefficients elsewhere."""

    terms: list[Any]
    error: float

    def rank(self) -> float:
        """How many such sums there are, as a logarithm: fewer of monomials than of other terms."""
        others = sum(
            isinstance(t, Saturation) or bool(getattr(t, "factors", 0)) for t in self.terms
        )
        return PLAIN * (len(self.terms) - others) + OTHER * others


class _WeakForm:
    """Averages of terms `(W, F)` and of derivatives `(W, S)` in all windows of trajectories."""

    def __init__(self, trajectories: Trajectories, width: int) -> None:
        self.paths = [check_trajectory(*pair) for pair in trajectories]
        self.width = min(width, *(len(t) for t, _ in self.paths))
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

    def means(self, terms: Sequence[Any], states: np.ndarray | None = None) -> np.ndarray:
        """Averages of terms, `(W, F)`, at other states `(N, S)` if given."""
        states = self.states if states is None else states
        values = np.stack([term.values(states) for term in terms], 1)
        ends = np.cumsum([len(t) for t, _ in self.paths])[:-1]
        pairs = zip(self.averages, np.split(values, ends), strict=True)
        return np.concatenate([average @ part for average, part in pairs])

    @cached_property
    def deviation(self) -> np.ndarray:
        """The noise of the states, `(S,)`: what a polynomial of degree 6 through 9 times leaves."""
        from scipy.signal import savgol_coeffs, savgol_filter

        left = 1 - savgol_coeffs(9, 6)[4]  # share of the variance of noise
        rough = np.concatenate([(x - savgol_filter(x, 9, 6, axis=0))[4:-4] for _, x in self.paths])
        deviation: np.ndarray = np.sqrt(np.square(rough).mean(0) / left)
        return deviation

    def noise(self) -> np.ndarray:
        """Error of the sides relative to their size, `(S,)`, that the states' noise lets expect."""
        factors = []
        for t, _ in self.paths:
            for window, _, change in bumps(t, self.width, POWER):
                piece = t[window]
                rate = -np.trapezoid(change * piece, piece)
                factors.append(np.square(change * np.gradient(piece) / rate).sum())
        size = np.square(self.sides).mean(0)
        ratio: np.ndarray = np.sqrt(
            np.square(self.deviation) * np.mean(factors) / np.where(size > 0, size, 1)
        )
        return ratio

    @cached_property
    def shaken(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """States `(N, S)` with noise once more, and what that adds to the sides `(W, S)`."""
        random, draws = np.random.default_rng(0), []
        for _ in range(DRAWS):
            noise = [self.deviation * random.standard_normal(x.shape) for _, x in self.paths]
            pairs = zip(self.paths, noise, strict=True)
            sides = [weak_means(t, n, n, self.width, POWER)[1] for (t, _), n in pairs]
            draws.append((self.states + np.concatenate(noise), np.concatenate(sides)))
        return draws

    def expected(self, terms: Sequence[Any], k: int) -> float:
        """Relative error for state k that the noise of the states lets expect of a sum of terms."""
        means = self.means(terms)
        coefficients = solved(means, self.sides[:, k])
        squares = [
            np.square((self.means(terms, states) - means) @ coefficients - sides[:, k]).sum()
            for states, sides in self.shaken
        ]
        return float(np.sqrt(np.mean(squares)) / (np.linalg.norm(self.sides[:, k]) or 1.0))

    def is_met(self, terms: Sequence[Any], k: int, error: float) -> bool:
        """Whether the noise of the states explains the error of a sum of terms for state k."""
        return error <= TOLERANCE or (error < VAGUE and error <= NOISY * self.expected(terms, k))

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

    rows: list[int] = []
    columns: list[int] = []
    entries: list[float] = []
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
    one, the least needed first; where too many stay, up to four are chosen of monomials and
    trigonometric functions, or of few monomials and one quotient x / (1 + c y^n). Errors are those
    on each trajectory of coefficients by the others, of fifths of the windows if there is only one.
    Windows have 17 times, of noisy states up to 65. Sums are taken with a relative error within
    1e-4, or within 1.5 times what noise as large as that of the states does to that very sum; of
    them the one with the fewest terms, of which others than monomials count twice. A doubt says so
    where the error is above 1e-5.
    """
    shortest = min(len(t) for t, _ in trajectories)
    for width in WIDTHS:
        form = _WeakForm(trajectories, width)
        if form.noise().max() < SURE or 6 * width > shortest:
            break
    count = form.states.shape[1]
    monomials = [*polynomial_terms(count, degree), _One()]
    if len(form.sides) < 3 * len(monomials) or len(set(form.groups)) < 2:
        return [None] * count
    matrix = form.means(monomials)
    symbols = make_symbols(names := [f"x{k}" for k in range(count)])
    library: Library | None = None
    formulas: list[Formula | None] = []
    for k in range(count):
        choices = [_fewest(form, monomials, matrix, k)]
        if choices[0] is None or choices[0].error > TOLERANCE:
            library = library or _library(form, monomials[:-1])
            choices += [_chosen(form, library, k), _saturating(form, k)]
        found = [choice for choice in choices if choice is not None]
        best = min(found, key=lambda choice: (choice.rank(), choice.error), default=None)
        formulas.append(_formula(form, best, k, symbols, names) if best else None)
    return formulas


def _formula(
    form: _WeakForm, choice: _Choice, k: int, symbols: list[sympy.Symbol], names: list[str]
) -> Formula:
    coefficients = solved(form.means(choice.terms), form.sides[:, k])
    pairs = zip(coefficients, choice.terms, strict=True)
    expression = sympy.Add(*(sympy.Float(c, 17) * term.symbol(symbols) for c, term in pairs))
    doubts = []
    if choice.error > EXACT:
        doubts = [f"other terms may do as well for x{k}, met within {choice.error:.1g} only"]
    return Formula([expression], symbols, names=names, doubts=doubts)


def _library(form: _WeakForm, terms: list[Any]) -> Library:
    """The averages of terms and of trigonometric ones."""
    terms = [*terms, *trigonometric_terms(form.states)]
    values = form.means(terms)
    good = np.isfinite(values).all(0) & (values.std(0) > 1e-9 * np.abs(values).max(0))
    kept = np.flatnonzero(good)
    return Library(tuple(terms[int(i)] for i in kept), values[:, kept])


def _chosen(form: _WeakForm, library: Library, k: int) -> _Choice | None:
    """The fewest of many terms that meet the sides, or None."""
    for found in sums(library, form.sides[:, k], MAX_SIZE):
        terms: list[Any] = [library.terms[i] for i in found.support]
        for constant in ([], [_One()]):
            error = form.error(form.means(sum_of := [*terms, *constant]), k)
            if form.is_met(sum_of, k, error):
                return _Choice(sum_of, error)
    return None


def _saturating(form: _WeakForm, k: int) -> _Choice | None:
    """The fewest of a quotient x / (1 + c y^n) and polynomials of degree 2, or None."""
    from scipy.optimize import minimize_scalar

    side = form.sides[:, k]
    others = [*polynomial_terms(form.states.shape[1], 2), _One()]
    matrix = form.means(others)

    def missed(logarithm: float, term: Saturation, beside: np.ndarray) -> float:
        design = np.column_stack([beside, form.means([term.at(float(np.exp(logarithm)))])])
        return float(np.linalg.norm(design @ solved(design, side) - side))

    def tuned(term: Saturation, beside: np.ndarray) -> tuple[float, Saturation]:
        grid = np.log(term.constant) + np.linspace(-8, 8, 17)
        start = min(grid, key=lambda logarithm: missed(logarithm, term, beside))
        options: Any = {"bounds": (start - 1, start + 1), "method": "bounded"}
        options |= {"args": (term, beside), "options": {"xatol": 1e-10}}
        found = minimize_scalar(missed, **options)
        return float(found.fun), term.at(float(np.exp(found.x)))

    tried = sorted(
        (tuned(term, matrix) for term in saturations(form.states)), key=lambda pair: pair[0]
    )
    best: _Choice | None = None
    for _, term in tried[:KEPT]:
        all_terms = [*others, term]
        for kept in _path(form, form.means(all_terms), k)[-1 : -len(all_terms) // 2 : -1]:
            if len(all_terms) - 1 not in kept:
                continue
            few = [all_terms[i] for i in kept[:-1]]
            means = form.means(few) if few else np.zeros((len(side), 0))
            terms = [*few, tuned(term, means)[1]]
            error = form.error(form.means(terms), k)
            if best is not None and len(terms) >= len(best.terms):
                continue
            if form.is_met(terms, k, error):
                best = _Choice(terms, error)
    return best


def solved(matrix: np.ndarray, side: np.ndarray) -> np.ndarray:
    """Least squares with columns of equal length, `(F,)`."""
    length = np.linalg.norm(matrix, axis=0)
    length = np.where(length > 0, length, 1)
    solution: np.ndarray = np.linalg.lstsq(matrix / length, side, rcond=1e-12)[0] / length
    return solution


def _path(form: _WeakForm, matrix: np.ndarray, k: int) -> list[list[int]]:
    """Terms of a matrix `(W, F)` that are left as they go one by one, the least needed first."""
    kept, path = list(range(matrix.shape[1])), []
    while kept:
        path.append(list(kept))
        # what a term explains that the others do not: its coefficient's square over its variance
        chosen = matrix[:, kept]
        length = np.linalg.norm(chosen, axis=0)
        variance = np.diag(np.linalg.pinv((chosen / length).T @ (chosen / length)))
        needed = (solved(chosen, form.sides[:, k]) * length) ** 2 / variance
        kept.pop(int(np.argmin(needed)))
    return path


def _fewest(form: _WeakForm, terms: list[Any], matrix: np.ndarray, k: int) -> _Choice | None:
    """The fewest of the terms of a matrix `(W, F)` that meet the sides, at most half of them."""
    if not np.linalg.norm(form.sides[:, k]):
        return None
    for kept in reversed(_path(form, matrix, k)):
        error = form.error(matrix[:, kept], k)
        few = [terms[i] for i in kept]
        if form.is_met(few, k, error):
            return _Choice(few, error) if len(few) <= matrix.shape[1] // 2 else None
    return None
