"""scikit-learn estimators over stacks of KAN layers, from data to formula.

Axes: N samples, C columns, O outputs.
"""

import warnings
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data
from torch.nn import functional as F

from kanzoo.data.formula import formula_values, parse_formula
from kanzoo.estimators.base import StackEstimator
from kanzoo.fit.stack import fit_regression, fit_stack, standardise
from kanzoo.interpret.formula.discover import discover
from kanzoo.interpret.formula.expression import Formula, with_prior
from kanzoo.interpret.formula.search import FormulaError

RIDGE, FORMULA_RIDGE = 1e-3, 0.03  # of classifiers; of those whose scores shall become formulas


class KANRegressor(RegressorMixin, StackEstimator):
    """A Kolmogorov-Arnold network for tables, as a scikit-learn regressor.

    Columns are scaled to [-1, 1], targets to deviation 1. A stack of `KANLinear` layers with cubic
    B-splines is fitted in float64 on all data at once, by Levenberg-Marquardt, on grids that grow
    while held-out data gain by it.

    Parameters
    ----------
    hidden : int or sequence of int, optional
        Widths of the hidden layers, each at least 1; () for none. One of 5 unless given.
    grid_sizes : sequence of int, default (3, 5, 10)
        Intervals of the grids, from the first that is fitted to the finest that is tried.
    spline_order : int, default 3
        Order of the B-splines, at least 1.
    steps : int, default 20
        Steps of Levenberg-Marquardt on every grid (three times as many of LBFGS), at least 1.
    restarts : int, default 3
        Random starts on the first grid, of which the best goes on, at least 1.
    lamb : float, default 0.0
        Weight of the regularisation of edges (KAN, 2404.19756, eq. 2.20), not negative. Above 0,
        LBFGS minimises.
    lamb_l1, lamb_entropy : float, default 1.0 and 2.0
        Weights of its two terms, the L1 norms of the edges and their entropy.
    validation_fraction : float, default 0.15
        Share of the samples that decides on starts and grids, from 0 and below 1; none of fewer
        than 40 samples.
    formula : {None, "auto"}
        "auto" looks for a formula, from which `predict` then predicts: for sums, products and
        quotients of terms, in the data and in what their symmetries leave, then for pruned networks
        with hidden layers of 0, 1 and 2 nodes in turn unless `hidden` is given, until one is exact.
        A `ConvergenceWarning` says why a formula may only stand in for the right one.
    tolerance : float, default 0.01
        How much larger than the network's the error of a formula that is read from it may be, in
        standard deviations of each output, between 0 and 1.
    time_limit : float or None, default 180.0
        Seconds for the search, all of it; None for no limit. At the limit, or on an interrupt from
        the keyboard, the best formula so far is taken.
    prior : str or sequence of str, optional
        What is known beforehand, as `"2*x0 + sin(x1)"`: a formula in the columns' names, one for
        each output. It is taken off y, the network is fitted to the residue, and predictions and
        formula are the sum of both.
    monotone : mapping, optional
        Columns, by name or number, in which the network (not the prior) shall be "increasing",
        "decreasing", "even" or "odd"; see `kanzoo.interpret.prior.impose`.
    units : mapping, optional
        The unit of every column, by name, as `{"mass": "kg", "speed": "m/s", "y": "J"}`, "" for
        none, and of the target as "y". The search for a formula then starts from dimensionless
        groups. Needs pint (`pip install kanzoo[units]`).
    random_state : int, RandomState or None
        Seed of the starts and of the held-out samples.

    Attributes
    ----------
    network_ : torch.nn.Module
        The fitted stack, float64, on scaled columns and targets.
    hidden_ : tuple of int
        Widths of its hidden layers before pruning.
    grid_size_ : int
        Intervals of its grids.
    formula_ : Formula or None
        The formula, once one was looked for.
    formulas_ : list of Formula
        With `formula="auto"`, those that predict held-out samples better than all simpler ones, the
        simplest first; of several outputs, a list for each.
    n_features_in_, feature_names_in_
        Number and names of the columns, as in scikit-learn.

    Examples
    --------
    >>> import numpy as np
    >>> from kanzoo import KANRegressor
    >>> x = np.random.default_rng(0).uniform(1, 3, (150, 2))
    >>> y = 2 * x[:, 0] + x[:, 1] ** 2
    >>> model = KANRegressor(hidden=(), formula="auto", random_state=0).fit(x, y)
    >>> print(model.formula_.expression)
    2*x0 + x1**2
    """

    def fit(self, X: Any, y: Any) -> Self:
        """Fit to X `(N, C)` and y `(N,)` or `(N, O)`."""
        self._check_options()
        X, y = validate_data(self, X, y, dtype=np.float64, multi_output=True, y_numeric=True)
        y = np.asarray(y, np.float64)
        self._is_flat = y.ndim == 1
        y = y.reshape(len(y), -1)
        self._priors = self._parsed(y.shape[1])
        self._deviations = [float(deviation) for deviation in y.std(0)]
        residue = y - self._prior_values(X)
        floor = 1e-12 * y.std(0)  # what rounding leaves of a prior that is right is no residue
        self.formula_ = None
        if self.formula is None:
            self._keep(fit_regression(X, residue, self._options(), standardise(residue, floor)))
            return self
        limits: Any = {"time_limit": self.time_limit, "units": self.units, "floor": floor}
        discovery = discover(X, residue, self._names(), self._options(), **limits)
        self._keep(discovery.stack)
        self.formula_ = self._add_prior(discovery.formula)
        self.formulas_ = discovery.fronts[0] if len(discovery.fronts) == 1 else discovery.fronts
        for doubt in self.formula_.doubts:
            warnings.warn(doubt, ConvergenceWarning, stacklevel=2)
        return self

    def _parsed(self, num_outputs: int) -> list[Any]:
        """The priors as expressions, one for each output."""
        if self.prior is None:
            return []
        texts = [self.prior] if isinstance(self.prior, str) else list(self.prior)
        if len(texts) != num_outputs:
            raise ValueError(
                f"prior must be {num_outputs} formulas, one an output, got {len(texts)}"
            )
        return [parse_formula(text, self._names()) for text in texts]

    def _prior_values(self, x: np.ndarray) -> Any:
        """Values of the prior, `(N, O)`, or 0."""
        if self.prior is None:
            return 0.0
        texts = [self.prior] if isinstance(self.prior, str) else self.prior
        return np.stack([formula_values(text, self._names(), x) for text in texts], axis=1)

    def _add_prior(self, formula: Formula) -> Formula:
        return with_prior(formula, self._priors, self._deviations) if self._priors else formula

    def predict(self, X: Any) -> np.ndarray:
        """Values for X `(N, C)`: `(N,)`, or `(N, O)` if fitted to such; by the formula if asked."""
        if self.formula == "auto" and getattr(self, "formula_", None) is not None:
            X = validate_data(self, X, reset=False, dtype=np.float64)
            assert self.formula_ is not None
            values = self.formula_(X).reshape(len(X), -1)
        else:
            values = self._outputs(X)
            values = values + self._prior_values(np.asarray(X, np.float64))
        return values[:, 0] if self._is_flat else values

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class KANClassifier(ClassifierMixin, StackEstimator):
    """A Kolmogorov-Arnold network for tables, as a scikit-learn classifier.

    As `KANRegressor`, fitted to the cross-entropy by LBFGS with a small ridge.

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
        `predict_proba` then use it (and the network where it is not defined).
    tolerance : float, default 0.01
        As that of `KANRegressor`, in deviations of the scores. They need not be exact to tell
        classes apart: 0.05 or 0.1 finds formulas more often.
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

    def fit(self, X: Any, y: Any) -> Self:
        """Fit to X `(N, C)` and labels y `(N,)`."""
        self._check_options()
        if self.prior is not None or self.monotone:
            raise ValueError(
                "prior and monotone are for regression: classes have no formula or order"
            )
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"the labels have one class only, {self.classes_[0]!r}")
        options = self._options(loss=F.cross_entropy, ridge=RIDGE)
        if self.formula == "auto":
            # Smooth scores, which are as good at telling classes apart, have simpler formulas.
            hidden = () if self.hidden is None else self._sizes("hidden")
            options = self._options(loss=F.cross_entropy, ridge=FORMULA_RIDGE, hidden=hidden)
        self._keep(fit_stack(X, torch.as_tensor(codes), len(self.classes_), options))
        self.formula_ = None
        if self.formula == "auto":
            self.prune()
            try:
                self.symbolic()
            except FormulaError as error:
                if error.formula is None:
                    raise
                self.formula_ = error.formula
                warnings.warn(str(error), ConvergenceWarning, stacklevel=2)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the classes, `(N, O)`; by the formula if asked."""
        return torch.softmax(torch.as_tensor(self._scores(X)), dim=1).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """Labels, `(N,)`; by the formula if asked."""
        best = self._scores(X).argmax(1)
        return self.classes_[best]

    def _scores(self, X: Any) -> np.ndarray:
        scores = self._outputs(X)
        if self.formula == "auto" and self.formula_ is not None:
            values = self.formula_(np.asarray(X, np.float64))
            return np.where(np.isnan(values), scores, values)
        return scores
