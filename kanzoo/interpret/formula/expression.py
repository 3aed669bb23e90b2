"""Formulas: from numbers to constants worth reading, to LaTeX and to a function of arrays.

Axes: N samples, C inputs, O outputs.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np
import sympy
from scipy.optimize import least_squares

from kanzoo.fit.least_squares import rmse
from kanzoo.interpret.formula.library import EdgeFit

GROWTH = 1.02  # factor by which all rounding together may raise the error
EXACT = 1e-4  # error, relative to the data's deviation, below which roots are looked for
NOISE = 1e-6  # error, relative to the data's deviation, below which rounding is free


@dataclass
class Formula:
    """A formula for every output of a network, and how good it is.

    `expressions` are SymPy expressions in `symbols`; `rmse_network` and `rmse_formula` are errors
    against the data (against the network where there are none), `rmse_between` that of the formula
    against the network, `deviation` the standard deviation of the data. `edges` say what every edge
    became: layer, i, o, function, a, b, c, d, r2.
    """

    expressions: list[sympy.Expr]
    symbols: list[sympy.Symbol]
    rmse_network: float = math.nan
    rmse_formula: float = math.nan
    rmse_between: float = math.nan
    deviation: float = math.nan
    edges: list[dict[str, Any]] = field(default_factory=list)

    @property
    def expression(self) -> sympy.Expr:
        """The expression of the only output; `ValueError` where there are several."""
        if len(self.expressions) != 1:
            raise ValueError(f"there are {len(self.expressions)} outputs: see `expressions`")
        return self.expressions[0]

    @property
    def relative_error(self) -> float:
        """`rmse_formula` in standard deviations of the data: below 1 is better than their mean."""
        return self.rmse_formula / self.deviation if self.deviation > 0 else self.rmse_formula

    @property
    def latex(self) -> str:
        """LaTeX of all outputs, one a line."""
        return " \\\\\n".join(sympy.latex(expression) for expression in self.expressions)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Values at x `(N, C)`: `(N,)` for one output, `(N, O)` for several; NaN elsewhere."""
        values = evaluate(self.expressions, self.symbols, np.asarray(x, np.float64))
        return values[:, 0] if len(self.expressions) == 1 else values

    def summary(self) -> dict[str, Any]:
        """Plain values, as a JSON file takes them."""
        return {
            "expression": [str(expression) for expression in self.expressions],
            "latex": self.latex,
            "rmse_network": self.rmse_network,
            "rmse_formula": self.rmse_formula,
            "rmse_between": self.rmse_between,
            "relative_error": self.relative_error,
            "edges": self.edges,
        }

    def __str__(self) -> str:
        text = "; ".join(str(expression) for expression in self.expressions)
        return (
            f"{text}  (RMSE {self.rmse_formula:.3g}, {self.relative_error:.2g} of the data's "
            f"deviation; network {self.rmse_network:.3g}; "
            f"between the two {self.rmse_between:.3g})"
        )


def with_prior(formula: Formula, priors: Sequence[sympy.Expr], deviation: float) -> Formula:
    """The formula of a residue together with what had been taken off, one for every output.

    Errors stay as they are; `deviation` is that of all data.
    """
    names = {symbol.name: symbol for symbol in formula.symbols}
    sums = []
    for expression, prior in zip(formula.expressions, priors, strict=True):
        if expression.is_number and abs(float(expression)) <= NOISE**2 * deviation:
            expression = sympy.Integer(0)  # rounding is no residue
        sums.append(expression + prior.xreplace({s: names[s.name] for s in prior.free_symbols}))
    return replace(formula, expressions=sums, deviation=deviation)


def edge_record(layer: int, i: int, o: int, fit: EdgeFit) -> dict[str, Any]:
    """What an edge became, as plain values."""
    numbers = {"a": fit.a, "b": fit.b, "c": fit.c, "d": fit.d, "r2": fit.r2}
    return {"layer": layer, "i": i, "o": o, "function": fit.function.name, **numbers}


def make_symbols(names: Sequence[str]) -> list[sympy.Symbol]:
    """Real symbols with the names of columns; `ValueError` for names that occur twice."""
    if len(set(names)) != len(names):
        raise ValueError(f"columns must have different names, got {list(names)}")
    return [sympy.Symbol(str(name), real=True) for name in names]


def evaluate(
    expressions: Sequence[sympy.Expr], symbols: Sequence[sympy.Symbol], x: np.ndarray
) -> np.ndarray:
    """Values `(N, O)` of expressions at x `(N, C)`, NaN where they are not real and finite."""
    call = sympy.lambdify([list(symbols)], list(expressions), ["scipy", "numpy"], cse=True)
    with np.errstate(all="ignore"):
        columns = [np.broadcast_to(np.asarray(v), len(x)) for v in call(x.T)]
    values = np.stack([_real(column) for column in columns], axis=1)
    values[~np.isfinite(values)] = np.nan
    return values


def _real(values: np.ndarray) -> np.ndarray:
    if np.iscomplexobj(values):
        return np.where(np.abs(values.imag) < 1e-9, values.real, np.nan)
    return np.array(values, np.float64)


def tidy(
    expression: sympy.Expr, symbols: Sequence[sympy.Symbol], x: np.ndarray, y: np.ndarray
) -> sympy.Expr:
    """The expression with constants that are worth reading, where the error allows it.

    Each constant is tried as zero, a small fraction, a multiple of pi or a root, the nearest first,
    the others being fitted again to y `(N,)` at x `(N, C)`; a change stays if the error grows by
    less than 2 % in all. Constants that remain are rounded to as few digits as the error allows.
    """
    expression = canonical(expression)
    free = _Constants(expression, symbols, x, y)
    scale = float(y.std()) or 1.0
    limit = max(free.error() * GROWTH, NOISE * scale)
    free.refit()
    limit = max(min(limit, free.error() * GROWTH), NOISE * scale)
    while True:
        tries = sorted(free.candidates(), key=lambda c: c[0])
        for _, index, value in tries:
            other = free.fixed(index, value)
            if other.error() > limit:
                other.refit()
            if other.error() <= limit:
                merged = canonical(other.expression())
                again = _Constants(merged, symbols, x, y)
                free = again if again.error() <= limit * (1 + 1e-9) else other
                break
        else:
            break
    rounded = free.rounded(limit)
    result = _simplest(rounded)
    checked = _Constants(result, symbols, x, y)
    return result if checked.error() <= limit * (1 + 1e-6) else rounded


def canonical(expression: sympy.Expr) -> sympy.Expr:
    """Sums multiplied out, numbers in exponents and logarithms taken out, phases reduced."""
    expression = sympy.expand(expression, log=False, power_exp=True, trig=False)
    expression = expression.replace(
        lambda e: isinstance(e, (sympy.sin, sympy.cos)), lambda e: _reduce_phase(e)
    )
    return sympy.expand(sympy.powsimp(expression, combine="exp"), power_exp=False, log=False)


def _reduce_phase(e: Any) -> Any:
    """sin and cos with a numerical phase in [-pi/2, pi/2] and a positive first coefficient."""
    phase, rest = e.args[0].as_independent(*e.free_symbols, as_Add=True)
    if not e.free_symbols or not phase.has(sympy.Float):
        return e
    half_turns = round(float(phase) / math.pi)
    return (-1) ** (half_turns % 2) * e.func(
        rest + sympy.Float(float(phase) - half_turns * math.pi, 17)
    )


def _simplest(expression: sympy.Expr) -> sympy.Expr:
    if sympy.count_ops(expression) > 60:
        return expression
    forms = [expression, sympy.factor_terms(expression)]
    for method in (sympy.simplify, sympy.factor):
        try:
            forms.append(method(expression))
        except Exception:  # whatever the algebra cannot do: the plain form is right too
            continue
    return min(forms, key=lambda form: (sympy.count_ops(form), len(str(form))))


class _Constants:
    """An expression whose numbers are parameters: some fixed to exact values, the rest fitted."""

    def __init__(
        self,
        expression: sympy.Expr,
        symbols: Sequence[sympy.Symbol],
        x: np.ndarray,
        y: np.ndarray,
    ) -> None:
        self.symbols, self.x, self.y = symbols, x, y
        floats = (e for e in sympy.preorder_traversal(expression) if isinstance(e, sympy.Float))
        names = {e: sympy.Symbol(f"_k{k}", real=True) for k, e in enumerate(dict.fromkeys(floats))}
        self.template = expression.xreplace(names)
        self.names = list(names.values())
        self.values = [float(value) for value in names]
        self._compile()

    def _compile(self) -> None:
        self._call: Callable = sympy.lambdify(
            [list(self.symbols), list(self.names)], self.template, "numpy", cse=True
        )
        self._error: float | None = None

    def _residual(self, values: Sequence[float]) -> np.ndarray:
        with np.errstate(all="ignore"):
            out = _real(np.broadcast_to(np.asarray(self._call(self.x.T, values)), len(self.x)))
        return np.nan_to_num(out - self.y, nan=1e30, posinf=1e30, neginf=-1e30)

    def error(self) -> float:
        if self._error is None:
            residual = self._residual(self.values).clip(-1e100, 1e100)
            self._error = rmse(residual, 0.0)
        return self._error

    def refit(self) -> None:
        """Least squares over all constants that are still free."""
        if not self.names or len(self.y) < len(self.names) or self.error() > 1e20:
            return
        before = self.error()
        result = least_squares(
            self._residual,
            self.values,
            method="lm",
            x_scale="jac",
            max_nfev=20 * len(self.names),
            xtol=1e-15,
            ftol=1e-15,
            gtol=1e-15,
        )
        if math.sqrt(2 * result.cost / len(self.y)) < before:
            self.values = [float(v) for v in result.x]
            self._error = None

    def candidates(self) -> list[tuple[float, int, Any]]:
        """(distance, which constant, exact value) of everything worth trying."""
        return [
            (distance, index, exact)
            for index, value in enumerate(self.values)
            for distance, exact in _exact_values(value, self.error() < EXACT * float(self.y.std()))
        ]

    def fixed(self, index: int, value: Any) -> "_Constants":
        other = copy.copy(self)
        other.template = self.template.subs(self.names[index], value)
        other.names = [n for k, n in enumerate(self.names) if k != index]
        other.values = [v for k, v in enumerate(self.values) if k != index]
        other._compile()
        return other

    def expression(self, digits: int = 17) -> sympy.Expr:
        numbers = [sympy.Float(f"{value:.{digits}g}") for value in self.values]
        return self.template.subs(dict(zip(self.names, numbers, strict=True)))

    def rounded(self, limit: float) -> sympy.Expr:
        """With the fewest digits that keep the error."""
        for digits in range(3, 17):
            values = [float(f"{value:.{digits}g}") for value in self.values]
            residual = self._residual(values).clip(-1e100, 1e100)
            if rmse(residual, 0.0) <= limit:
                return self.expression(digits)
        return self.expression()


def _exact_values(value: float, roots: bool = True) -> list[tuple[float, Any]]:
    """Simple numbers near a value with their distance, penalised by how complicated they are."""
    choices: list[tuple[float, Any]] = []
    if abs(value) < 0.05:
        choices.append((abs(value), sympy.Integer(0)))
    if abs(value) < 1e-9:
        return choices
    for unit, bound in ((sympy.Integer(1), 12), (sympy.pi, 8), (1 / sympy.pi, 4), (sympy.pi**2, 2)):
        ratio = value / float(unit)
        for denominator in range(1, bound + 1):
            nearest = round(ratio * denominator)
            if nearest and math.gcd(nearest, denominator) == 1:
                exact = sympy.Rational(nearest, denominator) * unit
                distance = abs(float(exact) / value - 1)
                if distance < 0.02 / denominator:
                    choices.append((distance + 1e-9 * denominator, exact))
    # Where the fit is not exact, roots are as good as any number: they would tell nothing.
    for unit in (sympy.Integer(1), sympy.pi, 1 / sympy.pi) if roots else ():
        square = Fraction(value * value / float(unit)).limit_denominator(6)
        if square and square.numerator <= 30:
            root = sympy.sqrt(sympy.Rational(square.numerator, square.denominator) * unit)
            root = root if value > 0 else -root
            distance = abs(float(root) / value - 1)
            if distance < 1e-3:
                choices.append((distance + 2e-8, root))
    return choices
