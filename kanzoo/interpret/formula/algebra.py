"""Simple numbers near others, and expressions in a form whose constants are worth reading."""

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import sympy

SMALL = 64  # numerator and denominator of the fraction, or of its square, before a power of pi
SAME = 1e-11  # relative distance within which no chance makes a number a power of pi
DIGITS = 13  # digits of a number that no rounding of sums changes
LONG = 60  # operations from which only quick ways to other forms are tried
MAX_OPERATIONS = 300  # of an expression that is written in other forms


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
    return [*choices, *_powers_of_pi(value)]


def _powers_of_pi(value: float) -> Iterator[tuple[float, Any, float]]:
    """A small fraction, or the root of one, times a power of pi, for what is exactly that."""
    for half in (k for k in range(-8, 9) if k):
        ratio = abs(value) / math.pi ** (half / 2)
        for is_root in (False, True):
            fraction = Fraction(ratio**2 if is_root else ratio).limit_denominator(SMALL)
            if not 0 < fraction.numerator <= SMALL:
                continue
            factor: Any = sympy.Rational(fraction.numerator, fraction.denominator)
            exact = (sympy.sqrt(factor) if is_root else factor) * sympy.pi ** sympy.Rational(
                half, 2
            )
            distance = abs(float(exact) / abs(value) - 1)
            if distance < SAME:
                yield distance + 1e-9 * (abs(half) + is_root), exact * (1 if value > 0 else -1), 1e3
                break


def canonical(expression: sympy.Expr) -> sympy.Expr:
    """Sums multiplied out, numbers taken out of powers and joined, phases reduced."""
    expression = expression.replace(_is_power_of_sum, _of_one_scale)
    expression = sympy.expand(expression, log=False, power_exp=True, trig=False)
    expression = expression.replace(
        lambda e: isinstance(e, (sympy.sin, sympy.cos)), lambda e: _reduce_phase(e)
    ).replace(_is_log_of_exp, _exponents_taken_out)
    expression = sympy.expand(sympy.powsimp(expression, combine="exp"), power_exp=False, log=False)
    return expression.replace(_has_several_numbers, _joined)


def _is_power_of_sum(e: Any) -> bool:
    return (
        e.is_Pow
        and e.base.is_Add
        and e.exp.is_Rational
        and not (e.exp.is_Integer and e.exp > 0)
        and any(isinstance(term.as_coeff_Mul()[0], sympy.Float) for term in e.base.args)
    )


def _of_one_scale(e: Any) -> Any:
    """A power of a sum as a number times that of a sum in which a coefficient is 1.

    Otherwise all constants of a quotient could grow together. The coefficient is the one that
    makes the others shortest.
    """
    pairs = [term.as_coeff_Mul() for term in e.base.args]
    numbers = [float(number) for number, _ in pairs]
    if 1 in numbers or not all(math.isfinite(number) for number in numbers):
        return e

    def length(unit: float) -> int:
        return sum(len(f"{number / unit:.7g}") for number in numbers)

    unit = min(numbers, key=length)
    unit = unit if e.exp.is_Integer else abs(unit)
    terms = (
        rest if number == unit else sympy.Float(number / unit, 17) * rest
        for number, (_, rest) in zip(numbers, pairs, strict=True)
    )
    return sympy.Float(unit ** float(e.exp), 17) * sympy.Add(*terms) ** e.exp


def _is_log_of_exp(e: Any) -> bool:
    return isinstance(e, sympy.log) and e.args[0].has(sympy.exp) and not e.args[0].is_Add


def _exponents_taken_out(e: Any) -> Any:
    """log(exp(a) b) as a + log(b)."""
    factors = sympy.Mul.make_args(e.args[0])
    rest = sympy.Mul(*(f for f in factors if not isinstance(f, sympy.exp)))
    exponents = [f.args[0] for f in factors if isinstance(f, sympy.exp)]
    return sympy.Add(sympy.log(rest), *exponents)


def _has_several_numbers(e: Any) -> bool:
    if not (e.is_Mul or e.is_Add):
        return False
    numbers = [a for a in e.args if a.is_number]
    return len(numbers) > 1 and any(a.has(sympy.Float) for a in numbers)


def _joined(e: Any) -> Any:
    """A sum or product with one number in place of several."""
    number = e.func(*(a for a in e.args if a.is_number)).evalf(17)
    return e.func(number, *(a for a in e.args if not a.is_number))


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
    """The shortest of a few equal forms, numbers without the digits that rounding adds."""
    size = sympy.count_ops(expression)
    forms = [expression]
    if size <= MAX_OPERATIONS:
        ways = [sympy.factor_terms, _divided]
        for way in [*ways, sympy.simplify, sympy.factor] if size <= LONG else ways:
            try:
                forms.append(way(expression))
            except Exception:  # whatever the algebra cannot do: the plain form is right too
                continue
    forms = [form.replace(lambda e: isinstance(e, sympy.Float), _shortened) for form in forms]
    return min(forms, key=lambda form: (_length(form), len(str(form))))


def _length(form: sympy.Expr) -> int:
    """Operations; logarithms of powers with variable exponents count as the products they are."""
    powers = [power for log in form.atoms(sympy.log) for power in log.args[0].atoms(sympy.Pow)]
    variable = sum(bool(p.exp.free_symbols) and p.base is not sympy.E for p in powers)
    return int(sympy.count_ops(form)) + 2 * variable


def _divided(expression: sympy.Expr) -> sympy.Expr:
    """A quotient of polynomials as a polynomial and a rest."""
    top, bottom = sympy.fraction(sympy.together(expression))
    is_rational = top.is_polynomial() and bottom.is_polynomial() and bottom.free_symbols
    if not is_rational or expression.has(sympy.Float):
        return expression
    (quotient,), rest = sympy.reduced(top, [bottom])
    return quotient + sympy.factor_terms(rest) / bottom


def _shortened(number: Any) -> Any:
    """A number as it is, unless it is a shorter one but for rounding."""
    short = f"{float(number):.{DIGITS}g}"
    return sympy.Float(short) if len(short) < DIGITS else number
