"""Formulas of dynamical systems from time series.

Axes: T times, S states, N samples.
"""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from kanzoo.data.dynamics import check_trajectory, derivatives, integrate
from kanzoo.estimators.regressor import KANRegressor


class KANDynamics(BaseEstimator):
    """Right-hand sides of dx/dt = f(x) from trajectories, one `KANRegressor` a state.

    Parameters
    ----------
    method : {"smooth", "difference", "weak"}
        How derivatives are estimated, see `kanzoo.data.dynamics.derivatives` (as in SINDy,
        1509.03580, and its weak form, 2005.04339).
    regressor : KANRegressor, optional
        What is fitted to each derivative; unless given, `KANRegressor(formula="auto")`.

    Attributes
    ----------
    regressors_ : list of KANRegressor
        One for each state.
    formulas_ : list of Formula or None
        Their formulas in x0, x1, ...
    """

    def __init__(self, method: str = "smooth", regressor: KANRegressor | None = None) -> None:
        self.method = method
        self.regressor = regressor

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
        pairs = [derivatives(t, x, self.method) for t, x in zip(times, states, strict=True)]
        x, slopes = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
        base = self.regressor or KANRegressor(formula="auto", random_state=0)
        self.regressors_ = [clone(base).fit(x, slope) for slope in slopes.T]
        self.formulas_ = [model.formula_ for model in self.regressors_]
        return self

    def predict(self, states: Any) -> np.ndarray:
        """Derivatives at states `(N, S)`."""
        check_is_fitted(self)
        return np.stack([model.predict(states) for model in self.regressors_], axis=1)

    def simulate(self, start: Any, times: Any) -> np.ndarray:
        """States `(T, S)` at times from a start `(S,)`; NaN from where integration fails."""
        return integrate(lambda x: self.predict(x[None])[0], start, times)
