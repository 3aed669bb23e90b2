"""What scikit-learn estimators over stacks of KAN layers share: options, pruning, pictures.

Axes: N samples, C columns, O outputs.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor, nn

from kanzoo.checks import check_keywords, check_name, check_whole
from kanzoo.data.columns import (
    Columns,
    Gaps,
    check_frame,
    is_number,
    with_texts_as_names,
    with_times,
)
from kanzoo.estimators.hand import HandMixin
from kanzoo.fit.noise import poor_fit
from kanzoo.fit.scaling import crowded
from kanzoo.fit.stack import HIDDEN, FittedStack, StackOptions
from kanzoo.interpret.formula.expression import Formula
from kanzoo.interpret.formula.search import FormulaError
from kanzoo.interpret.formula.stacks import prune_stack, read_stack
from kanzoo.interpret.prior import impose
from kanzoo.interpret.pruning import Pruning
from kanzoo.training.waiting import sharing_cores

log = logging.getLogger("kanzoo")

FORMULA_CHOICES = (None, "auto")
# Parameters of the estimators that are options of a fit.
FIT_OPTIONS = (
    "hidden", "grid_sizes", "spline_order", "steps", "restarts", "lamb", "lamb_l1", "lamb_entropy",
    "validation_fraction", "random_state", "mult",
)  # fmt: skip


class StackEstimator(HandMixin, BaseEstimator):
    """Scales the columns, fits a stack of `KANLinear` on growing grids, prunes and draws it."""

    network_: nn.Module
    formula_: Formula | None

    @check_keywords
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
        time_budget: float | None = 30.0,
        enable_categorical: bool = True,
        formula: str | None = None,
        tolerance: float = 0.01,
        time_limit: float | None = 180.0,
        prior: str | Sequence[str] | None = None,
        monotone: Mapping[Any, str] | None = None,
        units: Mapping[str, str] | None = None,
        mult: int = 0,
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
        self.time_budget = time_budget
        self.enable_categorical = enable_categorical
        self.formula = formula
        self.tolerance = tolerance
        self.time_limit = time_limit
        self.prior = prior
        self.monotone = monotone
        self.units = units
        self.mult = mult
        self.random_state = random_state

    def _check_options(self) -> None:
        sizes = {name: self._sizes(name) or () for name in ("hidden", "grid_sizes")}
        for name in ("spline_order", "steps", "restarts"):
            sizes[name] = (getattr(self, name),)
        for name, values in sizes.items():
            for value in values:
                check_whole(name, value, 1)
        check_whole("mult", self.mult, 0)
        if not sizes["grid_sizes"]:
            raise ValueError("grid_sizes must name at least one grid size")
        if self.formula not in FORMULA_CHOICES:
            raise ValueError(f"formula must be None or 'auto', got {self.formula!r}")
        if self.lamb < 0 or not 0 <= self.validation_fraction < 1:
            raise ValueError("lamb must not be negative, validation_fraction from 0 and below 1")
        if self.time_budget is not None and not self.time_budget > 0:
            raise ValueError(f"time_budget must be positive or None, got {self.time_budget!r}")

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

    @property
    def _is_selected(self) -> bool:
        """Whether held-out data choose form and penalty, which some options fix."""
        return not (self.formula or self.lamb or self.monotone or self.mult)

    def _check_selected(self, what: str, is_asked: bool = True) -> None:
        if is_asked and not self._is_selected:
            raise ValueError(f"{what} need formula=None, lamb=0, monotone=None and mult=0")

    def _numbers(self, X: Any, *, reset: bool = False) -> np.ndarray:
        """X as numbers without gaps, `(N, F)`: columns of a frame that hold none are encoded."""
        is_frame = isinstance(X, pd.DataFrame)
        if is_frame:
            X = with_times(X)
        if reset:
            if is_frame:
                check_frame(X)
            others = [n for n in X if not is_number(X[n])] if is_frame else []
            if others and not self.enable_categorical:
                raise ValueError(
                    f"column {others[0]!r} holds no numbers; enable_categorical=True encodes it"
                )
            self._encoder = Columns().fit(with_texts_as_names(X)) if others else None
        if self._encoder is None:
            limits: Any = {"dtype": np.float64, "ensure_all_finite": "allow-nan"}
            x = validate_data(self, X, reset=reset, **limits)
        else:
            X = with_texts_as_names(X) if is_frame else X
            validate_data(self, X, reset=reset, skip_check_array=True)
            x = self._encoder(X if is_frame else self._framed(X))
        if reset:
            self._gaps = Gaps().fit(x)
        return self._gaps(x)

    def _framed(self, X: Any) -> pd.DataFrame:
        return pd.DataFrame(X, columns=pd.Index(self.feature_names_in_))

    def _keep(self, stack: FittedStack) -> None:
        hidden = stack.options.hidden
        self._stack, self.network_, self.grid_size_ = stack, stack.net, stack.grid_size
        self.hidden_ = HIDDEN if hidden is None else tuple(hidden)
        narrow = crowded(stack.z.numpy())
        if len(narrow):
            log.warning(
                "column %r: half of the values lie in a hundredth of its range, where the fit sees "
                "no differences: is the rest a code for gaps? A logarithm may help otherwise",
                self._names()[narrow[0]],
            )
        if stack.options.is_regression:
            doubt = poor_fit(stack.z.numpy(), stack.y.numpy(), stack.rmse())
            if doubt:
                log.warning(doubt)

    def _names(self) -> list[str]:
        if self._encoder is not None:
            names = self._encoder.names
        elif hasattr(self, "feature_names_in_"):
            names = [*map(str, self.feature_names_in_)]
        else:
            names = [f"x{k}" for k in range(self.n_features_in_)]
        return self._gaps.named(names)

    def _column(self, column: Any) -> int:
        """The number of a column given by its name or number."""
        if isinstance(column, (int, np.integer)) and 0 <= column < len(self._names()):
            return int(column)
        check_name("column", column, self._names())
        return self._names().index(column)

    def _learn(self, X: np.ndarray, y: np.ndarray, weights: Tensor | None) -> None:
        """Fit to further samples, y scaled as those before."""
        self._stack.learn(X, torch.as_tensor(y), weights)
        self.formula_ = None

    @sharing_cores()
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
        self._stack.check_data()
        result = prune_stack(self._stack, threshold, tolerance)
        self.network_ = self._stack.net
        return result

    @sharing_cores()
    def symbolic(self, **options: Any) -> Formula:
        """The formula in the columns' names (x0, x1, ... without), as `formula_` too.

        What `formula="auto"` has found; else, or with options, those of
        `kanzoo.interpret.formula.run.symbolic`, what `network_` is read as. Of a classifier, one
        for the score of every class.
        """
        check_is_fitted(self)
        if self.formula == "auto" and self.formula_ is not None and not options:
            return self.formula_
        self._stack.check_data()
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
        self._stack.check_data()
        from kanzoo.interpret.pictures import graph  # which loads matplotlib

        classes = [str(name) for name in getattr(self, "classes_", ())]
        options = {"names": self._names(), "outputs": classes or None, **options}
        return graph.draw(self.network_, self._stack.z, **options)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = self.enable_categorical
        tags.input_tags.string = False
        return tags


def weights_of(given: Any, x: np.ndarray) -> Tensor | None:
    """Weights of samples `(N,)`, checked."""
    if given is None:
        return None
    weights = _check_sample_weight(given, x, dtype=np.float64, ensure_non_negative=True)
    if not weights.sum() > 0:
        raise ValueError("sample_weight must not be zero for all samples")
    return torch.as_tensor(weights)
