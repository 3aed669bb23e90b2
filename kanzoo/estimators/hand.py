"""Changing the network of an estimator by hand, and fitting what is left to the same data."""

from collections.abc import Iterable, Sequence
from typing import Any

import sympy
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from kanzoo.data.formula import parse_formula
from kanzoo.fit.stack import FittedStack
from kanzoo.interpret import by_hand
from kanzoo.interpret.by_hand import Layer
from kanzoo.interpret.formula.compile import from_formula
from kanzoo.interpret.formula.library import EdgeFit
from kanzoo.training.waiting import sharing_cores


class HandMixin:
    """Methods of estimators that change `network_`: see `kanzoo.interpret.by_hand`.

    Layers, inputs and nodes count from 0. Call `refit` when done. What was found as `formula_` no
    longer holds then, and is None until `symbolic` reads the network again.
    """

    network_: nn.Module
    formula_: Any
    _stack: FittedStack

    def suggest(
        self, layer: Layer, i: int, o: int, *, functions: Iterable[str] | None = None
    ) -> list[EdgeFit]:
        """The functions that the edge i -> o of a layer may be, the best first."""
        x = self._data()
        return by_hand.suggest(self.network_, x, layer, i, o, functions=functions)

    def fix_edge(
        self,
        layer: Layer,
        i: int,
        o: int,
        function: str,
        *,
        affine: Sequence[float] | None = None,
        is_trained: bool = True,
    ) -> EdgeFit:
        """Make an edge c f(a x + b) + d; affine = (a, b, c, d) are fitted to it unless given."""
        check_is_fitted(self)
        given: Any = {"affine": affine, "is_trained": is_trained}
        x = self._data() if affine is None else self._stack.z  # of which pickles hold none
        fit = by_hand.fix_edge(self.network_, layer, i, o, function, x=x, **given)
        self._changed()
        return fit

    def free_edge(self, layer: Layer, i: int, o: int) -> None:
        """Make an edge that was given or pruned a trained sum of basis functions again."""
        x = self._data()
        by_hand.free_edge(self.network_, layer, i, o, x)
        self._changed()

    def lock_edges(self, layer: Layer, edges: Sequence[tuple[int, int]]) -> None:
        """Let edges (i, o) of a layer be the same function from now on."""
        check_is_fitted(self)
        by_hand.lock_edges(self.network_, layer, edges)
        self._changed()

    def unlock_edges(self, layer: Layer, edges: Sequence[tuple[int, int]]) -> None:
        """Train edges (i, o) by themselves again."""
        check_is_fitted(self)
        by_hand.unlock_edges(self.network_, layer, edges)
        self._changed()

    def prune_edge(self, layer: Layer, i: int, o: int) -> None:
        """Remove an edge; its mean goes into the bias."""
        x = self._data()
        by_hand.prune_edge(self.network_, layer, i, o, x)
        self._changed()

    def prune_node(self, layer: Layer, node: int) -> None:
        """Remove all edges to and from a node behind a layer."""
        x = self._data()
        by_hand.prune_node(self.network_, layer, node, x)
        self._changed()

    def prune_input(self, column: Any) -> None:
        """Remove all edges from a column, by name or number."""
        x = self._data()
        by_hand.prune_input(self.network_, self._column(column), x)  # type: ignore[attr-defined]
        self._changed()

    def expand(self, layer: Layer, nodes: int = 1, products: int = 0) -> None:
        """Add nodes, and nodes that multiply, behind a layer; the function stays."""
        check_is_fitted(self)
        by_hand.expand(self.network_, layer, nodes, products)
        self._changed()

    @sharing_cores()
    def refine(self, grid_size: int) -> None:
        """Move all grids to the data and change their number of intervals; functions stay."""
        x = self._data()
        by_hand.refine(self.network_, x, grid_size)
        self.grid_size_ = grid_size
        self._changed()

    @sharing_cores()
    def refit(self) -> float:
        """Fit `network_` as it is now to the data; returns the error in deviations of the target.

        Of a classifier, the error is the loss.
        """
        self._data()
        self._stack.refit(self.network_)
        self._changed()
        return self._stack.loss()

    @sharing_cores()
    def start_from(self, formula: str | Sequence[str]) -> None:
        """Make `network_` one that equals a formula of the columns' names, one for each output."""
        z = self._data()
        stack = self._stack
        names: list[str] = self._names()  # type: ignore[attr-defined]
        texts = [formula] if isinstance(formula, str) else list(formula)
        if len(texts) != len(stack.mean):
            raise ValueError(f"formula must be {len(stack.mean)}, one an output, got {len(texts)}")
        inputs = [sympy.Symbol(f"z{k}") for k in range(len(names))]
        columns = {
            sympy.Symbol(name): shift + scale * symbol
            for name, symbol, shift, scale in zip(
                names, inputs, stack.shift.tolist(), stack.scale.tolist(), strict=True
            )
        }
        outputs = [
            (parse_formula(text, names).xreplace(columns) - mean) / deviation
            for text, mean, deviation in zip(
                texts, stack.mean.tolist(), stack.deviation.tolist(), strict=True
            )
        ]
        grid_size: int = self.grid_size_
        self.network_ = stack.net = from_formula(
            outputs, [symbol.name for symbol in inputs], z, grid_size=grid_size
        )
        stack.penalty = None
        self._changed()

    def _data(self) -> Tensor:
        check_is_fitted(self)
        self._stack.check_data()
        return self._stack.z

    def _changed(self) -> None:
        self.formula_ = self._stack.anchor = None
