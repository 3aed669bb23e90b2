"""Products of powers of columns and few functions that equal given values: sums of logarithms.

Axes: N samples, C columns, F functions.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import sympy
from scipy.optimize import least_squares, minimize_scalar

from kanzoo.interpret.formula.problem import Problem
from kanzoo.interpret.formula.terms import (
    DRESSES,
    FUNCTIONS,
    Argument,
    arguments,
    monomial_symbol,
)

NEAR = 0.04  # distance of an exponent from a simple fraction
FAR, SIGMAS = 0.3, 3.0  # with noise at most so far, and so many standard errors
LARGEST = 6  # exponent with noise
NOTHING = -300.0  # logarithm of what is none
SIZES = (0.1, 0.3, 1.0, 2.0, 4.0)  # of an argument that has a scale, at its median
TUNED = 30  # arguments whose scale is fitted
FEWEST = 20  # rows
KEPT, NOISY_KEPT = 3, 10  # functions of which the best are tried as a factor, with noise
STRONG = 0.5  # size of y, in deviations, from which its logarithm is not mostly noise's
PAYS = 10.0  # nats by which a function must describe y with noise better than powers alone
ONE_SIGN = 0.9  # share of strong values from which the others count as of their sign
Factor = tuple[str, Argument]


def products(problem: Problem, *, is_noisy: bool = False) -> Iterator[sympy.Expr]:
    """c x_1^a x_2^b .. f(argument)^k for y, with one function at most, and exponents as they come.

    The logarithm of |y| is a sum of those of its factors, and so are its exponents linear. Rows are
    weighted by |y|, as an error of y weighs on its logarithm. Where y `is_noisy`, functions are
    chosen on its large values, and exponents are those of least squares on all.
    """
    good = (np.abs(problem.x) > 0).all(1) & (np.abs(problem.y) > 1e-9 * np.abs(problem.y).max())
    if good.sum() < max(FEWEST, 0.9 * len(good)):
        return
    x, y = problem.x[good], problem.y[good]
    whole = (x, _sizes(y)) if is_noisy else None
    if is_noisy:
        strong = np.abs(y) > STRONG * y.std()
        x, y = x[strong], y[strong]
        if len(y) < FEWEST:
            return
    weight = np.abs(y) if is_noisy else np.minimum(np.abs(y), np.median(np.abs(y)) * 3)
    logs = _design(x, None)
    target = np.log(np.abs(y)) * weight
    basis = np.linalg.qr(logs * weight[:, None])[0]
    left = target - basis @ (basis.T @ target)
    rows = _Rows(x, y, weight, whole)
    plain = _product(problem, rows, None)
    limit = np.inf
    if plain is not None:
        yield plain
        limit = rows.cost * np.exp(-2 * PAYS / len(problem.y))
    if np.linalg.norm(left) < 1e-9 * np.linalg.norm(target):
        return
    kept, ranked = NOISY_KEPT if is_noisy else KEPT, []
    for argument in arguments(x):
        size = float(np.median(np.abs(argument.values(x)))) or 1.0
        for factor in (1.0, *(s / size for s in SIZES)):
            scaled = replace(argument, factor=factor)
            for name in DRESSES if factor != 1 else (*DRESSES, "exp"):
                ranked.append((_gain(name, scaled, x, weight, basis, left), name, scaled))
    ranked = sorted(ranked, key=lambda entry: -entry[0])
    plain_ones = [entry for entry in ranked if entry[2].factor == 1.0][:kept]
    tuned = []
    starts: dict[tuple[str, object], Argument] = {}  # the best scale of each
    for _, name, argument in ranked:
        if name != "exp":
            starts.setdefault((name, (argument.weights, argument.is_sum)), argument)
    for (name, _), argument in list(starts.items())[:TUNED]:
        result = minimize_scalar(
            lambda t: -_gain(name, _times(argument, t), x, weight, basis, left),  # noqa: B023
            bounds=(-0.9, 0.9),
            method="bounded",
            options={"xatol": 1e-9},
        )
        tuned.append((-float(result.fun), name, _times(argument, float(result.x))))
    for _, name, argument in [*plain_ones, *sorted(tuned, key=lambda entry: -entry[0])[:kept]]:
        candidate = _product(problem, rows, (name, argument))
        if candidate is not None and (whole is None or rows.cost < limit):
            yield candidate


def _times(argument: Argument, exponent: float) -> Argument:
    return replace(argument, factor=argument.factor * float(np.exp(exponent)))


def _gain(
    name: str,
    argument: Argument,
    x: np.ndarray,
    weight: np.ndarray,
    basis: np.ndarray,
    left: np.ndarray,
) -> float:
    """The share of what powers leave of log |y| that the logarithm of a function explains."""
    with np.errstate(all="ignore"):
        values = _log_of(x, (name, argument))
        if not np.isfinite(values).all():
            return 0.0
        values = values * weight
        for _ in range(2):
            values = values - basis @ (basis.T @ values)
        length = float(values @ values)
        if not length > 1e-12 * float(weight @ weight):
            return 0.0
        return float(values @ left) ** 2 / length / float(left @ left)


@dataclass
class _Rows:
    """Samples of a product, and with noise `whole`: all rows with the sizes that y has there.

    `cost` is the sum of squares that the last product with noise leaves of them.
    """

    x: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    whole: tuple[np.ndarray, np.ndarray] | None
    cost: float = np.inf

    def powers(self, factor: Factor | None) -> list[Fraction] | None:
        """The exponents of columns and function, which are simple but for that of exp."""
        design = _design(self.x, factor) * self.weight[:, None]
        target = np.log(np.abs(self.y)) * self.weight
        solution = np.asarray(np.linalg.lstsq(design, target, rcond=1e-13)[0])
        rounded = range(1, len(solution) - (factor is not None and factor[0] == "exp"))
        powers: list[Fraction] = []
        if self.whole is not None:
            return self._noisy_powers(factor, solution, list(rounded))
        for k in range(1, len(solution)):
            near = simple(solution[k]) if k in rounded else _fine(solution[k])
            if near is None:
                return None
            powers.append(near)
        return powers

    def _noisy_powers(
        self, factor: Factor | None, solution: np.ndarray, rounded: list[int]
    ) -> list[Fraction] | None:
        """The same by least squares on all rows: the surest first, the rest fitted again."""
        assert self.whole is not None
        x, sizes = self.whole
        design = _design(x, factor)
        design[~np.isfinite(design)] = NOTHING
        free = list(range(len(solution)))
        if len(x) < len(free):
            return None

        def values(numbers: np.ndarray) -> np.ndarray:
            solution[free] = numbers
            return np.asarray(np.exp((design @ solution).clip(NOTHING, -NOTHING)))

        while True:
            found = least_squares(
                lambda numbers: values(numbers) - sizes,
                solution[free],
                lambda numbers: values(numbers)[:, None] * design[:, free],
                method="lm",
                max_nfev=50,
            )
            solution[free] = found.x
            if not rounded:
                self.cost = 2 * float(found.cost)
                return [simple(v) or _fine(v) for v in solution[1:]]
            normal = found.jac.T @ found.jac
            if not np.isfinite(normal).all():
                return None
            inverse = np.linalg.pinv(normal).diagonal()
            errors = dict(zip(free, np.sqrt(inverse * 2 * found.cost / len(x)), strict=True))
            surest = min(rounded, key=lambda k: errors[k])
            near = simple(solution[surest], float(np.clip(SIGMAS * errors[surest], NEAR, FAR)))
            if near is None or abs(near) > LARGEST:
                return None
            solution[surest] = float(near)
            free.remove(surest)
            rounded.remove(surest)


def _fine(value: float) -> Fraction:
    return Fraction(value).limit_denominator(100000)


def _sizes(y: np.ndarray) -> np.ndarray:
    """y but for its sign; noise around zero keeps its own sign where large values have one."""
    signs = np.sign(y[np.abs(y) > STRONG * y.std()])
    share = float((signs > 0).mean()) if len(signs) else 0.5
    if share >= ONE_SIGN:
        return y
    return -y if share <= 1 - ONE_SIGN else np.abs(y)


def _design(x: np.ndarray, factor: Factor | None) -> np.ndarray:
    """One, the logarithms of columns, and that of a function, `(N, C + 1)` or `(N, C + 2)`."""
    with np.errstate(all="ignore"):
        logs = np.column_stack([np.ones(len(x)), np.log(np.abs(x))])
        return logs if factor is None else np.column_stack([logs, _log_of(x, factor)])


def _log_of(x: np.ndarray, factor: Factor) -> np.ndarray:
    name, argument = factor
    t = argument.values(x)
    return np.asarray(t if name == "exp" else np.log(np.abs(FUNCTIONS[name][0](t))))


def _product(problem: Problem, rows: _Rows, factor: Factor | None) -> sympy.Expr | None:
    x, y = rows.x, rows.y
    symbols, values = list(problem.columns), list(x.T)
    if factor is not None:
        name, argument = factor
        t = np.clip(argument.values(x), -700, 700) if name == "exp" else argument.values(x)
        symbol = argument.symbol(problem.columns)
        symbols.append(sympy.exp(symbol) if name == "exp" else FUNCTIONS[name][1](symbol))
        values.append(np.exp(t) if name == "exp" else FUNCTIONS[name][0](t))
    powers = rows.powers(factor)
    if powers is None or any(
        p.denominator > 1 and column.min() <= 0 for p, column in zip(powers, x.T, strict=False)
    ):
        return None
    with np.errstate(all="ignore"):
        factors = [v ** float(p) for v, p in zip(values, powers, strict=True) if p]
        shape = np.prod([np.ones(len(y)), *factors], axis=0)
    if not np.isfinite(shape).all():
        return None
    constant = float(y @ shape / (shape @ shape))
    if factor is not None and factor[0] == "exp":
        number = sympy.Float(float(powers.pop()), 17)
        symbols[-1] = sympy.exp(number * factor[1].symbol(problem.columns))
        powers.append(Fraction(1))
    return sympy.Float(constant, 17) * monomial_symbol(symbols, tuple(powers))


def simple(value: float, near: float = NEAR) -> Fraction | None:
    """The simple fraction next to an exponent; None where there is none."""
    for denominator in (1, 2, 3, 4):
        fraction = Fraction(round(value * denominator), denominator)
        if abs(float(fraction) - value) <= near / denominator:
            return fraction
    return None
