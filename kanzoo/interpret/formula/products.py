"""Products of powers of columns and few functions that equal given values: sums of logarithms.

Axes: N samples, C columns, F functions.
"""

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

import numpy as np
import sympy
from scipy.optimize import minimize_scalar

from kanzoo.interpret.formula.problem import Problem
from kanzoo.interpret.formula.terms import (
    DRESSES,
    FUNCTIONS,
    Argument,
    arguments,
    monomial_symbol,
)

NEAR = 0.04  # distance of an exponent from a simple fraction
SIZES = (0.1, 0.3, 1.0, 2.0, 4.0)  # of an argument that has a scale, at its median
TUNED = 30  # arguments whose scale is fitted
KEPT = 3  # functions of which the best are tried as a factor


def products(problem: Problem) -> Iterator[sympy.Expr]:
    """c x_1^a x_2^b .. f(argument)^k for y, with one function at most, and exponents as they come.

    The logarithm of |y| is a sum of those of its factors, and so are its exponents linear. Rows are
    weighted by |y|, as an error of y weighs on its logarithm.
    """
    x, y = problem.x, problem.y
    good = (np.abs(x) > 0).all(1) & (np.abs(y) > 1e-9 * np.abs(y).max())
    if good.sum() < max(20, 0.9 * len(y)):
        return
    x, y = x[good], y[good]
    weight = np.minimum(np.abs(y), np.median(np.abs(y)) * 3)
    logs = np.column_stack([np.ones(len(y)), np.log(np.abs(x))])
    target = np.log(np.abs(y)) * weight
    basis = np.linalg.qr(logs * weight[:, None])[0]
    left = target - basis @ (basis.T @ target)
    plain = _product(problem, x, y, logs, weight, None)
    if plain is not None:
        yield plain
    if np.linalg.norm(left) < 1e-9 * np.linalg.norm(target):
        return
    ranked = []
    for argument in arguments(x):
        size = float(np.median(np.abs(argument.values(x)))) or 1.0
        for factor in (1.0, *(s / size for s in SIZES)):
            scaled = replace(argument, factor=factor)
            for name in DRESSES if factor != 1 else (*DRESSES, "exp"):
                ranked.append((_gain(name, scaled, x, weight, basis, left), name, scaled))
    ranked = sorted(ranked, key=lambda entry: -entry[0])
    plain_ones = [entry for entry in ranked if entry[2].factor == 1.0][:KEPT]
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
    for _, name, argument in [*plain_ones, *sorted(tuned, key=lambda entry: -entry[0])[:KEPT]]:
        candidate = _product(problem, x, y, logs, weight, (name, argument))
        if candidate is not None:
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
        t = argument.values(x)
        values = t if name == "exp" else np.log(np.abs(FUNCTIONS[name][0](t)))
        if not np.isfinite(values).all():
            return 0.0
        values = values * weight
        for _ in range(2):
            values = values - basis @ (basis.T @ values)
        length = float(values @ values)
        if not length > 1e-12 * float(weight @ weight):
            return 0.0
        return float(values @ left) ** 2 / length / float(left @ left)


def _product(
    problem: Problem,
    x: np.ndarray,
    y: np.ndarray,
    logs: np.ndarray,
    weight: np.ndarray,
    factor: tuple[str, Argument] | None,
) -> sympy.Expr | None:
    design, symbols = logs, list(problem.columns)
    values = list(x.T)
    if factor is not None:
        name, argument = factor
        t = np.clip(argument.values(x), -700, 700) if factor[0] == "exp" else argument.values(x)
        inner = t if name == "exp" else np.log(np.abs(FUNCTIONS[name][0](t)))
        design = np.column_stack([logs, inner])
        symbol = argument.symbol(problem.columns)
        symbols.append(sympy.exp(symbol) if name == "exp" else FUNCTIONS[name][1](symbol))
        values.append(np.exp(t) if name == "exp" else FUNCTIONS[name][0](t))
    solution = np.linalg.lstsq(design * weight[:, None], np.log(np.abs(y)) * weight, rcond=1e-13)[0]
    powers: list[Fraction] = []
    for k, value in enumerate(solution[1:]):
        near: Fraction | None
        if factor is not None and factor[0] == "exp" and k == len(solution) - 2:
            near = Fraction(value).limit_denominator(100000)
        else:
            near = simple(value)
        if near is None or (near.denominator > 1 and k < x.shape[1] and x[:, k].min() <= 0):
            return None
        powers.append(near)
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
