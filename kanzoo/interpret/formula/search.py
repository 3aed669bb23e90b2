"""The greedy search for the functions of edges: the surest first, the rest fitted again.

Axes: N samples, C inputs, O outputs.
"""

import copy
import logging
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from kanzoo.fit.least_squares import fit_squares
from kanzoo.interpret.formula.clock import Clock, TimeOver
from kanzoo.interpret.formula.expression import Formula
from kanzoo.interpret.formula.library import EdgeFit, fit_edge
from kanzoo.layers import KANLinear
from kanzoo.layers.elementary import LIBRARY, get_function
from kanzoo.layers.products import multiply

log = logging.getLogger("kanzoo")

LEVELS = (2, 3, 4, 9)  # complexities that the functions may have, from one search to the next
EXACT = 1e-7  # error, in standard deviations, that counts as none
DECADES = 0.2  # of the error that a unit of complexity must gain
LIKELY = 8  # functions of an edge that are looked at again after other edges changed
TRIES = 5  # functions that are tried on an edge before it counts as failed


class FormulaError(ValueError):
    """No formula within the tolerance; `formula` is the nearest one where there is any."""

    def __init__(self, message: str, formula: Formula | None = None) -> None:
        super().__init__(message)
        self.formula = formula


class Nodes(nn.Module):
    """A layer and the products behind it: `(..., C) -> (..., O - products)`."""

    def __init__(self, layer: KANLinear, products: int = 0) -> None:
        super().__init__()
        self.layer, self.products = layer, products
        layer.release_edges()
        layer.weight.requires_grad_(bool(layer.open_edges()))

    def forward(self, x: Tensor) -> Tensor:
        return multiply(self.layer(x), self.products)

    @torch.no_grad()
    def with_edge(self, i: int, o: int, fit: EdgeFit) -> "Nodes":
        """A copy in which the edge i -> o is the function that was fitted to it."""
        layer = copy.deepcopy(self.layer)
        layer.fix_edge(i, o, fit.function.name, fit.affine)
        return Nodes(layer, self.products)


def edge_name(layer: int, i: int, o: int) -> str:
    """How an edge is named in messages."""
    return f"layer {layer}, input {i} -> output {o}"


def simplest(
    layers: list[Nodes],
    x: Tensor,
    y: Tensor,
    limit: float,
    functions: Iterable[str] | None,
    clock: Clock,
) -> tuple[nn.Sequential, dict[tuple[int, int, int], EdgeFit]]:
    """The search with the simplest functions first, then with ever more of them.

    Ends with functions that fit exactly; else the best of all whose RMSE is at most `limit` is
    taken, by error and complexity. Raises `FormulaError` if there is none, or none in time.
    """
    names = list(LIBRARY if functions is None else functions)
    deviation = float(y.std(correction=0)) or 1.0
    best: Search | None = None
    failure: FormulaError | None = None
    sizes: set[int] = set()
    for level in LEVELS:
        chosen = [name for name in names if get_function(name).complexity <= level]
        if not chosen or len(chosen) in sizes:
            continue
        sizes.add(len(chosen))
        search = Search(layers, x, y, limit, chosen, clock)
        try:
            search.run()
        except FormulaError as error:
            failure = error
            continue
        except TimeOver:
            if not search.is_complete:
                failure = failure if best is None and failure else search.unfinished()
                break
        if best is None or search.cost(deviation) < best.cost(deviation):
            best = search
        if search.reached < EXACT * deviation:
            break
    if best is None:
        assert failure is not None
        raise failure
    return best.stack, best.fits


class Search:
    """The greedy search over a stack of layers, whose RMSE stays at most `limit`."""

    def __init__(
        self,
        layers: list[Nodes],
        x: Tensor,
        y: Tensor,
        limit: float,
        functions: Sequence[str],
        clock: Clock,
    ) -> None:
        self.stack = nn.Sequential(*layers)
        self.x, self.y = x, y
        self.functions = functions
        self.likely: dict[tuple[int, int, int], list[str]] = {}
        self.reached = float("inf")
        self.limit, self.clock = limit, clock
        self.fits: dict[tuple[int, int, int], EdgeFit] = {}
        self.edges = sum(len(nodes.layer.open_edges()) for nodes in layers)

    @property
    def is_complete(self) -> bool:
        """Whether every edge has a function."""
        return not any(nodes.layer.open_edges() for nodes in self.stack)  # type: ignore[union-attr, operator]

    def unfinished(self) -> FormulaError:
        """What to say when the time is over before every edge has a function."""
        return FormulaError(
            f"no formula in {self.clock.seconds or 0:g} s: {len(self.fits)} of {self.edges} edges "
            "have a function; prune the network first, or raise time_limit"
        )

    def cost(self, deviation: float) -> float:
        """Decades of the error and the complexity of all functions, the lower the better."""
        complexity = sum(fit.function.complexity for fit in self.fits.values())
        return float(np.log10(self.reached / deviation + EXACT)) + DECADES * complexity

    def run(self) -> None:
        """Give every open edge a function; `FormulaError` if that cannot be."""
        while True:
            known = f"formula, {len(self.functions)} functions"
            self.clock.show(known, len(self.fits), self.edges)
            ranked = self._ranked()
            if not ranked:
                break
            failures = []
            for edge, candidates in ranked:
                if self._fix(edge, candidates):
                    break
                failures.append((edge, candidates))
            else:
                edge, candidates = failures[0]
                raise FormulaError(
                    f"no function of the library fits the edge {edge_name(*edge)}: the best, "
                    f"{candidates[0].function.name}, has R^2 {candidates[0].r2:.4f} and the error "
                    f"would exceed {self.limit:.3g}"
                )
        self._improve()

    def _ranked(self) -> list[tuple[tuple[int, int, int], list[EdgeFit]]]:
        """Every open edge with its candidates, the surest first."""
        ranking = []
        inputs = self.x
        with torch.no_grad():
            for index, nodes in enumerate(self.stack):
                assert isinstance(nodes, Nodes)
                layer = nodes.layer
                scale = float(nodes(inputs).std(dim=0, correction=0).max())
                for i, o in layer.open_edges():
                    self.clock.check()
                    values = layer.edge(i, o, inputs[:, i])
                    edge = (index, i, o)
                    names = self.likely.get(edge, self.functions)
                    candidates = fit_edge(inputs[:, i].numpy(), values.numpy(), names, scale)
                    self.likely[edge] = [
                        fit.function.name for fit in candidates[:LIKELY] if fit.c != 0
                    ] or list(self.functions)
                    if not candidates:
                        raise FormulaError(f"no function fits the edge {edge_name(*edge)} at all")
                    ranking.append((edge, candidates))
                inputs = nodes(inputs)
        return sorted(ranking, key=lambda entry: entry[1][0].cost)

    def _fix(self, edge: tuple[int, int, int], candidates: list[EdgeFit]) -> bool:
        """Make an edge the first of its candidates that stays within the limit."""
        for fit in candidates[:TRIES]:
            self.clock.check()
            stack = self._stack_with(edge, fit)
            reached = fit_squares(stack, self.x, self.y, 30)
            if reached <= self.limit:
                self.stack, self.fits[edge] = stack, fit
                log.debug("%s is %s, RMSE %.3g", edge_name(*edge), fit.function.name, reached)
                return True
        return False

    def _stack_with(self, edge: tuple[int, int, int], fit: EdgeFit) -> nn.Sequential:
        index, i, o = edge
        layers = [copy.deepcopy(layer) for layer in self.stack]
        layers[index] = layers[index].with_edge(i, o, fit)  # type: ignore[operator]
        return nn.Sequential(*layers)

    def _improve(self) -> None:
        """When every edge has a function: fit to the end, and swap what fits better otherwise."""
        self.reached = best = fit_squares(self.stack, self.x, self.y, 200)
        deviation = float(self.y.std(correction=0)) or 1.0
        for _ in range(2):
            self.reached = best
            if best < EXACT * deviation:
                return
            before = best
            for edge in list(self.fits):
                for fit in self._alternatives(edge):
                    self.clock.check()
                    stack = self._stack_with(edge, fit)
                    reached = fit_squares(stack, self.x, self.y, 60)
                    gain = np.log10((best + 1e-12 * deviation) / (reached + 1e-12 * deviation))
                    cost = fit.function.complexity - self.fits[edge].function.complexity
                    if gain > max(DECADES * cost, 0.02):
                        self.stack, self.fits[edge], best = stack, fit, reached
                        self.reached = best
            if best > 0.9 * before:
                return

    def _alternatives(self, edge: tuple[int, int, int]) -> list[EdgeFit]:
        index, i, o = edge
        inputs = self.x
        with torch.no_grad():
            for layer in self.stack[:index]:
                inputs = layer(inputs)
            values = self.stack[index].layer.edge(i, o, inputs[:, i])  # type: ignore[union-attr, operator]
        names = self.likely.get(edge, list(self.functions))
        fits = fit_edge(inputs[:, i].numpy(), values.numpy(), names)
        current = self.fits[edge].function
        return [fit for fit in fits if fit.function is not current][:4]
