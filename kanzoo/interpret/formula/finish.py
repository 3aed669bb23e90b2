"""From fronts of formulas to the one that is shown: constants, errors, intervals and doubts.

Axes: N samples, C columns, O outputs.
"""

from collections.abc import Sequence

import numpy as np
import sympy

from kanzoo.fit.least_squares import rmse
from kanzoo.interpret.formula.clock import Clock
from kanzoo.interpret.formula.constants import NOISE, intervals, tidy
from kanzoo.interpret.formula.expression import Formula, evaluate
from kanzoo.interpret.formula.front import NOISY, Front
from kanzoo.interpret.formula.output import OutputSearch
from kanzoo.interpret.formula.residual import addends_of, is_structured

FEW = 3  # samples for every number of a formula, below which it says little
ROWS = 1000  # samples that constants are made simple on
CLEAR = 1.2  # factor from a smooth fit's error above which a formula misses more than noise
RIVALS = 1.01  # factor of its error within which another formula is as good
ALIKE = 0.1  # difference of two formulas, in errors, up to which they say the same
POOR = 0.1  # error of a formula, in deviations, that is said to be large
UNSEEN = 40  # excess of a sum of squares, in variances of the noise, that no test is sure to see
HIDDEN = 0.01  # error of a formula, in deviations, that noise may hide without a word


def finish(
    searches: Sequence[OutputSearch],
    names: Sequence[str],
    symbols: Sequence[sympy.Symbol],
    x: np.ndarray,
    y: np.ndarray,
    network: np.ndarray,
    clock: Clock,
) -> Formula:
    """The chosen formula of every output, verified on all data `(N, C)` and `(N, O)`."""
    rows = np.linspace(0, len(x) - 1, min(len(x), ROWS)).astype(int)
    expressions, ranges, doubts = [], [], []
    for k, search in enumerate(searches):
        chosen = search.front.choose().expression
        clock.show("constants of the formula")
        expression = _tidied(chosen, symbols, x, y[:, k], rows, clock)
        expressions.append(expression)
        ranges.append(intervals(expression, symbols, x[rows], y[rows, k]))
        name = f"output {k}: " if len(searches) > 1 else ""
        numbers = len(expression.atoms(sympy.Number) - {sympy.S.One, sympy.S.NegativeOne})
        if len(y) < FEW * numbers:
            doubts.append(f"{name}{len(y)} samples for {numbers} numbers: others would fit as well")
        error = rmse(evaluate([expression], symbols, x)[:, 0], y[:, k])
        deviation = float(y[:, k].std())
        if deviation > 0 and error > NOISE * deviation:
            doubts += [name + d for d in _doubts(search, expression, x, y[:, k], error / deviation)]
    values = evaluate(expressions, symbols, x)
    errors = [rmse(values[:, k], y[:, k]) for k in range(y.shape[1])]
    deviations = [float(d) for d in y.std(0)]
    return Formula(
        expressions,
        list(symbols),
        errors,
        deviations,
        rmse(network, y),
        rmse(values, network),
        names=[str(name) for name in names],
        intervals=ranges,
        noise=[
            e / d if d > 0 and e > NOISE * d else 0.0
            for e, d in zip(errors, deviations, strict=True)
        ],
        findings=[search.findings for search in searches],
        doubts=doubts,
    )


def formulas_of(front: Front, names: Sequence[str]) -> list[Formula]:
    """The formulas of a front that are better than all simpler ones, with rounded constants."""
    deviation = float(front.y.std())
    return [
        Formula(
            [sympy.N(entry.expression, 6)],
            front.symbols,
            [entry.error * front.scale],
            [deviation],
            names=[str(name) for name in names],
        )
        for entry in front.pareto()
    ]


def _tidied(
    chosen: sympy.Expr,
    symbols: Sequence[sympy.Symbol],
    x: np.ndarray,
    y: np.ndarray,
    rows: np.ndarray,
    clock: Clock,
) -> sympy.Expr:
    """The expression with simple constants, unless that cost it its truth."""
    if not chosen.free_symbols:
        return chosen
    before = rmse(evaluate([chosen], symbols, x)[:, 0], y)
    try:
        tidied = tidy(chosen, symbols, x[rows], y[rows], clock)
    except KeyboardInterrupt:
        return chosen
    after = rmse(evaluate([tidied], symbols, x)[:, 0], y)
    return tidied if after <= max(1.05 * before, 2 * NOISE * float(y.std())) else chosen


def _doubts(
    search: OutputSearch, expression: sympy.Expr, x: np.ndarray, y: np.ndarray, error: float
) -> list[str]:
    """Why a formula with an error, in deviations, may only stand in for the right one."""
    text = f"the best formula misses the data by {error:.2g} of their standard deviation"
    if search.is_stopped:
        return [f"{text}: the search was stopped before all ways were tried"]
    if error > CLEAR * search.smooth_error:
        return [f"{text}, a smooth fit only by {search.smooth_error:.2g}: it is a stand-in"]
    residual = y - evaluate([expression], search.front.symbols, x)[:, 0]
    if not np.isfinite(residual).all():
        return [f"{text}, where it is defined at all"]
    addends = addends_of(expression, search.front.symbols, x)
    if is_structured(x, residual, addends):
        return [f"{text}, and what it misses is not noise: it is a stand-in"]
    if error > POOR:
        return [f"{text}: they are noisy, or no formula that was tried fits them"]
    hidden = error * np.sqrt(UNSEEN / len(x))
    if hidden > HIDDEN:
        return [f"{text}; such noise hides errors of up to {hidden:.1g}: another may be right"]
    rivals = _rivals(search.front) if error > NOISY else 0
    if rivals:
        return [f"{text}; others no longer fit them as well ({rivals}): see formulas_"]
    return []


def _rivals(front: Front) -> int:
    """How many formulas, no longer than the chosen one, fit as well and say something else."""
    chosen = front.choose()
    symbols, x = front.symbols, front.x[front.held]
    values = evaluate([chosen.expression], symbols, x)[:, 0]
    count = 0
    for entry in front.entries:
        if entry is chosen or entry.complexity > chosen.complexity:
            continue
        if entry.error <= RIVALS * chosen.error:
            other = evaluate([entry.expression], symbols, x)[:, 0]
            count += bool(rmse(other, values) > ALIKE * chosen.error * front.scale)
    return count
