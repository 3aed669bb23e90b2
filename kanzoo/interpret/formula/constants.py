"""Constants of a formula: fitted with derivatives from SymPy, then as simple as the data allow.

Axes: N samples, C inputs, P constants.
"""

import contextlib
import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sympy
from scipy.optimize import least_squares
from scipy.stats import chi2, t

from kanzoo.fit.least_squares import rmse
from kanzoo.interpret.formula.algebra import canonical, exact_values, simplest
from kanzoo.interpret.formula.clock import Clock
from kanzoo.interpret.formula.names import with_signs

EXACT = 1e-4  # error, relative to the data's deviation, below which all simple numbers are tried
NOISE = 1e-6  # error, relative to the data's deviation, below which rounding is free
ROUNDING = 1e-10  # the same for formulas without error
GROWTH = 100  # factor by which simple numbers may raise an error that is free
CHANCE = 0.05  # probability that a simple number lies in an interval by chance, at most
SURE = 0.95  # of intervals of constants, and of the growth of the error that rounding may cause
HELD = 5  # every so many rows one is held out where pi or e are tried on data with noise


class Constants:
    """An expression whose numbers are parameters: some fixed to exact values, the rest fitted."""

    def __init__(
        self,
        expression: sympy.Expr,
        symbols: Sequence[sympy.Symbol],
        x: np.ndarray,
        y: np.ndarray,
    ) -> None:
        self.x, self.y = x, y
        self.symbols = list(symbols)
        # Dummies, so that no name of a column can be that of a function or of a constant.
        self.columns = [sympy.Dummy(f"v{k}", real=True) for k in range(len(symbols))]
        floats = (e for e in sympy.preorder_traversal(expression) if isinstance(e, sympy.Float))
        names = {e: sympy.Dummy(f"k{k}", real=True) for k, e in enumerate(dict.fromkeys(floats))}
        renamed = dict(zip(self.symbols, self.columns, strict=True))
        self.template = expression.xreplace({**names, **renamed})
        self.names = list(names.values())
        self.values = np.array([float(value) for value in names])
        self.exact: dict[int, Any] = {}
        self._call = sympy.lambdify(
            [self.columns, self.names], self.template, ["scipy", "numpy"], cse=True
        )
        self._slopes: list[Callable] = []  # shared by copies, made when needed
        self._error: float | None = None

    @property
    def free(self) -> list[int]:
        """Numbers of the constants that are not fixed."""
        return [k for k in range(len(self.names)) if k not in self.exact]

    def on(self, x: np.ndarray, y: np.ndarray) -> "Constants":
        """The same for other samples."""
        other = self._copy()
        other.x, other.y = x, y
        return other

    def _copy(self) -> "Constants":
        other = copy.copy(self)
        other.values, other.exact, other._error = self.values.copy(), dict(self.exact), None
        return other

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Values `(N,)` at x `(N, C)`; NaN where they are not real and finite."""
        return self._evaluated(x, self.values)

    def _evaluated(self, x: np.ndarray, values: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return real(np.broadcast_to(np.asarray(self._call(x.T, values)), len(x)))

    def error(self) -> float:
        """The root mean square of what is missed; infinite where a value is none."""
        if self._error is None:
            residual = self.predict(self.x) - self.y
            self._error = rmse(residual, 0.0) if np.isfinite(residual).all() else math.inf
        return self._error

    def jacobian(self) -> np.ndarray:
        """Derivatives `(N, P)` by the free constants."""
        if not self._slopes:
            slopes = [sympy.diff(self.template, name) for name in self.names]
            self._slopes.append(
                sympy.lambdify([self.columns, self.names], slopes, ["scipy", "numpy"], cse=True)
            )
        with np.errstate(all="ignore"):
            columns = self._slopes[0](self.x.T, self.values)
        count = len(self.x)
        return np.stack(
            [real(np.broadcast_to(np.asarray(columns[k]), count)) for k in self.free], 1
        )

    def refit(self, evaluations: int = 60, *, differences: bool = False) -> None:
        """Least squares over all constants that are still free.

        Derivatives are SymPy's, or `differences`, which need no time to be worked out.
        """
        free = self.free
        before = self.error()
        if not free or len(self.y) < len(free) or not before < 1e100:
            return
        state = self._copy()

        def residual(values: np.ndarray) -> np.ndarray:
            state.values[free] = values
            return np.nan_to_num(
                state.predict(self.x) - self.y, nan=1e30, posinf=1e30, neginf=-1e30
            ).clip(-1e100, 1e100)

        def slopes(values: np.ndarray) -> np.ndarray:
            state.values[free] = values
            return np.nan_to_num(state.jacobian(), nan=0.0, posinf=1e30, neginf=-1e30)

        tight: Any = {"method": "lm", "xtol": 1e-15, "ftol": 1e-15, "gtol": 1e-15}
        result = None
        if not differences:
            # SymPy knows derivatives that NumPy does not.
            with contextlib.suppress(ValueError, TypeError, NameError):
                result = least_squares(
                    residual,
                    self.values[free],
                    slopes,
                    max_nfev=evaluations,
                    x_scale="jac",
                    **tight,
                )
        if result is None:
            most = evaluations * (len(free) + 1)
            result = least_squares(residual, self.values[free], max_nfev=most, **tight)
        if math.sqrt(2 * result.cost / len(self.y)) < before:
            self.values[free] = result.x
            self._error = None

    def deviations(self) -> np.ndarray:
        """Standard errors of the free constants, `(P,)`; infinite where data leave them open."""
        free = self.free
        if not free:
            return np.zeros(0)
        slopes = np.nan_to_num(self.jacobian(), nan=0.0, posinf=0.0, neginf=0.0)
        length = np.linalg.norm(slopes, axis=0)
        length[length == 0] = 1e-300
        _, sizes, vectors = np.linalg.svd(slopes / length, full_matrices=False)
        weights = np.where(sizes > 1e-12 * sizes[0], 1 / np.maximum(sizes, 1e-300), 1e12)
        variance = np.square(vectors.T * weights).sum(1)
        freedom = max(len(self.y) - len(free), 1)
        return np.asarray(
            self.error() * math.sqrt(len(self.y) / freedom) * np.sqrt(variance) / length
        )

    def fixed(self, index: int, value: Any) -> "Constants":
        """A copy in which a constant has an exact value."""
        other = self._copy()
        other.exact[index] = value
        other.values[index] = float(value)
        return other

    def expression(self, digits: Sequence[int] | None = None) -> sympy.Expr:
        """The expression in the columns' symbols, free constants with so many digits each."""
        chosen = digits if digits is not None else [17] * len(self.names)
        numbers = {
            name: self.exact.get(k, sympy.Float(f"{self.values[k]:.{chosen[k]}g}"))
            for k, name in enumerate(self.names)
        }
        back = dict(zip(self.columns, self.symbols, strict=True))
        return self.template.subs(numbers).xreplace(back)

    def rounded(self, limit: float, sigmas: np.ndarray) -> "Constants":
        """With the fewest digits that the intervals of constants and the error allow."""
        digits = [17] * len(self.names)
        result = self._copy()
        for k, sigma in zip(self.free, sigmas, strict=True):
            for count in range(2, 17):
                value = float(f"{self.values[k]:.{count}g}")
                other = result._copy()
                other.values[k] = value
                if abs(value - self.values[k]) <= max(sigma, 1e-300) and other.error() <= limit:
                    result, digits[k] = other, count
                    break
        result.digits = digits
        return result

    digits: list[int] | None = None


def tidy(
    expression: sympy.Expr,
    symbols: Sequence[sympy.Symbol],
    x: np.ndarray,
    y: np.ndarray,
    clock: Clock | None = None,
) -> sympy.Expr:
    """The expression with constants that are worth reading, where the error allows it.

    Each constant is tried as zero, a small fraction, a multiple of pi or a root, the nearest first,
    the others being fitted again to y `(N,)` at x `(N, C)`. A change stays if the error grows by no
    more than chance would let it; on data with noise, multiples of pi and e also have to predict
    held-out rows better than the number itself. Constants that remain are rounded as far as their
    intervals and the error allow. When the time of `clock` is over, what is reached is returned.
    """
    signed = with_signs(symbols, x)
    expression = canonical(expression.xreplace(dict(zip(symbols, signed, strict=True))))
    free = Constants(expression, signed, x, y)
    free.refit()
    scale = float(y.std()) or 1.0
    best, accepted = free.error(), 0
    floor = float(np.clip(GROWTH * best, ROUNDING * scale, NOISE * scale))
    count = max(len(y) - len(free.names), 1)

    def limit() -> float:
        growth = math.sqrt(1 + float(chi2.ppf(SURE, accepted + 1)) / count)
        return max(best * growth, floor)

    idle = free._copy()
    for index in free.free:
        if free.fixed(index, sympy.Integer(0)).error() <= limit():
            idle = idle.fixed(index, sympy.Integer(0))
    if idle.exact and idle.error() <= limit():
        merged = canonical(idle.expression())
        again = free if _is_broken(merged) else Constants(merged, signed, x, y)
        if again.error() <= limit():
            free = again
    while clock is None or not clock.is_over:
        for _, index, value in sorted(_candidates(free, scale), key=lambda c: c[0]):
            other = free.fixed(index, value)
            if other.error() > limit():
                other.refit()
            if other.error() <= limit() and _is_sound(free, other, index, value, scale):
                merged = canonical(other.expression())
                if _is_broken(merged):
                    continue
                again = Constants(merged, signed, x, y)
                fits = again.error() <= max(other.error() * (1 + 1e-9), floor)
                fits = fits and len(again.names) < len(free.names)
                free, accepted = again if fits else other, accepted + 1
                break
            if clock is not None and clock.is_over:
                break
        else:
            break
        if fits and not free.free:
            break
    rounded = free.rounded(limit(), free.deviations())
    simple = simplest(rounded.expression(rounded.digits))
    return simple.xreplace(dict(zip(signed, symbols, strict=True)))


def intervals(
    expression: sympy.Expr, symbols: Sequence[sympy.Symbol], x: np.ndarray, y: np.ndarray
) -> list[tuple[float, float, float]]:
    """The constants that stand in an expression as numbers, each with its 95 % interval.

    Intervals are those of least squares, from which a shown number may differ by rounding.
    """
    constants = Constants(expression, symbols, x, y)
    if not constants.names or not math.isfinite(constants.error()):
        return []
    shown = constants.values.copy()
    constants.refit()
    reach = t.ppf((1 + SURE) / 2, max(len(y) - len(shown), 1)) * constants.deviations()
    return [
        (float(s), float(min(s, v - r)), float(max(s, v + r)))
        for s, v, r in zip(shown, constants.values, reach, strict=True)
    ]


def real(values: np.ndarray) -> np.ndarray:
    """Real parts as floats; NaN where the imaginary part is not rounding."""
    if np.iscomplexobj(values):
        return np.where(np.abs(values.imag) < 1e-9, values.real, np.nan)
    return np.array(values, np.float64)


def _is_broken(expression: sympy.Expr) -> bool:
    return bool(expression.has(sympy.zoo, sympy.oo, -sympy.oo, sympy.nan, sympy.I))


def _is_sound(free: Constants, other: Constants, index: int, value: Any, scale: float) -> bool:
    """Whether pi, e or a root may stand for a constant of data with noise."""
    if value.is_Rational or free.error() < EXACT * scale:
        return True
    held = np.arange(len(free.y)) % HELD == 0
    errors = []
    for choice in (free, other):
        fitted = choice.on(free.x[~held], free.y[~held])
        fitted.refit()
        errors.append(rmse(fitted.predict(free.x[held]), free.y[held]))
    return errors[1] < errors[0]


def _candidates(free: Constants, scale: float) -> list[tuple[float, int, Any]]:
    """(distance, which constant, exact value) of everything worth trying."""
    noisy = free.error() > EXACT * scale
    sigmas = free.deviations() if noisy else np.zeros(len(free.free))
    tries = []
    for index, sigma in zip(free.free, sigmas, strict=True):
        value = float(free.values[index])
        for distance, exact, density in exact_values(value):
            off = abs(float(exact) - value)
            if noisy and exact != 0 and (off > 2 * sigma or 4 * sigma * density > CHANCE):
                continue
            tries.append((distance, index, exact))
    return tries
