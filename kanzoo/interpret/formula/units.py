"""Dimensional analysis: units of columns leave fewer columns without units (Buckingham).

Axes: N samples, C columns, D base dimensions.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import sympy

from kanzoo.checks import check_name
from kanzoo.interpret.formula.problem import Problem
from kanzoo.interpret.formula.terms import Powers, monomial, monomial_symbol

TARGET = "y"  # the name of the target's unit


def dimensions(units: Sequence[str]) -> np.ndarray:
    """Powers of the base dimensions, `(D, C)`, of units as text, such as "kg*m/s**2".

    Needs pint. Raises `ValueError` for units that it does not know.
    """
    try:
        import pint
    except ImportError:
        raise ValueError("units need the library pint: pip install kanzoo[units]") from None
    registry: Any = pint.UnitRegistry()
    dimensions = []
    for unit in units:
        try:
            dimensions.append(dict(registry.Unit(unit or "dimensionless").dimensionality))
        except Exception as error:  # pint raises errors of its tokenizer and parser as well
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"unit {unit!r} is not known to pint: {reason}") from None
    bases = sorted({str(base) for powers in dimensions for base in powers})
    rows = [[_fraction(powers.get(base, 0)) for powers in dimensions] for base in bases]
    return np.array(rows, object).reshape(len(bases), len(units))


def check_units(units: Mapping[str, str], names: Sequence[str]) -> None:
    """Raise `ValueError` for units of what is no column, and for columns without any."""
    for name in units:
        check_name("column", str(name), [*names, TARGET])
    missing = [name for name in names if name not in units]
    if missing:
        raise ValueError(
            f"units are missing for {missing[0]!r}: write '' for numbers without a unit"
        )


def dimensionless(
    problem: Problem, units: Mapping[str, str], names: Sequence[str]
) -> Problem | None:
    """y as a product of powers times a function of the columns' dimensionless groups.

    None where there is nothing to gain: no column has a unit, or columns that change their sign
    would have to be divided by. Raises `ValueError` where no formula of these columns can have the
    target's unit; without a unit of the target it is taken to have none of its own.
    """
    check_units(units, names)
    table = dimensions([*(units[name] for name in names), units.get(TARGET, "")])
    matrix = sympy.Matrix(table[:, :-1]) if len(table) else sympy.zeros(1, len(names))
    if matrix.rank() == 0:
        return None
    factor: Powers = (Fraction(0),) * len(names)
    if TARGET in units:
        target = sympy.Matrix(table[:, -1:])
        solution = _solution(matrix, target)
        if solution is None:
            raise ValueError(
                f"no product of powers of the columns has the unit {units[TARGET]!r} of the target"
            )
        factor = solution
    groups = [_integral(vector) for vector in matrix.nullspace()]
    with np.errstate(all="ignore"):
        scale = monomial(problem.x, factor)
        x = np.column_stack([monomial(problem.x, g) for g in groups] or [np.ones(len(scale))])
        y = problem.y / scale
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return None
    columns = tuple(monomial_symbol(problem.columns, g) for g in groups) or (sympy.Integer(1),)
    symbol, outer = monomial_symbol(problem.columns, factor), problem.invert
    return Problem(x, y, columns, lambda e: outer(symbol * e))


def _fraction(power: Any) -> sympy.Rational:
    near = Fraction(power).limit_denominator(12)
    return sympy.Rational(near.numerator, near.denominator)


def _solution(matrix: sympy.Matrix, target: sympy.Matrix) -> Powers | None:
    """Powers of few columns that have the target's dimension."""
    free = sympy.symbols(f"p:{matrix.shape[1]}")
    try:
        solutions = sympy.linsolve((matrix, target), *free)
    except ValueError:
        return None
    if not solutions:
        return None
    values = next(iter(solutions))
    return tuple(Fraction(str(v.subs(dict.fromkeys(free, 0)))) for v in values)


def _integral(vector: sympy.Matrix) -> Powers:
    """A vector of the null space with whole numbers that have no common divisor."""
    common = sympy.ilcm(*(v.q for v in vector))
    numbers = [int(v * common) for v in vector]
    divisor = int(sympy.igcd(*numbers)) or 1
    return tuple(Fraction(n, divisor) for n in numbers)
