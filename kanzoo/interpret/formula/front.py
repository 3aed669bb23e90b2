"""Formulas of one output, by error and complexity: fitted on most samples, judged on the rest.

Axes: N samples, C columns.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import sympy

from kanzoo.interpret.formula.clock import Clock
from kanzoo.interpret.formula.constants import Constants
from kanzoo.interpret.formula.residual import addends_of, is_structured

log = logging.getLogger("kanzoo")

EXACT = 1e-8  # error, in deviations, that counts as none
NOISY = 1e-3  # error, in deviations, from which data count as noisy
HELD_OUT = 0.25
MAX_NODES = 400  # of an expression that is looked at
NATS = 1.5  # that a node of an expression takes to be written down
SETTLED = 20  # complexity up to which a formula that is as good as a smooth fit ends the search
CONSTANTS = 3  # number of them up to which it does so, too
DOUBTFUL = 4.0  # standard errors from zero below which a constant or a term may be left out
SIGMAS = 1.0  # standard errors that a simpler formula may predict worse than the best


@dataclass(frozen=True)
class Entry:
    """An expression with fitted constants, and its squared errors on held-out samples."""

    expression: sympy.Expr
    complexity: int
    error: float
    squares: np.ndarray = field(repr=False)


class Front:
    """The formulas that were tried for y `(N,)` at x `(N, C)`.

    Constants are fitted on most samples, errors, in deviations of y, are those on the others.
    """

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        symbols: Sequence[sympy.Symbol],
        clock: Clock,
        seed: int = 0,
    ) -> None:
        self.x, self.y, self.symbols, self.clock = x, y, list(symbols), clock
        order = np.random.default_rng(seed).permutation(len(y))
        held = int(HELD_OUT * len(y)) if len(y) >= 40 else 0
        self.train = order[held:]
        self.held = order[:held] if held else order
        self.scale = float(y.std()) or abs(float(y.mean())) or 1.0
        self.entries: list[Entry] = []
        self._seen: set[str] = set()
        is_flag = ((x == 0) | (x == 1)).all(0)
        self.flags = {symbol for symbol, yes in zip(symbols, is_flag, strict=True) if yes}
        self.add(sympy.Float(float(y.mean()), 17))

    @property
    def is_exact(self) -> bool:
        """Whether a formula without error is among them."""
        return any(entry.error < EXACT for entry in self.entries)

    def is_settled(self, smooth_error: float) -> bool:
        """Whether a simple formula predicts noisy data as well as a smooth fit does."""
        if smooth_error < NOISY:
            return False
        chosen = self.choose()
        chance = 1 + 1 / math.sqrt(len(self.held))
        free = len(chosen.expression.atoms(sympy.Float))
        is_simple = chosen.complexity <= SETTLED or free <= CONSTANTS
        if not (is_simple and chosen.error <= chance * smooth_error):
            return False
        predicted = Constants(chosen.expression, self.symbols, self.x, self.y).predict(self.x)
        residual = self.y - predicted
        if not np.isfinite(residual).all():
            return False
        addends = addends_of(chosen.expression, self.symbols, self.x)
        return not is_structured(self.x, residual, addends)

    @property
    def least(self) -> float:
        """The smallest error so far."""
        return min((entry.error for entry in self.entries), default=math.inf)

    def add(self, expression: sympy.Expr, *, polish: bool = True) -> float:
        """Take up an expression; returns its error, infinite for what is no formula of the data."""
        expression = self._on_flags(expression)
        size = sum(1 for _ in sympy.preorder_traversal(expression))
        if size > MAX_NODES or expression.has(sympy.zoo, sympy.oo, sympy.nan, sympy.I):
            return math.inf
        try:
            constants = Constants(expression, self.symbols, self.x[self.train], self.y[self.train])
            if not math.isfinite(constants.error()):
                return math.inf
            if polish and constants.error() > EXACT * self.scale / 100:
                constants.refit(differences=True)
            held = self.x[self.held]
            squares = np.square((constants.predict(held) - self.y[self.held]) / self.scale)
        except (ArithmeticError, TypeError, NameError, KeyError, AttributeError, SyntaxError):
            return math.inf  # what SymPy or NumPy cannot work out is no formula
        error = float(np.sqrt(squares.mean()))
        if not math.isfinite(error):
            return math.inf
        fitted = constants.expression()
        shown = str(sympy.N(fitted, 6)) if constants.names else str(fitted)
        if shown not in self._seen:
            self._seen.add(shown)
            entry = Entry(fitted, complexity(fitted), error, squares)
            if error < 0.98 * self.least:
                self.clock.best(f"best so far {fitted}, error {error:.2g}")
                log.debug("error %.3g: %s", error, fitted)
            self.entries.append(entry)
        return error

    def shorten(self, expression: sympy.Expr) -> None:
        """Take up an expression without constants that noisy data leave open, one after another."""
        while True:
            constants = Constants(expression, self.symbols, self.x[self.train], self.y[self.train])
            constants.refit(differences=True)
            if len(constants.names) < 2 or not math.isfinite(constants.error()):
                return
            ratios = np.abs(constants.values) / np.maximum(constants.deviations(), 1e-300)
            least = int(ratios.argmin())
            if ratios[least] > DOUBTFUL:
                return
            expression = constants.fixed(least, sympy.Integer(0)).expression()
            if not math.isfinite(self.add(expression)):
                return

    def _on_flags(self, node: sympy.Expr) -> sympy.Expr:
        """The expression in which functions of one column of 0 and 1 are the lines they equal."""
        known = node.free_symbols
        if not known & self.flags:
            return node
        if len(known) == 1:
            (symbol,) = known
            zero, one = node.subs(symbol, 0), node.subs(symbol, 1)
            if not (zero.is_finite and one.is_finite):
                return node
            pair = (v if v.is_Rational else v.evalf(17) for v in (zero, one - zero))
            return sympy.Add(*(v * s for v, s in zip(pair, (sympy.S.One, symbol), strict=True)))
        return node.func(*map(self._on_flags, node.args))

    def add_linear(self) -> None:
        """Take up the linear formula of all columns: the least that can be said."""
        design = np.column_stack([self.x, np.ones(len(self.x))])
        numbers = [sympy.Float(v, 17) for v in np.linalg.lstsq(design, self.y)[0]]
        terms = zip(numbers, [*self.symbols, sympy.Integer(1)], strict=True)
        self.add(sympy.Add(*(number * term for number, term in terms)))

    def pareto(self) -> list[Entry]:
        """The entries that are better than all simpler ones, the simplest first."""
        result: list[Entry] = []
        for entry in sorted(self.entries, key=lambda e: (e.complexity, e.error)):
            if not result or entry.error < result[-1].error * 0.999:
                result.append(entry)
        return result

    def choose(self) -> Entry:
        """The simplest entry that predicts held-out samples as well as the best, within chance.

        The best is that with the shortest description of data and formula (MDL).
        """
        front = self.pareto()
        count = len(self.y)
        best = min(front, key=lambda e: count * math.log(max(e.error, EXACT)) + NATS * e.complexity)
        for entry in front:
            if entry.error < EXACT:
                return entry
            difference = entry.squares - best.squares
            chance = float(difference.std()) / math.sqrt(len(difference))
            if difference.mean() <= SIGMAS * chance and entry.error < 1.1 * best.error:
                return entry
        return best


def complexity(expression: sympy.Expr) -> int:
    """Nodes of an expression, free constants counted twice."""
    total = 0
    for node in sympy.preorder_traversal(expression):
        total += 2 if isinstance(node, sympy.Float) else 1
    return total
