"""A scikit-learn regressor over stacks of KAN layers, from data to formula.

Axes: N samples, C columns, O outputs.
"""

import warnings
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_consistent_length, column_or_1d
from sklearn.utils.validation import check_array, check_is_fitted

from kanzoo.data.formula import formula_values, parse_formula
from kanzoo.estimators.base import StackEstimator, weights_of
from kanzoo.fit.select import select_stack
from kanzoo.fit.stack import fit_regression, standardise
from kanzoo.interpret.formula.discover import discover
from kanzoo.interpret.formula.expression import Formula, with_prior
from kanzoo.training.waiting import sharing_cores


class KANRegressor(RegressorMixin, StackEstimator):
    """A Kolmogorov-Arnold network for tables, as a scikit-learn regressor.

    Columns are scaled to [-1, 1], a few wild values clipped, and targets to deviation 1. Stacks of
    `KANLinear` layers with cubic B-splines are fitted in float64 by Gauss-Newton: a linear model, a
    sum of functions of the columns, and hidden layers. Held-out data choose among them, their
    regularisation and their grids; what is not simpler must be better by more than chance. Gaps are
    filled by medians and marked by a feature of their own; of a frame, every category of columns
    that hold no numbers becomes a feature, and dates become days.

    Parameters
    ----------
    hidden : int or sequence of int, optional
        Widths of the hidden layers, each at least 1; () for none. Unless given, one of 5 or none,
        as held-out data choose.
    grid_sizes : sequence of int, default (3, 5, 10)
        Intervals of the grids, from the first that is fitted to the finest that is tried.
    spline_order : int, default 3
        Order of the B-splines, at least 1.
    steps : int, default 20
        Steps of Gauss-Newton for every penalty and grid (three times as many of LBFGS), at least 1.
    restarts : int, default 3
        Random starts on the first grid, of which the best goes on, at least 1.
    lamb : float, default 0.0
        Weight of the regularisation of edges (KAN, 2404.19756, eq. 2.20), not negative. Above 0,
        LBFGS minimises, and nothing else is chosen by held-out data but starts and grids.
    lamb_l1, lamb_entropy : float, default 1.0 and 2.0
        Weights of its two terms, the L1 norms of the edges and their entropy.
    validation_fraction : float, default 0.15
        Share of the samples that is held out, from 0 and below 1, of more than 3,000 samples; up to
        there, fifths are held out in turn.
    time_budget : float or None, default 30.0
        Seconds after which the best so far is taken; None for no limit, and the same result always.
    enable_categorical : bool, default True
        Whether columns of a frame that hold categories, texts or dates are encoded or refused.
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
    mult : int, default 0
        How many nodes of every hidden layer multiply two others (MultKAN, KAN 2.0, 2408.10205). As
        with `lamb`, held-out data then choose starts and grids only; give `hidden`.
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

    @sharing_cores()
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit to X `(N, C)` and y `(N,)` or `(N, O)`, samples weighted by `(N,)` if given."""
        self._check_options()
        self._check_selected("weights of samples", sample_weight is not None)
        X = self._numbers(X, reset=True)
        y = self._targets(X, y)
        self._is_flat = y.ndim == 1
        y = y.reshape(len(y), -1)
        self._priors = self._parsed(y.shape[1])
        self._deviations = [float(deviation) for deviation in y.std(0)]
        residue = y - self._prior_values(X)
        floor = 1e-12 * y.std(0)  # what rounding leaves of a prior that is right is no residue
        self.formula_ = None
        units_of_y = standardise(residue, floor)
        if self._is_selected:
            weights = weights_of(sample_weight, X)
            scaled = torch.as_tensor((residue - units_of_y[0]) / units_of_y[1])
            limits: Any = {"weights": weights, "time_budget": self.time_budget, "units": units_of_y}
            self._keep(select_stack(X, scaled, self._options(), **limits))
            return self
        if self.formula is None:
            self._keep(fit_regression(X, residue, self._options(), units_of_y))
            return self
        limits = {"time_limit": self.time_limit, "units": self.units, "floor": floor}
        discovery = discover(X, residue, self._names(), self._options(), **limits)
        self._keep(discovery.stack)
        self.formula_ = self._add_prior(discovery.formula)
        self.formulas_ = discovery.fronts[0] if len(discovery.fronts) == 1 else discovery.fronts
        for doubt in self.formula_.doubts:
            warnings.warn(doubt, ConvergenceWarning, stacklevel=3)
        return self

    @sharing_cores()
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit to a further part of the samples, none of which is kept; the first part as `fit`.

        The first decides scaling, form, grids, penalty and intervals, so that parts must be alike:
        shuffle sorted samples. Later ones move the coefficients as far as they and all earlier ones
        together say, exactly without hidden layers, else to second order. Pruning, formulas and
        pictures then use the last part.
        """
        self._check_selected("parts of the samples")
        if not hasattr(self, "_stack"):
            return self.fit(X, y, sample_weight)
        X = self._numbers(X)
        y = self._targets(X, y).reshape(len(X), -1)
        mean, deviation = self._stack.mean, self._stack.deviation
        if y.shape[1] != len(mean):
            raise ValueError(f"y has {y.shape[1]} targets, the first part had {len(mean)}")
        residue = y - self._prior_values(X)
        self._learn(X, (residue - mean) / deviation, weights_of(sample_weight, X))
        return self

    def _targets(self, X: np.ndarray, y: Any) -> np.ndarray:
        if y is None:
            raise ValueError("KANRegressor requires y to be passed, but the target y is None")
        y = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
        y = y if y.ndim == 2 and y.shape[1] > 1 else column_or_1d(y, warn=True)
        check_consistent_length(X, y)
        return y

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

    def predict(self, X: Any, *, interval: float | None = None) -> Any:
        """Values for X `(N, C)`: `(N,)`, or `(N, O)` if fitted to such; by the formula if asked.

        With `interval=0.9`, also bounds `(N, 2)` or `(N, O, 2)` between which nine of ten new
        values are expected (conformal, by the errors of held-out samples), as a second array.
        """
        check_is_fitted(self)
        x = self._numbers(X)
        if self.formula == "auto" and getattr(self, "formula_", None) is not None:
            assert self.formula_ is not None
            values = self.formula_(x).reshape(len(x), -1)
        else:
            values = self._stack.predict(x) + self._prior_values(x)
        reach = None if interval is None else self._stack.reach(interval)
        flat = values[:, 0] if self._is_flat else values
        if reach is None:
            return flat
        bounds = np.stack([values - reach, values + reach], axis=-1)  # (N, O, 2)
        return flat, bounds[:, 0] if self._is_flat else bounds

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
