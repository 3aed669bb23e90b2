"""Simple numbers near others, and expressions in a form whose constants are worth reading."""

import math
from fractions import Fraction
from typing import Any

import sympy


def exact_values(value: float) -> list[tuple[float, Any, float]]:
    """Simple numbers near a value: distance, number, and how many as simple there are in 1."""
    choices: list[tuple[float, Any, float]] = []
    if abs(value) < 0.05:
        choices.append((abs(value), sympy.Integer(0), 0.0))
    if abs(value) < 1e-9:
        return choices
    units: tuple[tuple[Any, int, int], ...] = (
        (sympy.Integer(1), 12, 0), (sympy.pi, 8, 3), (1 / sympy.pi, 4, 5), (sympy.pi**2, 2, 5),
        (sympy.E, 2, 5),
    )  # fmt: skip
    for unit, bound, odd in units:
        ratio = value / float(unit)
        for denominator in range(1, bound + 1):
            nearest = round(ratio * denominator)
            if not nearest or math.gcd(nearest, denominator) != 1:
                continue
            exact = sympy.Rational(nearest, denominator) * unit
            distance = abs(float(exact) / value - 1)
            if distance < 0.02 / denominator and (unit != sympy.E or abs(nearest) <= 4):
                density = denominator * (denominator + odd) / float(unit)
                choices.append((distance + 1e-9 * (denominator + odd), exact, density))
    for unit in (sympy.Integer(1), sympy.pi, 1 / sympy.pi):
        square = Fraction(value * value / float(unit)).limit_denominator(6)
        if square and square.numerator <= 30:
            root = sympy.sqrt(sympy.Rational(square.numerator, square.denominator) * unit)
            root = root if value > 0 else -root
            distance = abs(float(root) / value - 1)
            if distance < 1e-3:
                choices.append((distance + 2e-8, root, 100.0 * abs(value)))
    return choices


def canonical(expression: sympy.Expr) -> sympy.Expr:
    """Sums multiplied out, numbers in exponents and logarithms taken out, phases reduced."""
    expression = sympy.expand(expression, log=False, power_exp=True, trig=False)
    expression = expression.replace(
        lambda e: isinstance(e, (sympy.sin, sympy.cos)), lambda e: _reduce_phase(e)
    ).replace(_is_log_of_exp, lambda e: e.args[0].args[0])
    return sympy.expand(sympy.powsimp(expression, combine="exp"), power_exp=False, log=False)


def _is_log_of_exp(e: Any) -> bool:
    return isinstance(e, sympy.log) and isinstance(e.args[0], sympy.exp)


def _reduce_phase(e: Any) -> Any:
    """sin and cos with a numerical phase in [-pi/2, pi/2] and a positive first coefficient."""
    phase, rest = e.args[0].as_independent(*e.free_symbols, as_Add=True)
    if not e.free_symbols or not phase.has(sympy.Float):
        return e
    half_periods = round(float(phase) / math.pi)
    return (-1) ** (half_periods % 2) * e.func(
        rest + sympy.Float(float(phase) - half_periods * math.pi, 17)
    )


def simplest(expression: sympy.Expr) -> sympy.Expr:
    """The shortest of a few equal forms."""
    if sympy.count_ops(expression) > 60:
        return expression
    forms = [expression, sympy.factor_terms(expression)]
    for method in (sympy.simplify, sympy.factor):
        try:
            forms.append(method(expression))
        except Exception:  # whatever the algebra cannot do: the plain form is right too
            continue
    return min(forms, key=lambda form: (sympy.count_ops(form), len(str(form))))
