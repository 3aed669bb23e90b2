"""A scikit-learn classifier over stacks of KAN layers.

Axes: N samples, C columns, O outputs.
"""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from sklearn.base import ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import assert_all_finite, check_consistent_length, column_or_1d
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted
from torch.nn import functional as F

from kanzoo.checks import check_keywords
from kanzoo.estimators.base import StackEstimator, weights_of
from kanzoo.fit.select import select_stack
from kanzoo.fit.stack import fit_stack
from kanzoo.interpret.formula.constants import intervals
from kanzoo.interpret.formula.discover import nearest
from kanzoo.interpret.formula.expression import Formula
from kanzoo.interpret.formula.search import FormulaError
from kanzoo.training.waiting import sharing_cores

RIDGE, FORMULA_RIDGE = 1e-3, 0.03  # of classifiers; of those whose scores shall become formulas
NEAREST = 0.25  # share of the time for a formula near scores whose network cannot be read


class KANClassifier(ClassifierMixin, StackEstimator):
    """A Kolmogorov-Arnold network for tables, as a scikit-learn classifier.

    As `KANRegressor`, fitted to the cross-entropy.

    Parameters
    ----------
    hidden, grid_sizes, spline_order, restarts : optional
        As those of `KANRegressor`.
    lamb, lamb_l1, lamb_entropy, validation_fraction, time_limit, random_state : optional
        As those of `KANRegressor`.
    steps : int, default 20
        A third of the steps of LBFGS on every grid, at least 1.
    formula : {None, "auto"}
        "auto" looks for a formula of every class' score (logit) after the fit, without hidden
        layers unless `hidden` is given: sums of functions of the columns. `predict` and
        `predict_proba` then use it (and the network where it is not defined). A
        `ConvergenceWarning` says when none is within the tolerance: the nearest one is taken.
    tolerance : float, default 0.01
        As that of `KANRegressor`, in deviations of the scores. They need not be exact to tell
        classes apart: 0.05 or 0.1 finds formulas more often.
    time_budget, enable_categorical, mult : optional
        As those of `KANRegressor`.
    class_weight : {None, "balanced"} or dict
        Weights of the classes, which multiply those of the samples, as in scikit-learn.
    prior, monotone, units : None
        For regression only: other values are refused.

    Attributes
    ----------
    classes_ : ndarray
        The labels, sorted.
    network_, hidden_, grid_size_, formula_, n_features_in_, feature_names_in_
        As those of `KANRegressor`; outputs are the scores of the classes.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from kanzoo import KANClassifier
    >>> x, y = load_iris(return_X_y=True)
    >>> model = KANClassifier(hidden=(), steps=10, random_state=0).fit(x, y)
    >>> model.score(x, y) > 0.9
    True
    """

    @check_keywords
    def __init__(
        self,
        hidden: int | Sequence[int] | None = None,
        *,
        class_weight: Any = None,
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
        prior: Any = None,
        monotone: Any = None,
        units: Any = None,
        mult: int = 0,
        random_state: Any = None,
    ) -> None:
        given = {
            k: v for k, v in locals().items() if k not in ("self", "class_weight", "__class__")
        }
        super().__init__(**given)
        self.class_weight = class_weight

    @sharing_cores()
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit to X `(N, C)` and labels y `(N,)`, samples weighted by `(N,)` if given."""
        return self._fit(X, y, sample_weight, None)

    @sharing_cores()
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """As `KANRegressor.partial_fit`; `classes`, all labels, are needed in the first call."""
        self._check_selected("parts of the samples")
        if not hasattr(self, "_stack"):
            if classes is None:
                raise ValueError("classes must be passed on the first call to partial_fit")
            if self.class_weight == "balanced":
                raise ValueError("class_weight='balanced' needs all samples: give a dict")
            return self._fit(X, y, sample_weight, classes)
        X = self._numbers(X)
        y = self._labels(X, y)
        self._learn(X, self._codes(y), self._weights(y, sample_weight, X))
        return self

    def _labels(self, X: np.ndarray, y: Any) -> np.ndarray:
        if y is None:
            raise ValueError("KANClassifier requires y to be passed, but the target y is None")
        y = column_or_1d(y, warn=True)
        if y.dtype == object and pd.isna(y).any():
            raise ValueError("y contains labels that are missing")
        if y.dtype == object and len({isinstance(label, str) for label in y}) > 1:
            raise ValueError("y contains texts and others: labels must be of one kind")
        assert_all_finite(y, input_name="y")
        check_consistent_length(X, y)
        check_classification_targets(y)
        return y

    def _codes(self, y: np.ndarray) -> np.ndarray:
        """The numbers of labels among the classes."""
        strange = ~np.isin(y, self.classes_)
        if strange.any():
            raise ValueError(f"the label {y[strange][0]!r} is not one of the classes")
        return np.searchsorted(self.classes_, y)

    def _weights(self, y: np.ndarray, sample_weight: Any, X: np.ndarray) -> torch.Tensor | None:
        """Weights of samples, of their classes, or of both multiplied."""
        weights = weights_of(sample_weight, X)
        if self.class_weight is None:
            return weights
        balance = torch.as_tensor(compute_sample_weight(self.class_weight, y))
        return balance if weights is None else weights * balance

    def _fit(self, X: Any, y: Any, sample_weight: Any, classes: Any) -> Self:
        self._check_options()
        has_weights = not (sample_weight is None and self.class_weight is None)
        self._check_selected("weights of samples", has_weights)
        if self.prior is not None or self.monotone:
            raise ValueError(
                "prior and monotone are for regression: classes have no formula or order"
            )
        X = self._numbers(X, reset=True)
        y = self._labels(X, y)
        self.classes_ = np.unique(y if classes is None else np.asarray(classes))
        codes = self._codes(y)
        if len(self.classes_) < 2:
            raise ValueError(f"the labels have one class only, {self.classes_[0]!r}")
        labels = torch.as_tensor(codes)
        self.formula_ = None
        if self._is_selected:
            weights = self._weights(y, sample_weight, X)
            options = self._options(loss=F.cross_entropy)
            limits: Any = {"weights": weights, "time_budget": self.time_budget}
            limits |= {"num_classes": len(self.classes_)}
            self._keep(select_stack(X, labels, options, **limits))
            return self
        options = self._options(loss=F.cross_entropy, ridge=RIDGE)
        if self.formula == "auto":
            # Smooth scores, which are as good at telling classes apart, have simpler formulas.
            hidden = () if self.hidden is None else self._sizes("hidden")
            options = self._options(loss=F.cross_entropy, ridge=FORMULA_RIDGE, hidden=hidden)
        self._keep(fit_stack(X, labels, len(self.classes_), options))
        if self.formula == "auto":
            self.prune()
            try:
                self.symbolic(time_limit=self._part_of_limit(1 - NEAREST))
            except FormulaError as error:
                self.formula_ = error.formula or self._nearest(X)
                missed = f"this one misses the scores by {self.formula_.relative_error:.2g}"
                warnings.warn(f"{error}; {missed}", ConvergenceWarning, stacklevel=2)
        return self

    def _part_of_limit(self, share: float) -> float | None:
        return None if self.time_limit is None else share * self.time_limit

    def _nearest(self, X: np.ndarray) -> Formula:
        """A formula of the scores without their mean, which does not change the classes."""
        scores = self._stack.predict(X)
        scores -= scores.mean(1, keepdims=True)
        limit = self._part_of_limit(NEAREST)
        if scores.shape[1] > 2:
            return nearest(X, scores, self._names(), time_limit=limit)
        second = nearest(X, scores[:, 1:], self._names(), time_limit=limit)
        first = -second.expression  # the scores of two classes differ by their sign
        return replace(
            second,
            expressions=[first, second.expression],
            errors=2 * second.errors,
            deviations=2 * second.deviations,
            intervals=[intervals(first, second.symbols, X, scores[:, 0]), *second.intervals],
            noise=2 * second.noise,
            findings=2 * second.findings,
        )

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the classes, `(N, O)`; by the formula if asked."""
        return torch.softmax(torch.as_tensor(self._scores(X)), dim=1).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """Labels, `(N,)`; by the formula if asked."""
        best = self._scores(X).argmax(1)
        return self.classes_[best]

    def _scores(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        x = self._numbers(X)
        scores = self._stack.predict(x)
        if self.formula == "auto" and self.formula_ is not None:
            values = self.formula_(x)
            return np.where(np.isnan(values).any(1, keepdims=True), scores, values)
        return scores
