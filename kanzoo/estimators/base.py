"""What scikit-learn estimators over stacks of KAN layers share: options, pruning, pictures.

Axes: N samples, C columns, O outputs.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import nn

from kanzoo.checks import check_name, check_whole
from kanzoo.fit.stack import HIDDEN, FittedStack, StackOptions
from kanzoo.interpret.formula.expression import Formula
from kanzoo.interpret.formula.search import FormulaError
from kanzoo.interpret.formula.stacks import prune_stack, read_stack
from kanzoo.interpret.prior import impose
from kanzoo.interpret.pruning import Pruning

FORMULA_CHOICES = (None, "auto")
# Parameters of the estimators that are options of a fit.
FIT_OPTIONS = (
    "hidden", "grid_sizes", "spline_order", "steps", "restarts", "lamb", "lamb_l1", "lamb_entropy",
    "validation_fraction", "random_state",
)  # fmt: skip


class StackEstimator(BaseEstimator):
    """Scales the columns, fits a stack of `KANLinear` on growing grids, prunes and draws it."""

    network_: nn.Module
    formula_: Formula | None

    def __init__(
        self,
        hidden: int | Sequence[int] | None = None,
        *,
        grid_sizes: Sequence[int] = (3, 5, 10),
        spline_order: int = 3,
        steps: int = 20,
        restarts: int = 3,
        lamb: float = 0.0,
        lamb_l1: float = 1.0,
        lamb_entropy: float = 2.0,
        validation_fraction: float = 0.15,
        formula: str | None = None,
        tolerance: float = 0.01,
        time_limit: float | None = 180.0,
        prior: str | Sequence[str] | None = None,
        monotone: Mapping[Any, str] | None = None,
        units: Mapping[str, str] | None = None,
        random_state: Any = None,
    ) -> None:
        self.hidden = hidden
        self.grid_sizes = grid_sizes
        self.spline_order = spline_order
        self.steps = steps
        self.restarts = restarts
        self.lamb = lamb
        self.lamb_l1 = lamb_l1
        self.lamb_entropy = lamb_entropy
        self.validation_fraction = validation_fraction
        self.formula = formula
        self.tolerance = tolerance
        self.time_limit = time_limit
        self.prior = prior
        self.monotone = monotone
        self.units = units
        self.random_state = random_state

    def _check_options(self) -> None:
        sizes = {name: self._sizes(name) or () for name in ("hidden", "grid_sizes")}
        for name in ("spline_order", "steps", "restarts"):
            sizes[name] = (getattr(self, name),)
        for name, values in sizes.items():
            for value in values:
                check_whole(name, value, 1)
        if not sizes["grid_sizes"]:
            raise ValueError("grid_sizes must name at least one grid size")
        if self.formula not in FORMULA_CHOICES:
            raise ValueError(f"formula must be None or 'auto', got {self.formula!r}")
        if self.lamb < 0 or not 0 <= self.validation_fraction < 1:
            raise ValueError("lamb must not be negative, validation_fraction from 0 and below 1")

    def _sizes(self, name: str) -> tuple[Any, ...] | None:
        """An option that is a number, a sequence or an array of them, as a tuple."""
        value = getattr(self, name)
        return None if value is None else tuple(np.atleast_1d(value).tolist())

    def _options(self, **changes: Any) -> StackOptions:
        constrain = None
        if self.monotone:
            kinds = {self._column(name): kind for name, kind in self.monotone.items()}
            constrain = partial(impose, inputs=kinds)
        options = {name: getattr(self, name) for name in FIT_OPTIONS}
        options |= {name: self._sizes(name) for name in ("hidden", "grid_sizes")}
        return StackOptions(**{**options, "constrain": constrain, **changes})

    def _keep(self, stack: FittedStack) -> None:
        hidden = stack.options.hidden
        self._stack, self.network_, self.grid_size_ = stack, stack.net, stack.grid_size
        self.hidden_ = HIDDEN if hidden is None else tuple(hidden)

    def _outputs(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        return self._stack.predict(validate_data(self, X, reset=False, dtype=np.float64))

    def _names(self) -> list[str]:
        given = getattr(self, "feature_names_in_", None)
        return (
            [f"x{k}" for k in range(self.n_features_in_)] if given is None else [*map(str, given)]
        )

    def _column(self, column: Any) -> int:
        """The number of a column given by its name or number."""
        if isinstance(column, (int, np.integer)) and 0 <= column < self.n_features_in_:
            return int(column)
        check_name("column", column, self._names())
        return self._names().index(column)

    def prune(self, threshold: float | None = None, *, tolerance: float = 0.1) -> Pruning:
        """Prune `network_` and fit what is left again; returns what was removed and what it cost.

        Parameters
        ----------
        threshold : float, optional
            Edges whose score is at most this share of their layer's largest are removed. Unless
            given, a regressor searches the smallest network, a classifier takes 0.03.
        tolerance : float, default 0.1
            How much the error may grow in that search, as a share of it.
        """
        check_is_fitted(self)
        result = prune_stack(self._stack, threshold, tolerance)
        self.network_ = self._stack.net
        return result

    def symbolic(self, **options: Any) -> Formula:
        """The formula in the columns' names (x0, x1, ... without), as `formula_` too.

        What `formula="auto"` has found; else, or with options, those of
        `kanzoo.interpret.formula.run.symbolic`, what `network_` is read as. Of a classifier, one
        for the score of every class.
        """
        check_is_fitted(self)
        if self.formula == "auto" and self.formula_ is not None and not options:
            return self.formula_
        options = {"tolerance": self.tolerance, "time_limit": self.time_limit, **options}
        with self._prior_added():
            formula = read_stack(self._stack, self._names(), **options)
        self.formula_ = self._add_prior(formula)
        return self.formula_

    def _add_prior(self, formula: Formula) -> Formula:
        """A formula of what was fitted as one of the targets."""
        return formula

    @contextmanager
    def _prior_added(self) -> Iterator[None]:
        """The nearest formula of a search that fails becomes one of the targets, too."""
        try:
            yield
        except FormulaError as error:
            error.formula = error.formula and self._add_prior(error.formula)
            raise

    def plot(self, **options: Any) -> Any:
        """The network drawn as a graph with every edge's function in place.

        Options are those of `kanzoo.interpret.pictures.graph.draw`: path, names, outputs.
        """
        check_is_fitted(self)
        from kanzoo.interpret.pictures import graph  # which loads matplotlib

        classes = [str(name) for name in getattr(self, "classes_", ())]
        options = {"names": self._names(), "outputs": classes or None, **options}
        return graph.draw(self.network_, self._stack.z, **options)
