"""What scikit-learn estimators over stacks of KAN layers share: options, scaling and training.

Axes: N samples, C columns, O outputs.
"""

import copy
import logging
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn
from torch.nn import functional as F

from kanzoo import registry
from kanzoo.bases.base import get_basis
from kanzoo.fit.least_squares import fit_lbfgs, fit_squares
from kanzoo.interpret.prior import impose
from kanzoo.interpret.prune import Pruning, prune, smallest
from kanzoo.layers.kan import KANLinear
from kanzoo.layers.parameters import count_params
from kanzoo.training.regularise import edge_penalty

log = logging.getLogger("kanzoo")

FORMULA_CHOICES = (None, "auto")
HIDDEN = (5,)  # widths of hidden layers unless given
# The ridge on the sum of squared errors of standardised targets: hardly any where there are SCARCE
# times as many numbers as parameters, and one that smooths where there are fewer.
SCARCE, SMALL_RIDGE, LARGE_RIDGE = 3, 1e-8, 0.1


class StackEstimator(BaseEstimator):
    """Scales the columns, fits a stack of `KANLinear` on growing grids, prunes and draws it."""

    def __init__(
        self,
        hidden: Sequence[int] | None = None,
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
        self.random_state = random_state

    def _check_options(self) -> None:
        sizes = [
            *(self.hidden or ()),
            *self.grid_sizes,
            self.steps,
            self.restarts,
            self.spline_order,
        ]
        if not all(isinstance(size, (int, np.integer)) and size >= 1 for size in sizes):
            raise ValueError(
                "hidden, grid_sizes, spline_order, steps and restarts must be whole, from 1"
            )
        if not self.grid_sizes:
            raise ValueError("grid_sizes must name at least one grid size")
        if self.formula not in FORMULA_CHOICES:
            raise ValueError(f"formula must be None or 'auto', got {self.formula!r}")
        if self.lamb < 0 or not 0 <= self.validation_fraction < 1:
            raise ValueError("lamb must not be negative, validation_fraction from 0 and below 1")

    def _scaled(self, x: np.ndarray) -> Tensor:
        return torch.as_tensor((x - self._shift) / self._scale)

    def _train(
        self, x: np.ndarray, y: Tensor, outputs: int, hidden: Sequence[int] | None = None
    ) -> None:
        """Scale x to [-1, 1] and fit `network_`; the grid grows while held-out data gain by it."""
        chosen = self.hidden if hidden is None else hidden
        self.hidden_ = HIDDEN if chosen is None else tuple(chosen)
        low, high = x.min(0), x.max(0)
        self._shift = (low + high) / 2
        half = (high - low) / 2
        self._scale = np.where(half > 0, half, 1.0)  # a constant column becomes zero
        z = self._scaled(x)
        random = check_random_state(self.random_state)
        order = torch.as_tensor(random.permutation(len(x)))
        held = int(self.validation_fraction * len(x)) if len(x) >= 40 else 0
        held_out, used = order[:held], order[held:]
        rows = held_out if held else used

        def measure(net: nn.Module) -> float:
            with torch.no_grad():
                return self._error(net(z[rows]), y[rows])

        starts = []
        for _ in range(self.restarts):
            net = self._build(outputs, int(random.randint(2**31 - 1)))
            self._fit_stack(net, z[used], y[used], self.steps)
            starts.append((measure(net), net))
            if SCARCE * count_params(net) > y.numel():
                break  # the ridge decides, not the start
        error, net = min(starts, key=lambda start: start[0])
        self.network_, self.grid_size_ = net, int(self.grid_sizes[0])
        for grid_size in self.grid_sizes[1:]:
            if (grid_size + self.spline_order + 1) * x.shape[1] > len(used):
                break  # fewer points than coefficients of one node
            net = copy.deepcopy(net)
            _regrid(net, z[used], int(grid_size))
            self._fit_stack(net, z[used], y[used], self.steps)
            reached = measure(net)
            if reached < error:
                error, self.network_, self.grid_size_ = reached, net, int(grid_size)
            elif held:
                break
        if count_params(self.network_) > len(x):
            log.warning(
                "%d points for %d coefficients: the fit rests on the ridge; fewer hidden units or "
                "a smaller grid size would be surer",
                len(x),
                count_params(self.network_),
            )
        self._data = (z, y)

    def _build(self, outputs: int, seed: int) -> nn.Sequential:
        sizes = [self.n_features_in_, *self.hidden_, outputs]
        basis = get_basis(
            "bspline",
            grid_size=int(self.grid_sizes[0]),
            spline_order=int(self.spline_order),
            grid_range=(-1.0, 1.0),
            extrapolation="linear",
        )
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            layers = [
                KANLinear(int(a), int(b), basis=basis, backend="dense", dtype=torch.float64)
                for a, b in pairwise(sizes)
            ]
        net = nn.Sequential(*layers)
        if self.monotone:
            impose(net, {self._column(name): kind for name, kind in self.monotone.items()})
        return net

    def _fit_stack(self, net: Any, z: Tensor, y: Tensor, steps: int) -> None:
        def penalty() -> Tensor:
            values, total = z, z.new_zeros(())
            for layer in net:
                norms = layer.edge_norms(values)  # type: ignore[operator]
                total = total + edge_penalty(norms, self.lamb_l1, self.lamb_entropy)
                values = layer(values)
            ridge = sum(p.square().sum() for p in net.parameters())
            return self.lamb * total + self._ridge * ridge / len(z)

        if self._squares and not self.lamb:
            ridge = SMALL_RIDGE if count_params(net) * SCARCE <= y.numel() else LARGE_RIDGE
            fit_squares(net, z, y, steps, ridge=ridge, least_gain=1e-3)
        else:
            fit_lbfgs(net, z, y, self._loss, 3 * steps, penalty, tolerance=1e-7)

    def _outputs(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        return self._outputs_of(validate_data(self, X, reset=False, dtype=np.float64))

    def _outputs_of(self, x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return self.network_(self._scaled(x)).numpy()

    def _names(self) -> list[str]:
        own = getattr(self, "feature_names_in_", None)
        return (
            [f"x{k}" for k in range(self.n_features_in_)] if own is None else [str(n) for n in own]
        )

    def _column(self, column: Any) -> int:
        """The number of a column given by its name or number."""
        if isinstance(column, (int, np.integer)) and 0 <= column < self.n_features_in_:
            return int(column)
        registry.check_name("column", column, self._names())
        return self._names().index(column)

    def prune(self, threshold: float | None = None, *, tolerance: float = 0.1) -> Pruning:
        """Prune `network_` and fit what is left again; returns what was removed and what it cost.

        Without a threshold the smallest network is searched whose error grows by `tolerance`.
        """
        check_is_fitted(self)
        z, y = self._data
        if threshold is None and self._squares:
            result = smallest(
                self.network_,
                z,
                y,
                tolerance=tolerance,
                refit=lambda net: self._fit_stack(net, z, y, self.steps),
            )
        else:
            result = prune(
                self.network_,
                z,
                y,
                threshold=0.03 if threshold is None else threshold,
                metric=None if self._squares else self._error,
            )
            self._fit_stack(result.net, z, y, self.steps)
        self.network_ = result.net
        return result

    def plot(self, **options: Any) -> Any:
        """The network drawn as a graph with every edge's function in place.

        Options are those of `kanzoo.interpret.pictures.graph.draw`: path, names, outputs.
        """
        check_is_fitted(self)
        from kanzoo.interpret.pictures import graph  # which loads matplotlib

        classes = [str(name) for name in getattr(self, "classes_", ())]
        options = {"names": self._names(), "outputs": classes or None, **options}
        return graph.draw(self.network_, self._data[0], **options)

    network_: nn.Module
    _squares: bool
    _ridge = 0.0

    def _loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(outputs, y)

    def _error(self, outputs: Tensor, y: Tensor) -> float:
        return float(self._loss(outputs, y))


@torch.no_grad()
def _regrid(net: nn.Sequential, z: Tensor, grid_size: int) -> None:
    """Move every grid to its inputs and refine it; functions stay."""
    values = z
    for layer in net:
        assert isinstance(layer, KANLinear)
        following = layer(values)
        layer.update_grid(values)
        layer.refine(grid_size, values)
        values = following
