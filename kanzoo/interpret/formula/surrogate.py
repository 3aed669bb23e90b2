"""A polynomial that is fitted to data as a smooth function with derivatives.

Axes: N samples, C columns, P terms.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kanzoo.interpret.formula.terms import polynomial_terms

HELD = 5  # every so many samples one is held out
MAX_TERMS = 500
Values = Callable[[np.ndarray], np.ndarray]
OUTER: dict[str, Values] = {"y": np.positive, "1/y": np.reciprocal, "log": np.log}
INNER: dict[str, Values] = {  # back from what the polynomial is of y
    "y": np.positive,
    "1/y": np.reciprocal,
    "log": lambda values: np.exp(values.clip(-300, 300)),
}


@dataclass(frozen=True)
class Polynomial:
    """A polynomial of columns, or of their logarithms, for y or a function of it.

    `error` is that on held-out samples, in deviations of y.
    """

    powers: np.ndarray
    coefficients: np.ndarray
    shift: np.ndarray
    scale: np.ndarray
    of_logarithms: bool
    outer: str
    error: float

    def gradient(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values `(N,)` and derivatives `(N, C)`."""
        u = np.log(x) if self.of_logarithms else x
        v = (u - self.shift) / self.scale
        tables = _powers(v, int(self.powers.max(initial=0)))
        values = _design(tables, self.powers) @ self.coefficients
        slopes = np.empty_like(x)
        for k in range(x.shape[1]):
            order = self.powers[:, k]
            lower = self.powers.copy()
            lower[:, k] = np.maximum(order - 1, 0)
            slopes[:, k] = _design(tables, lower) @ (self.coefficients * order) / self.scale[k]
        if self.of_logarithms:
            slopes = slopes / x
        values = INNER[self.outer](values)
        if self.outer == "log":
            slopes = slopes * values[:, None]
        elif self.outer == "1/y":
            slopes = -slopes * values[:, None] ** 2
        return values, slopes


def fit_polynomial(x: np.ndarray, y: np.ndarray) -> Polynomial:
    """The polynomial that predicts held-out samples best, of several degrees and scales of y."""
    held = np.arange(len(y)) % HELD == 0
    scale = float(y.std()) or 1.0
    columns = x.shape[1]
    mean, zeros = y.mean(), np.zeros(columns)
    error = float(np.sqrt(np.square(y[held] - mean).mean())) / scale
    best = Polynomial(
        np.zeros((1, columns), int), np.array([mean]), zeros, zeros + 1, False, "y", error
    )
    outers = ["y"]
    if y.min() > 0 or y.max() < 0:
        outers += ["1/y"]
    if y.min() > 0:
        outers += ["log"]
    targets = np.stack([OUTER[outer](y) for outer in outers])
    for of_logarithms in (False, True) if x.min() > 0 else (False,):
        u = np.log(x) if of_logarithms else x
        low, high = u.min(0), u.max(0)
        shift, half = (low + high) / 2, np.where(high > low, (high - low) / 2, 1.0)
        v = (u - shift) / half
        last = np.inf
        for degree in (1, 2, 3, 4, 5, 6, 8, 10, 12, 16):
            powers = np.array(
                [[0] * columns]
                + [[int(p) for p in t.powers] for t in polynomial_terms(columns, degree)]
            )
            if len(powers) > min(MAX_TERMS, 0.5 * (~held).sum()):
                break
            design = _design(_powers(v, degree), powers)
            solution = np.linalg.lstsq(design[~held], targets[:, ~held].T, rcond=1e-12)[0]
            predicted = design[held] @ solution
            reached = np.inf
            for outer, coefficients, values in zip(outers, solution.T, predicted.T, strict=True):
                with np.errstate(all="ignore"):
                    values = INNER[outer](values)
                error = float(np.sqrt(np.square(values - y[held]).mean())) / scale
                reached = min(reached, error)
                if error < best.error:
                    best = Polynomial(
                        powers, coefficients, shift, half, of_logarithms, outer, error
                    )
            if reached > 3 * last or reached < 1e-12:
                break
            last = min(last, reached)
    return best


def _powers(v: np.ndarray, degree: int) -> np.ndarray:
    """Powers 0, 1, .. of the columns, `(degree + 1, N, C)`."""
    return np.cumprod(np.concatenate([np.ones((1, *v.shape)), np.repeat(v[None], degree, 0)]), 0)


def _design(tables: np.ndarray, powers: np.ndarray) -> np.ndarray:
    """Monomials `(N, P)` of powers `(P, C)`."""
    result = np.ones((tables.shape[1], len(powers)))
    for k in range(tables.shape[2]):
        result = result * tables[powers[:, k], :, k].T
    return result
