"""Formulas: expressions with what is known about them, as text, code and functions of arrays.

Axes: N samples, C inputs, O outputs.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import sympy

from kanzoo.interpret.formula.code import CODES, write_code
from kanzoo.interpret.formula.constants import NOISE, real
from kanzoo.interpret.formula.library import EdgeFit
from kanzoo.interpret.formula.names import legend, make_symbols

__all__ = ["Formula", "edge_record", "evaluate", "make_symbols", "with_prior"]


@dataclass
class Formula:
    """A formula for every output, and how good it is.

    `expressions` are SymPy expressions in `symbols`, which stand for the columns `names`. `errors`
    and `deviations` are the root mean square error and the standard deviation of every output, in
    the units of the data (of the network's outputs where there are no data); `rmse_network` is the
    error of a network, `rmse_between` that of the formula against it. `intervals` hold, for every
    output, the constants that stand as numbers in the expression, each with its 95 % interval;
    `noise` estimates the noise of every output, in deviations. `findings` say what was seen in the
    data, and `doubts` why the formula may not be the right one. `edges` say what every edge of a
    network became: layer, i, o, function, a, b, c, d, r2.
    """

    expressions: list[sympy.Expr]
    symbols: list[sympy.Symbol]
    errors: list[float] = field(default_factory=list)
    deviations: list[float] = field(default_factory=list)
    rmse_network: float = math.nan
    rmse_between: float = math.nan
    edges: list[dict[str, Any]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    intervals: list[list[tuple[float, float, float]]] = field(default_factory=list)
    noise: list[float] = field(default_factory=list)
    findings: list[list[str]] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)

    @property
    def expression(self) -> sympy.Expr:
        """The expression of the only output; `ValueError` where there are several."""
        if len(self.expressions) != 1:
            raise ValueError(f"there are {len(self.expressions)} outputs: see `expressions`")
        return self.expressions[0]

    @property
    def rmse_formula(self) -> float:
        """The root mean square error over all outputs."""
        return math.sqrt(sum(e * e for e in self.errors) / max(len(self.errors), 1))

    @property
    def relative_errors(self) -> list[float]:
        """The error of every output in its own deviations: below 1 is better than the mean."""
        pairs = zip(self.errors, self.deviations, strict=True)
        return [error / deviation if deviation > 0 else error for error, deviation in pairs]

    @property
    def relative_error(self) -> float:
        """The largest of `relative_errors`."""
        return max(self.relative_errors, default=math.nan)

    @property
    def legend(self) -> dict[str, str]:
        """Symbols that are not called as their columns are, and the names of these."""
        return legend(self.names, self.symbols) if self.names else {}

    @property
    def latex(self) -> str:
        """LaTeX of all outputs, one a line."""
        return " \\\\\n".join(sympy.latex(expression) for expression in self.expressions)

    def code(self, language: str) -> str:
        """The formula as "latex", "sympy", "python" (of NumPy arrays) or "c"."""
        return write_code(language, self.expressions, self.symbols, self.legend)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Values at x `(N, C)`: `(N,)` for one output, `(N, O)` for several.

        NaN where the formula is not defined, with a warning that says for how many rows.
        """
        values = evaluate(self.expressions, self.symbols, np.asarray(x, np.float64))
        undefined = int(np.isnan(values).any(1).sum())
        if undefined:
            warnings.warn(
                f"the formula is not defined for {undefined} of {len(values)} rows: NaN there",
                RuntimeWarning,
                stacklevel=2,
            )
        return values[:, 0] if len(self.expressions) == 1 else values

    def summary(self) -> dict[str, Any]:
        """Plain values, as a JSON file takes them."""
        return {
            "expression": [str(expression) for expression in self.expressions],
            "latex": self.latex,
            "legend": self.legend,
            "code": {language: self.code(language) for language in CODES},
            "rmse_network": self.rmse_network,
            "rmse_formula": self.rmse_formula,
            "rmse_between": self.rmse_between,
            "relative_error": self.relative_error,
            "relative_errors": self.relative_errors,
            "noise": self.noise,
            "intervals": [[list(i) for i in output] for output in self.intervals],
            "findings": self.findings,
            "doubts": self.doubts,
            "edges": self.edges,
        }

    def __str__(self) -> str:
        text = "; ".join(str(expression) for expression in self.expressions)
        text += (
            f"  (RMSE {self.rmse_formula:.3g}, {self.relative_error:.2g} of the data's deviation"
        )
        if math.isfinite(self.rmse_network):
            text += f"; network {self.rmse_network:.3g}; between the two {self.rmse_between:.3g}"
        text += ")"
        if self.legend:
            text += "\nwhere " + ", ".join(f"{s} is {n!r}" for s, n in self.legend.items())
        for noise, constants in zip(self.noise, self.intervals, strict=False):
            if noise > NOISE:
                text += f"\nnoise about {noise:.2g} of the deviation"
                ranges = [f"{v:.6g} in [{a:.4g}, {b:.4g}]" for v, a, b in constants]
                text += f"; constants, 95 %: {', '.join(ranges)}" if ranges else ""
        for doubt in self.doubts:
            text += f"\n{doubt}"
        return text


def with_prior(
    formula: Formula, priors: Sequence[sympy.Expr], deviations: Sequence[float]
) -> Formula:
    """The formula of a residue together with what had been taken off, one for every output.

    Errors stay as they are; `deviations` are those of all data.
    """
    known = dict(
        zip(formula.names or [s.name for s in formula.symbols], formula.symbols, strict=True)
    )
    sums = []
    for expression, prior, deviation in zip(formula.expressions, priors, deviations, strict=True):
        if expression.is_number and abs(float(expression)) <= NOISE**2 * deviation:
            expression = sympy.Integer(0)  # rounding is no residue
        sums.append(expression + prior.xreplace({s: known[s.name] for s in prior.free_symbols}))
    return replace(formula, expressions=sums, deviations=list(deviations))


def edge_record(layer: int, i: int, o: int, fit: EdgeFit) -> dict[str, Any]:
    """What an edge became, as plain values."""
    numbers = {"a": fit.a, "b": fit.b, "c": fit.c, "d": fit.d, "r2": fit.r2}
    return {"layer": layer, "i": i, "o": o, "function": fit.function.name, **numbers}


def evaluate(
    expressions: Sequence[sympy.Expr], symbols: Sequence[sympy.Symbol], x: np.ndarray
) -> np.ndarray:
    """Values `(N, O)` of expressions at x `(N, C)`, NaN where they are not real and finite."""
    call = _compiled(tuple(expressions), tuple(symbols))
    with np.errstate(all="ignore"):
        outputs = [np.broadcast_to(np.asarray(v), len(x)) for v in call(x.T)]
    values = np.stack([real(output) for output in outputs], axis=1)
    values[~np.isfinite(values)] = np.nan
    return values


@lru_cache(maxsize=64)
def _compiled(expressions: tuple[sympy.Expr, ...], symbols: tuple[sympy.Symbol, ...]) -> Any:
    columns = [sympy.Dummy(f"v{k}", real=True) for k in range(len(symbols))]
    renamed = dict(zip(symbols, columns, strict=True))  # no name may be that of a function
    chosen = [expression.xreplace(renamed) for expression in expressions]
    return sympy.lambdify([columns], chosen, ["scipy", "numpy"], cse=True)
