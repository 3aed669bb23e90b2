"""How surely data say a formula: in how many bootstrap samples of them it is found again.

Axes: N samples, C columns, O outputs.
"""

from dataclasses import dataclass

import numpy as np
import sympy

from kanzoo.fit.stack import StackOptions
from kanzoo.interpret.formula.clock import Clock
from kanzoo.interpret.formula.expression import Formula
from kanzoo.interpret.formula.output import OutputSearch


@dataclass(frozen=True)
class Stability:
    """Of so many samples, those in which each output's formula, or its variables, came again."""

    samples: int
    found: list[int]
    same_variables: list[int]

    def __str__(self) -> str:
        pairs = zip(self.found, self.same_variables, strict=True)
        return "; ".join(
            f"found in {found} of {self.samples}, its variables in {same} of {self.samples}"
            for found, same in pairs
        )


def stability(
    formula: Formula,
    x: np.ndarray,
    y: np.ndarray,
    *,
    samples: int = 10,
    time_limit: float | None = 180.0,
    seed: int = 0,
) -> Stability:
    """Search for the formula again in bootstrap samples of x `(N, C)` and y `(N,)` or `(N, O)`.

    Formulas are the same if they differ in numbers only. Networks are not tried. The time is shared
    by all samples; ValueError for another number of columns than the formula has.
    """
    if x.shape[1] != len(formula.symbols):
        raise ValueError(f"x must have {len(formula.symbols)} columns, got {x.shape[1]}")
    y = y.reshape(len(y), -1)
    random = np.random.default_rng(seed)
    names = formula.names or [symbol.name for symbol in formula.symbols]
    found, same = [0] * y.shape[1], [0] * y.shape[1]
    with Clock(time_limit) as clock:
        for sample in range(samples):
            rows = random.integers(0, len(x), len(x))
            for k in range(y.shape[1]):
                share = clock.part((samples - sample) * y.shape[1] - k)
                search = OutputSearch(
                    x[rows], y[rows, k], formula.symbols, names, StackOptions(), share
                )
                search.run(networks=False)
                again, first = search.front.choose().expression, formula.expressions[k]
                found[k] += skeleton(again) == skeleton(first)
                same[k] += again.free_symbols == first.free_symbols
    return Stability(samples, found, same)


def skeleton(expression: sympy.Expr) -> sympy.Expr:
    """The expression without its numbers: sums multiplied out, factors and summands left out."""
    expression = sympy.expand(sympy.nsimplify(expression, rational=True))
    one = {number: sympy.Integer(1) for number in expression.atoms(sympy.NumberSymbol)}
    terms = sympy.Add.make_args(expression.xreplace(one))
    kept = {term.as_coeff_Mul()[1] for term in terms}
    return sympy.Add(*(term for term in kept if term.free_symbols))
