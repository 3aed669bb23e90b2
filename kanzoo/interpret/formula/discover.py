"""From data to a formula, each output by itself, under one clock.

Axes: N samples, C columns, O outputs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import sympy

from kanzoo.fit.stack import FittedStack, StackOptions, fit_regression, standardise
from kanzoo.interpret.formula.clock import Clock
from kanzoo.interpret.formula.expression import Formula
from kanzoo.interpret.formula.finish import finish, formulas_of
from kanzoo.interpret.formula.names import make_symbols
from kanzoo.interpret.formula.output import OutputSearch


@dataclass(frozen=True)
class Discovery:
    """A formula, the network that was fitted beside it, and what else was found.

    `fronts` has a list for every output: formulas that are better than all simpler ones.
    """

    formula: Formula
    stack: FittedStack
    fronts: list[list[Formula]] = field(default_factory=list)


def discover(
    x: np.ndarray,
    y: np.ndarray,
    names: Sequence[str],
    options: StackOptions,
    *,
    time_limit: float | None = 180.0,
    floor: Any = 0.0,
    units: Mapping[str, str] | None = None,
) -> Discovery:
    """A formula of the columns `names` of x `(N, C)` for y `(N, O)`, each output by itself.

    Products, quotients and sums of terms are fitted first: to the data as they are, and to what
    their units, symmetries and separable parts leave. Where no formula is exact, or as good as a
    smooth fit of noisy data, networks without and with small hidden layers, or with those of
    `options.hidden`, are fitted, pruned and read. All of it takes `time_limit` seconds; then, as on
    an interrupt, the best so far is taken. An output with a deviation up to `floor` is constant.
    """
    symbols = make_symbols(names)
    varying = np.where(y.std(0) <= floor, y.mean(0), y)
    with Clock(time_limit) as clock:
        searches = _searched(x, varying, symbols, names, options, clock, units=units)
        units_of_y = standardise(y, floor)
        clock.show("a network beside the formula")
        if clock.is_over:
            options = replace(options, restarts=1, grid_sizes=options.grid_sizes[:1], steps=3)
        stack = fit_regression(x, y, options, units_of_y)
        formula = finish(searches, names, symbols, x, y, stack.predict(x), clock)
    return Discovery(formula, stack, [formulas_of(s.front, names) for s in searches])


def nearest(
    x: np.ndarray, y: np.ndarray, names: Sequence[str], *, time_limit: float | None
) -> Formula:
    """A formula of the columns of x `(N, C)` near y `(N, O)`, which a network has said.

    As `discover`, without the ways that fit networks.
    """
    symbols = make_symbols(names)
    with Clock(time_limit) as clock:
        searches = _searched(x, y, symbols, names, StackOptions(), clock, networks=False)
        return finish(searches, names, symbols, x, y, y, clock)


def _searched(
    x: np.ndarray,
    y: np.ndarray,
    symbols: Sequence[sympy.Symbol],
    names: Sequence[str],
    options: StackOptions,
    clock: Clock,
    **ways: Any,
) -> list[OutputSearch]:
    """The searches of all outputs, which share the time; `ways` are those of `run`."""
    searches = []
    for k, values in enumerate(y.T):
        share = clock.part(y.shape[1] - k)
        search = OutputSearch(x, values, symbols, names, options, share)
        search.run(**ways)
        searches.append(search)
    return searches
