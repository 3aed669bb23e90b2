"""Formulas of dynamical systems from time series.

Axes: T times, S states, N samples.
"""

import warnings
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from kanzoo.checks import check_keywords, check_whole
from kanzoo.data.dynamics import check_trajectory, derivatives, integrate
from kanzoo.estimators.regressor import KANRegressor
from kanzoo.estimators.weak import weak_formulas
from kanzoo.interpret.formula.expression import Formula
from kanzoo.training.waiting import sharing_cores

FAR = 0.1  # deviations between a trajectory and what is integrated, from which it is said


class KANDynamics(BaseEstimator):
    """Right-hand sides of dx/dt = f(x) from trajectories, a formula or `KANRegressor` a state.

    Parameters
    ----------
    method : {"smooth", "difference", "weak"}
        How derivatives are estimated, see `kanzoo.data.dynamics.derivatives` (as in SINDy,
        1509.03580, and its weak form, 2005.04339).
    regressor : KANRegressor, optional
        What is fitted to each derivative; unless given, `KANRegressor(formula="auto")`.
    degree : int, default 3
        Where a formula is asked for, sums of few terms, among them polynomials up to this degree,
        are tried first, from the states alone, see `kanzoo.estimators.weak.weak_formulas`; 0 for
        none.

    Attributes
    ----------
    regressors_ : list of KANRegressor or None
        One for each state, None where a sum of few terms is exact, or as exact as noise allows:
        a `ConvergenceWarning` says so then.
    formulas_ : list of Formula or None
        One for each state, in x0, x1, ...
    misses_ : array (S,)
        What is found, integrated from the first state of each trajectory, against that trajectory:
        root mean square in deviations of each state, the largest of all trajectories; NaN where
        integration fails. A `ConvergenceWarning` says where it is above 0.1.
    """

    @check_keywords
    def __init__(
        self, method: str = "smooth", regressor: KANRegressor | None = None, degree: int = 3
    ) -> None:
        self.method = method
        self.regressor = regressor
        self.degree = degree

    @sharing_cores()
    def fit(self, times: Sequence[Any], states: Sequence[Any]) -> Self:
        """Fit to trajectories: times `(T,)` and states `(T, S)` of each, two sequences.

        Raises `ValueError` of one line for gaps, uneven lengths, or times that do not increase.
        """
        from sklearn.base import clone

        if not len(times) or len(times) != len(states):
            raise ValueError("times and states must be sequences of as many trajectories, not none")
        widths = {check_trajectory(t, x)[1].shape[1] for t, x in zip(times, states, strict=True)}
        if len(widths) > 1:
            raise ValueError(f"trajectories must have equally many states, not {sorted(widths)}")
        check_whole("degree", self.degree, 0)
        pairs = [derivatives(t, x, self.method) for t, x in zip(times, states, strict=True)]
        x, slopes = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
        base = self.regressor or KANRegressor(formula="auto", random_state=0)
        self.formulas_: list[Formula | None] = [None] * len(slopes.T)
        if self.degree and base.formula:
            self.formulas_ = weak_formulas(list(zip(times, states, strict=True)), self.degree)
            for doubt in [d for formula in self.formulas_ if formula for d in formula.doubts]:
                warnings.warn(doubt, ConvergenceWarning, stacklevel=3)
        self.regressors_: list[KANRegressor | None] = [None] * len(slopes.T)
        for k, slope in enumerate(slopes.T):
            if self.formulas_[k] is None:
                self.regressors_[k] = model = clone(base).fit(x, slope)
                self.formulas_[k] = model.formula_
        self.misses_ = self._misses(list(zip(times, states, strict=True)))
        if not (self.misses_ < FAR).all():
            listed = ", ".join(f"x{k} by {miss:.2g}" for k, miss in enumerate(self.misses_))
            warnings.warn(
                "integrated from their starts, what was found leaves the trajectories, in "
                f"deviations: {listed}; it is wrong or imprecise, or small errors grow (chaos)",
                ConvergenceWarning,
                stacklevel=3,
            )
        return self

    def _misses(self, trajectories: Sequence[tuple[Any, Any]]) -> np.ndarray:
        paths = [check_trajectory(t, x) for t, x in trajectories]
        spread = np.concatenate([x for _, x in paths]).std(0)
        spread = np.where(spread > 0, spread, 1.0)
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of integrations that fail, whose states are NaN
            gaps = [(self.simulate(x[0], t) - x) / spread for t, x in paths]
        misses: np.ndarray = np.max([np.sqrt(np.square(gap).mean(0)) for gap in gaps], axis=0)
        return misses

    def predict(self, states: Any) -> np.ndarray:
        """Derivatives at states `(N, S)`."""
        check_is_fitted(self)
        states = np.asarray(states, float)
        columns = []
        for formula, model in zip(self.formulas_, self.regressors_, strict=True):
            if model is not None:
                columns.append(model.predict(states))
            else:
                assert formula is not None
                columns.append(formula(states))
        return np.stack(columns, axis=1)

    def simulate(self, start: Any, times: Any) -> np.ndarray:
        """States `(T, S)` at times from a start `(S,)`; NaN from where integration fails."""
        return integrate(lambda x: self.predict(x[None])[0], start, times)
