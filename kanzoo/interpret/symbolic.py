"""From a stack of KAN layers to a formula: edge by edge, the surest first, the rest fitted again.

Axes: N samples, C inputs, O outputs.
"""

import copy
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import sympy
import torch
from torch import Tensor, nn

from kanzoo.interpret.fitting import fit_squares, rmse
from kanzoo.interpret.formula import Formula, edge_record, evaluate, make_symbols, tidy
from kanzoo.interpret.hybrid import HybridLinear
from kanzoo.interpret.library import CONSTANT, LIBRARY, EdgeFit, fit_edge, get_function
from kanzoo.interpret.stack import check_finite, stack_of

log = logging.getLogger("kanzoo")

LEVELS = (2, 3, 4, 9)  # complexities that the functions may have, from one search to the next
EXACT = 1e-7  # error, in standard deviations, that counts as none
DECADES = 0.2  # of the error that a unit of complexity must gain
LIKELY = 8  # functions of an edge that are looked at again after other edges changed
TRIES = 5  # functions that are tried on an edge before it counts as failed
ROWS = 2000  # samples that the parameters are fitted to


class FormulaError(ValueError):
    """No formula within the tolerance; `formula` is the nearest one where there is any."""

    def __init__(self, message: str, formula: Formula | None = None) -> None:
        super().__init__(message)
        self.formula = formula


def symbolic(
    net: nn.Module,
    x: Tensor,
    y: Tensor | None = None,
    *,
    tolerance: float = 0.01,
    names: Sequence[str] | None = None,
    functions: Iterable[str] | None = None,
    inputs: Sequence[Any] | None = None,
    outputs: Any = None,
) -> Formula:
    """The formula of a plain stack of `KANLinear`, fitted to y, or to the network's own outputs.

    Shapes: x `(N, C)`, y `(N, O)`. The formula's error may exceed the network's by `tolerance`
    standard deviations of y at most; `FormulaError` says otherwise which edge failed. `names` are
    those of the inputs, x_1, x_2, ... unless given; `functions` restrict the library. `inputs` and
    `outputs` serve networks on scaled data: pairs (shift, scale) of the columns, z = (x - shift) /
    scale, so that the formula speaks of the data before scaling.
    """
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance must be between 0 and 1, got {tolerance}")
    x = x.double().flatten(1)
    net = copy.deepcopy(net).double().eval()
    layers: list[HybridLinear] = []
    for layer in stack_of(net, x):
        hybrid = HybridLinear(layer)
        hybrid.base.backend = "dense"
        layers.append(hybrid)
    with torch.no_grad():
        own = net(x)
    target = own if y is None else y.double().reshape(len(x), -1)
    check_finite(target, "the targets")
    if target.shape != own.shape:
        raise ValueError(f"the network has {own.shape[1]} outputs, the targets {target.shape[1]}")
    rows = torch.arange(min(len(x), ROWS)) * len(x) // min(len(x), ROWS)
    stack, fits = _simplest(layers, x[rows], target[rows], tolerance, functions)
    pairs = inputs if inputs is not None else [(0.0, 1.0)] * x.shape[1]
    back = outputs if outputs is not None else [(0.0, 1.0)] * own.shape[1]
    symbols = make_symbols(names or [f"x_{k + 1}" for k in range(x.shape[1])])
    scaled = [
        (symbol - shift) / scale for symbol, (shift, scale) in zip(symbols, pairs, strict=True)
    ]
    raw = [
        shift + scale * e
        for e, (shift, scale) in zip(_expressions(stack, scaled), back, strict=True)
    ]
    shifts, scales = np.array(pairs, np.float64).T
    points = x.numpy() * scales + shifts
    heights, widths = np.array(back, np.float64).T
    truth, said = target.numpy() * widths + heights, own.numpy() * widths + heights
    index = rows.numpy()[:: max(1, len(rows) // 500)]
    tidied = [
        tidy(e, symbols, points[index], truth[index, k]) if e.free_symbols else e
        for k, e in enumerate(raw)
    ]
    edges = [edge_record(*place, fit) for place, fit in sorted(fits.items(), key=lambda e: e[0])]
    return judge([tidied, raw], symbols, points, truth, said, edges, tolerance)


def judge(
    choices: list[list[sympy.Expr]],
    symbols: list[sympy.Symbol],
    x: np.ndarray,
    y: np.ndarray,
    network: np.ndarray,
    edges: list[dict[str, Any]],
    tolerance: float,
) -> Formula:
    """The first choice that is within the tolerance on all data; `FormulaError` if none is."""
    spread = float(y.std()) or 1.0
    error = _error(network, y)
    for expressions in choices:
        values = evaluate(expressions, symbols, x)
        formula = Formula(
            expressions, symbols, error, _error(values, y), _error(values, network), edges
        )
        if formula.rmse_formula <= error + tolerance * spread:
            log.info("formula %s", formula)
            return formula
    text = f"the formula misses the data by {formula.rmse_formula:.3g}, the network by {error:.3g}"
    if edges:
        worst = min(edges, key=lambda e: e["r2"])
        text += f"; the least sure edge is {_say(worst['layer'], worst['i'], worst['o'])}"
    raise FormulaError(text, formula)


def _error(values: np.ndarray, y: np.ndarray) -> float:
    error = float(np.sqrt(np.square(values - y).mean()))
    return error if error == error else float("inf")


def _say(layer: int, i: int, o: int) -> str:
    return f"layer {layer}, input {i} -> output {o}"


def _simplest(
    layers: list[HybridLinear],
    x: Tensor,
    y: Tensor,
    tolerance: float,
    functions: Iterable[str] | None,
) -> tuple[nn.Sequential, dict[tuple[int, int, int], EdgeFit]]:
    """The search with the simplest functions first, then with ever more of them.

    Ends with functions that fit exactly; else the best of all by error and complexity is taken.
    """
    names = list(LIBRARY if functions is None else functions)
    spread = float(y.std(correction=0)) or 1.0
    best: _Search | None = None
    failure: FormulaError | None = None
    sizes: set[int] = set()
    for level in LEVELS:
        chosen = [name for name in names if get_function(name).complexity <= level]
        if not chosen or len(chosen) in sizes:
            continue
        sizes.add(len(chosen))
        search = _Search(layers, x, y, tolerance, chosen)
        try:
            search.run()
        except FormulaError as error:
            failure = error
            continue
        if best is None or search.cost(spread) < best.cost(spread):
            best = search
        if search.reached < EXACT * spread:
            break
    if best is None:
        assert failure is not None
        raise failure
    return best.stack, best.fits


class _Search:
    """The greedy search over a stack of hybrid layers."""

    def __init__(
        self,
        layers: list[HybridLinear],
        x: Tensor,
        y: Tensor,
        tolerance: float,
        functions: Sequence[str],
    ) -> None:
        self.stack = nn.Sequential(*layers)
        self.x, self.y = x, y
        self.functions = functions
        self.likely: dict[tuple[int, int, int], list[str]] = {}
        self.reached = float("inf")
        self.start = rmse(self.stack, x, y)
        self.limit = self.start + tolerance * (float(y.std(correction=0)) or 1.0)
        self.fits: dict[tuple[int, int, int], EdgeFit] = {}

    def cost(self, spread: float) -> float:
        """Decades of the error and the complexity of all functions, the lower the better."""
        complexity = sum(fit.function.complexity for fit in self.fits.values())
        return float(np.log10(self.reached / spread + EXACT)) + DECADES * complexity

    def run(self) -> None:
        """Give every open edge a function; `FormulaError` if that cannot be."""
        while True:
            ranked = self._ranked()
            if not ranked:
                break
            failures = []
            for place, candidates in ranked:
                if self._fix(place, candidates):
                    break
                failures.append((place, candidates))
            else:
                place, candidates = failures[0]
                raise FormulaError(
                    f"no function of the library fits the edge {_say(*place)}: the best, "
                    f"{candidates[0].function.name}, has R^2 {candidates[0].r2:.4f} and the error "
                    f"would exceed {self.limit:.3g}"
                )
        self._improve()

    def _ranked(self) -> list[tuple[tuple[int, int, int], list[EdgeFit]]]:
        """Every open edge with its candidates, the surest first."""
        found = []
        seen = self.x
        with torch.no_grad():
            for index, layer in enumerate(self.stack):
                assert isinstance(layer, HybridLinear)
                scale = float(layer(seen).std(dim=0, correction=0).max())
                for i, o in layer.open_edges():
                    values = layer.edge(i, o, seen[:, i])
                    place = (index, i, o)
                    names = self.likely.get(place, self.functions)
                    candidates = fit_edge(seen[:, i].numpy(), values.numpy(), names, scale)
                    self.likely[place] = [
                        fit.function.name for fit in candidates[:LIKELY] if fit.c != 0
                    ] or list(self.functions)
                    if not candidates:
                        raise FormulaError(f"no function fits the edge {_say(*place)} at all")
                    found.append((place, candidates))
                seen = layer(seen)
        return sorted(found, key=lambda entry: entry[1][0].cost)

    def _fix(self, place: tuple[int, int, int], candidates: list[EdgeFit]) -> bool:
        """Make an edge the first of its candidates that stays within the limit."""
        for fit in candidates[:TRIES]:
            stack = self._with(place, fit)
            reached = fit_squares(stack, self.x, self.y, 30)
            if reached <= self.limit:
                self.stack, self.fits[place] = stack, fit
                log.debug("%s is %s, RMSE %.3g", _say(*place), fit.function.name, reached)
                return True
        return False

    def _with(self, place: tuple[int, int, int], fit: EdgeFit) -> nn.Sequential:
        index, i, o = place
        layers = [copy.deepcopy(layer) for layer in self.stack]
        layers[index] = layers[index].with_edge(i, o, fit)  # type: ignore[operator]
        return nn.Sequential(*layers)

    def _improve(self) -> None:
        """When every edge has a function: fit to the end, and swap what fits better otherwise."""
        best = fit_squares(self.stack, self.x, self.y, 200)
        spread = float(self.y.std(correction=0)) or 1.0
        for _ in range(2):
            self.reached = best
            if best < EXACT * spread:
                return
            before = best
            for place in list(self.fits):
                for fit in self._alternatives(place):
                    stack = self._with(place, fit)
                    reached = fit_squares(stack, self.x, self.y, 60)
                    gain = np.log10((best + 1e-12 * spread) / (reached + 1e-12 * spread))
                    cost = fit.function.complexity - self.fits[place].function.complexity
                    if gain > max(DECADES * cost, 0.02):
                        self.stack, self.fits[place], best = stack, fit, reached
                        self.reached = best
            if best > 0.9 * before:
                return

    def _alternatives(self, place: tuple[int, int, int]) -> list[EdgeFit]:
        index, i, o = place
        seen = self.x
        with torch.no_grad():
            for layer in self.stack[:index]:
                seen = layer(seen)
            values = self.stack[index].edge(i, o, seen[:, i])  # type: ignore[operator]
        names = self.likely.get(place, list(self.functions))
        fits = fit_edge(seen[:, i].numpy(), values.numpy(), names)
        own = self.fits[place].function
        return [fit for fit in fits if fit.function is not own][:4]


def _expressions(stack: nn.Sequential, symbols: Sequence[sympy.Expr]) -> list[sympy.Expr]:
    """The expressions of a stack without splines, constants as they are."""
    values = list(symbols)
    for layer in stack:
        assert isinstance(layer, HybridLinear)
        affine = layer.affine.detach().tolist()
        bias = layer.base.bias
        sums: list[Any] = [
            sympy.Float(bias[o].item(), 17) if bias is not None else sympy.Integer(0)
            for o in range(layer.out_features)
        ]
        for edge in layer.given:
            if edge.function is not CONSTANT:
                a, b, c, d = (sympy.Float(row[edge.place], 17) for row in affine)
                sums[edge.o] += c * edge.function.symbol(a * values[edge.i] + b) + d
        values = sums
    return values
