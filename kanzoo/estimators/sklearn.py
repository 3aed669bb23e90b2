"""scikit-learn estimators over stacks of KAN layers, from data to formula.

Axes: N samples, C columns, O outputs.
"""

import warnings
from typing import Any, Self

import numpy as np
import sympy
import torch
from sklearn.base import ClassifierMixin, RegressorMixin, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor
from torch.nn import functional as F

from kanzoo.data.formula import formula_values, parse_formula
from kanzoo.estimators.base import StackEstimator
from kanzoo.fit.least_squares import rmse
from kanzoo.interpret.formula.expression import Formula, make_symbols, tidy, with_prior
from kanzoo.interpret.formula.problem import Problem, one_function
from kanzoo.interpret.formula.run import judge, symbolic
from kanzoo.interpret.formula.search import EXACT, FormulaError
from kanzoo.interpret.formula.symmetry import simplify

WIDEST = 9  # hidden layer of the network whose symmetries are looked for
FORMULA_RIDGE = 0.03  # of classifiers whose scores shall become formulas
ROUGH = 1e-4  # error of a network, in deviations, from which the logarithm is tried too
POOR = 0.1  # error of a formula, in deviations, from which a warning says so
LADDER = ((), (1,), (2,))  # hidden layers that are tried where a formula is looked for


class KANRegressor(RegressorMixin, StackEstimator):
    """A Kolmogorov-Arnold network for tables, as a scikit-learn regressor.

    `hidden` are the widths of the hidden layers, one of 5 unless given. Columns are scaled to
    [-1, 1], targets to deviation 1. The stack is fitted in float64 on all data at once, on grids
    that grow through `grid_sizes` while held-out data (`validation_fraction`) gain by it: by
    Levenberg-Marquardt, or by LBFGS with `lamb` times the L1 and entropy penalties of KAN
    (2404.19756, eq. 2.20).
    `formula="auto"` prunes after the fit and looks for a formula, `formula_`, from which `predict`
    then predicts, with hidden layers of 0, 1 and 2 nodes in turn unless `hidden` is given, until
    one fits exactly; `FormulaError` tells if none is within `tolerance` deviations of y, or found
    in `time_limit` seconds.
    What is known beforehand: `prior="2*x0 + sin(x1)"`, a formula in the columns' names (one for
    each output), is taken off y, the network is fitted to the residue, and predictions and formula
    are the sum of both; `monotone={"x0": "increasing"}` keeps the network (not the prior) so.
    """

    _squares = True
    _use_symmetry = True

    def fit(self, X: Any, y: Any) -> Self:
        """Fit to X `(N, C)` and y `(N,)` or `(N, O)`."""
        self._check_options()
        X, y = validate_data(self, X, y, dtype=np.float64, multi_output=True, y_numeric=True)
        y = np.asarray(y, np.float64)
        self._flat = y.ndim == 1
        y = y.reshape(len(y), -1)
        self._priors = self._parsed(y.shape[1])
        self._whole_spread = float(y.std())
        left = y - self._prior_values(X)
        self._mean, spread = left.mean(0), left.std(0)
        # What rounding leaves of a prior that is right is no residue.
        self._spread = np.where(spread > 1e-12 * y.std(0), spread, 1.0)
        y = left
        scaled = torch.as_tensor((y - self._mean) / self._spread)
        self.formula_: Formula | None = None
        if self.formula == "auto":
            self._find_formula(X, scaled)
            self._warn_of_poor_formula()
        else:
            self._train(X, scaled, y.shape[1])
        return self

    def _warn_of_poor_formula(self) -> None:
        """A formula may follow a network that does not fit: then it is said."""
        assert self.formula_ is not None
        error = self.formula_.relative_error
        if error > POOR:
            warnings.warn(
                f"the best formula misses the data by {error:.2g} of their standard deviation: "
                "they are noisy, or no network that was tried fits them",
                ConvergenceWarning,
                stacklevel=3,
            )

    def _parsed(self, outputs: int) -> list[Any]:
        """The priors as expressions, one for each output."""
        if self.prior is None:
            return []
        texts = [self.prior] if isinstance(self.prior, str) else list(self.prior)
        if len(texts) != outputs:
            raise ValueError(f"prior must be {outputs} formulas, one an output, got {len(texts)}")
        return [parse_formula(text, self._names()) for text in texts]

    def _prior_values(self, x: np.ndarray) -> Any:
        """What the prior says, `(N, O)`, or 0."""
        if not self._priors:
            return 0.0
        texts = [self.prior] if isinstance(self.prior, str) else self.prior
        assert texts is not None
        return np.stack([formula_values(text, self._names(), x) for text in texts], axis=1)

    def _find_formula(self, x: np.ndarray, y: Tensor) -> None:
        """Fit, prune and read networks from the smallest up, until a formula fits exactly."""
        best: tuple[float, dict[str, Any]] | None = None
        failure: FormulaError | None = None
        single = self._use_symmetry and self.hidden is None and y.shape[1] == 1
        # Fewer variables are not those that a network shall be monotone in.
        single = single and not self.monotone
        if single and self._by_symmetry(x, y):
            return
        for hidden in LADDER if self.hidden is None else (self.hidden,):
            self._train(x, y, y.shape[1], hidden)
            self.prune()
            try:
                error = self.symbolic().rmse_formula / float(self._spread.mean())
            except FormulaError as reason:
                failure = reason
                continue
            if best is None or error < 0.8 * best[0]:
                best = error, dict(self.__dict__)
            if error < EXACT:
                break
        if best is None:
            assert failure is not None
            raise failure
        self.__dict__.update(best[1])

    def _by_symmetry(self, x: np.ndarray, y: Tensor) -> bool:
        """Look for a formula of fewer variables; whether there is one within the tolerance."""
        values = y[:, 0].numpy() * self._spread[0] + self._mean[0]
        smooth = self._smooth(x, values)
        symbols = make_symbols(self._names())
        whole = Problem(x, values, tuple(symbols), lambda e: e)
        small = simplify(whole, self._smooth, smooth)
        if small is whole and x.shape[1] > 1:
            return False
        found = self._leaf(small)
        if found is None:
            return False
        raw, edges = found
        index = np.arange(0, len(x), max(1, len(x) // 500))
        neat = tidy(raw, symbols, x[index], values[index]) if raw.free_symbols else raw
        self._train(x, y, 1, smooth.model.hidden_)
        network = self._outputs_of(x) * self._spread + self._mean
        try:
            formula = judge(
                [[neat], [raw]], symbols, x, values[:, None], network, edges, self.tolerance
            )
            self.formula_ = self._whole(formula)
        except FormulaError:
            return False
        return True

    def _leaf(self, small: Problem) -> tuple[sympy.Expr, list[dict[str, Any]]] | None:
        """The expression of what is left when all symmetries are used."""
        if small.is_constant or not small.x.shape[1]:
            return small.invert(sympy.Float(small.y.mean(), 17)), []
        single = one_function(small) if small.x.shape[1] == 1 else None
        if single is not None:
            return single
        rest = clone(self).set_params(prior=None)  # which was taken off already
        rest._use_symmetry = False
        try:
            rest.fit(small.x, small.y)
        except FormulaError:
            return None
        assert rest.formula_ is not None
        own = dict(zip(rest.formula_.symbols, small.columns, strict=True))
        return small.invert(rest.formula_.expression.subs(own)), rest.formula_.edges

    def _smooth(self, x: np.ndarray, y: np.ndarray) -> "_Smooth":
        """A network of one hidden layer, fitted to y or to its logarithm, whichever goes better."""
        plain = clone(self).set_params(
            formula=None, prior=None, hidden=(min(2 * x.shape[1] + 1, WIDEST),)
        )
        found = _Smooth(clone(plain).fit(x, y), x, y)
        if found.error > ROUGH and y.min() > 0:
            other = _Smooth(plain.fit(x, np.log(y)), x, y, logarithm=True)
            return min(found, other, key=lambda smooth: smooth.error)
        return found

    def predict(self, X: Any) -> np.ndarray:
        """Values for X `(N, C)`: `(N,)`, or `(N, O)` if fitted to such; by the formula if asked."""
        if self.formula == "auto" and getattr(self, "formula_", None) is not None:
            X = validate_data(self, X, reset=False, dtype=np.float64)
            assert self.formula_ is not None
            values = self.formula_(X)
            return values if self._flat else values.reshape(len(X), -1)
        outputs = self._outputs(X)
        X = np.asarray(X, np.float64)
        values = outputs * self._spread + self._mean + self._prior_values(X)
        return values[:, 0] if self._flat else values

    def symbolic(self, **options: Any) -> Formula:
        """The formula in the columns' names (x0, x1, ... without names), kept as `formula_`.

        Options are those of `kanzoo.interpret.formula.run.symbolic`, `tolerance` above all.
        """
        check_is_fitted(self)
        z, y = self._data
        try:
            found = symbolic(
                self.network_,
                z,
                y,
                names=self._names(),
                inputs=list(zip(self._shift.tolist(), self._scale.tolist(), strict=True)),
                outputs=list(zip(self._mean.tolist(), self._spread.tolist(), strict=True)),
                **{"tolerance": self.tolerance, "time_limit": self.time_limit, **options},
            )
        except FormulaError as error:
            error.formula = error.formula and self._whole(error.formula)
            raise
        self.formula_ = self._whole(found)
        return self.formula_

    def _whole(self, formula: Formula) -> Formula:
        """The formula of the residue together with the prior."""
        if not self._priors:
            return formula
        return with_prior(formula, self._priors, self._whole_spread)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class _Smooth:
    """A fitted regressor, of y or of its logarithm, as the search for symmetries takes it."""

    def __init__(
        self, model: KANRegressor, x: np.ndarray, y: np.ndarray, *, logarithm: bool = False
    ) -> None:
        self.model, self.logarithm = model, logarithm
        values = self._outputs(x)[0]
        truth = np.log(y) if logarithm else y
        self.error = rmse(values, truth) / (float(truth.std()) or 1.0)

    def gradient(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values `(N,)` and derivatives `(N, C)`."""
        values, slopes = self._outputs(x)
        if self.logarithm:
            values = np.exp(values)
            slopes = slopes * values[:, None]
        return values, slopes

    def _outputs(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        model = self.model
        z = model._scaled(x).requires_grad_()
        output = model.network_(z)[:, 0]
        (slopes,) = torch.autograd.grad(output.sum(), z)
        height, scale = float(model._mean[0]), float(model._spread[0])
        return output.detach().numpy() * scale + height, slopes.numpy() * scale / model._scale


class KANClassifier(ClassifierMixin, StackEstimator):
    """A Kolmogorov-Arnold network for tables, as a scikit-learn classifier.

    As `KANRegressor`, fitted to the cross-entropy by LBFGS with a small ridge. A formula is one of
    every class' score (logit); `formula="auto"` looks for one without hidden layers unless `hidden`
    is given, a sum of functions of the columns. Scores need not be exact to tell classes apart: a
    `tolerance` of 0.05 or 0.1 finds formulas more often than the default.
    """

    _squares = False
    _ridge = 1e-3

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
        automatic = self.formula == "auto"
        # Smooth scores, which are as good at telling classes apart, have simpler formulas.
        self._ridge = FORMULA_RIDGE if automatic else type(self)._ridge
        hidden = () if automatic and self.hidden is None else None
        self._train(X, torch.as_tensor(codes), len(self.classes_), hidden)
        self.formula_: Formula | None = None
        if self.formula == "auto":
            self.prune()
            self.symbolic()
        return self

    def _loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(outputs, y)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the classes, `(N, O)`."""
        return torch.softmax(torch.as_tensor(self._outputs(X)), dim=1).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """Labels, `(N,)`."""
        outputs = self._outputs(X)
        return self.classes_[outputs.argmax(1)]

    def symbolic(self, **options: Any) -> Formula:
        """Formulas of the classes' scores in the columns' names, kept as `formula_`."""
        check_is_fitted(self)
        self.formula_ = symbolic(
            self.network_,
            self._data[0],
            names=self._names(),
            inputs=list(zip(self._shift.tolist(), self._scale.tolist(), strict=True)),
            **{"tolerance": self.tolerance, "time_limit": self.time_limit, **options},
        )
        return self.formula_
