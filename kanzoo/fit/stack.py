"""A stack of KAN layers fitted to a table: scaled columns, grids that grow, the best of starts.

Axes: N samples, C columns, O outputs.
"""

import copy
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from numbers import Real
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import Tensor, nn
from torch.nn import functional as F

from kanzoo.bases.base import get_basis
from kanzoo.fit.least_squares import fit_lbfgs, fit_squares, sum_of_squares
from kanzoo.fit.newton import Anchor, Penalty, fit_newton, is_plain, predict
from kanzoo.fit.parts import anchor_at, fit_parts
from kanzoo.fit.scaling import Scaling, range_scaling
from kanzoo.layers import KANLinear
from kanzoo.layers.parameters import count_params
from kanzoo.layers.products import Products
from kanzoo.training.regularise import edge_penalty

log = logging.getLogger("kanzoo")

HIDDEN = (5,)  # widths of hidden layers unless given
# The ridge on the sum of squared errors of standardised targets: hardly any where there are SCARCE
# times as many numbers as parameters, and one that smooths where there are fewer.
SCARCE, SMALL_RIDGE, LARGE_RIDGE = 3, 1e-8, 0.1
MIN_HELD_OUT = 40  # samples from which some are held out


@dataclass(frozen=True)
class StackOptions:
    """How a stack is fitted; `KANRegressor` explains its parameters: the first ten here, `mult`.

    `ridge` times the mean of squares of all parameters is added to losses that are not squared
    errors; `constrain` changes a new network in place, before it is fitted.
    """

    hidden: Sequence[int] | None = None
    grid_sizes: Sequence[int] = (3, 5, 10)
    spline_order: int = 3
    steps: int = 20
    restarts: int = 3
    lamb: float = 0.0
    lamb_l1: float = 1.0
    lamb_entropy: float = 2.0
    validation_fraction: float = 0.15
    random_state: Any = None
    loss: Callable[[Tensor, Tensor], Tensor] = F.mse_loss
    ridge: float = 0.0
    constrain: Callable[[nn.Module], object] | None = None
    mult: int = 0

    @property
    def is_regression(self) -> bool:
        """Whether the loss is the mean squared error."""
        return self.loss is F.mse_loss


@dataclass
class FittedStack:
    """A network that takes scaled columns and gives scaled targets, and what both mean.

    `scaled` gives the network's inputs, and a target is `deviation` times its output plus `mean`,
    `(O,)` each; `z` `(N, C)` and `y` `(N, O)` are the scaled data that it was fitted to (`y` `(N,)`
    for labels), `weights` `(N,)` those of the samples in `weight_unit`, `misses` `(Q, O)` evenly
    spaced quantiles of the errors of held-out samples. Data are not pickled: what needs them
    afterwards raises `ValueError`.
    """

    net: nn.Module
    grid_size: int
    z: Tensor
    y: Tensor
    scaled: Scaling
    mean: np.ndarray
    deviation: np.ndarray
    options: StackOptions
    penalty: Penalty | None = None
    weights: Tensor | None = None
    weight_unit: float = 1.0
    misses: np.ndarray | None = None
    anchor: Anchor | None = None
    """What all samples so far say about the parameters, once `learn` was called."""

    @property
    def shift(self) -> np.ndarray:
        return self.scaled.shift

    @property
    def scale(self) -> np.ndarray:
        return self.scaled.scale

    def __getstate__(self) -> dict[str, Any]:
        # Options may hold functions that cannot be pickled, and are for fits alone.
        data = {name: None for name in ("z", "y", "weights")}
        return {**vars(self), **data, "options": replace(self.options, constrain=None)}

    def check_data(self) -> None:
        """Raise `ValueError` if the data are no longer there."""
        if self.z is None:
            raise ValueError(
                "an estimator that was pickled or copied holds no training data, which pruning, "
                "formulas and pictures need: fit it again"
            )

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Targets, or scores of classes, `(N, O)` for x `(N, C)`."""
        outputs: np.ndarray = predict(self.net, self.scaled(x)).numpy()
        return outputs * self.deviation + self.mean

    @torch.no_grad()
    def loss(self) -> float:
        """The error in training: of the scaled targets, or the loss of classes."""
        if self.options.is_regression:
            return self.rmse()
        return float(self.options.loss(predict(self.net, self.z), self.y))

    @torch.no_grad()
    def rmse(self) -> float:
        """Error of the scaled targets in training."""
        return float((predict(self.net, self.z) - self.y).square().mean().sqrt())

    def reach(self, share: float) -> np.ndarray:
        """How far the given share of new targets is from predictions at most, `(O,)`."""
        if not isinstance(share, Real) or not 0 < share < 1:
            raise ValueError(f"interval must be between 0 and 1, got {share!r}")
        if self.misses is None:
            raise ValueError(
                "intervals need errors of held-out samples: formula=None, lamb=0, monotone=None, "
                "mult=0 and at least three samples"
            )
        reach: np.ndarray = self.misses[math.ceil(share * (len(self.misses) - 1))]
        if not np.isfinite(reach).all():
            raise ValueError(f"interval={share:g} needs more samples: too few errors are known")
        return reach * self.deviation

    def refit(self, net: nn.Module) -> None:
        """Fit a network that took the place of the stack's to the same data."""
        if self.penalty is not None and is_plain(net):
            assert isinstance(net, nn.Sequential)
            penalty = (
                self.penalty if not self.penalty.is_linear else replace(self.penalty, rough=1e6)
            )
            fit_parts(net, self.z, self.y, penalty, weights=self.weights)
        else:
            _fit(net, self.z, self.y, self.options)
        self.anchor = None

    def learn(self, x: np.ndarray, y: Tensor, weights: Tensor | None = None) -> None:
        """Fit to further samples as well, y scaled as those before; these are then the data.

        Scaling, form and grids stay. Raises `ValueError` where what came before is not known.
        """
        if self.penalty is None or not is_plain(self.net):
            raise ValueError("partial_fit needs a network that was not pruned or changed by hand")
        assert isinstance(self.net, nn.Sequential)
        if weights is not None or self.weight_unit != 1:
            weights = torch.ones(len(x)) if weights is None else weights
            weights = weights.double() / self.weight_unit
        if self.anchor is None:
            self.check_data()
            self.anchor = anchor_at(self.net, self.z, self.y, self.penalty, self.weights)
        data: tuple[nn.Sequential, Tensor, Tensor, Penalty]
        data = (self.net, self.scaled(x), y, self.penalty)
        fit_newton(*data, weights=weights, steps=self.options.steps, anchor=self.anchor)
        self.anchor = anchor_at(*data, weights=weights, anchor=self.anchor)
        self.z, self.y, self.weights = data[1], y, weights


def standardise(y: np.ndarray, floor: Any = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the columns of y; 1 for deviations at most at the floor."""
    deviation = y.std(0)
    return y.mean(0), np.where(deviation > floor, deviation, 1.0)


def fit_regression(
    x: np.ndarray,
    y: np.ndarray,
    options: StackOptions,
    units: tuple[np.ndarray, np.ndarray] | None = None,
) -> FittedStack:
    """`fit_stack` to y `(N, O)`, standardised by `units`, its mean and deviation unless given."""
    mean, deviation = standardise(y) if units is None else units
    stack = fit_stack(x, torch.as_tensor((y - mean) / deviation), y.shape[1], options)
    return replace(stack, mean=mean, deviation=deviation)


def fit_stack(x: np.ndarray, y: Tensor, num_outputs: int, options: StackOptions) -> FittedStack:
    """Scale x `(N, C)` to [-1, 1] and fit a stack; the grid grows while held-out data gain by it.

    `y` is what the loss takes: standardised targets `(N, O)` or the numbers of classes `(N,)`.
    """
    scaling = range_scaling(x)
    z = scaling(x)
    random = check_random_state(options.random_state)
    order = torch.as_tensor(random.permutation(len(x)))
    num_held = int(options.validation_fraction * len(x)) if len(x) >= MIN_HELD_OUT else 0
    held_out, used = order[:num_held], order[num_held:]
    rows = held_out if num_held else used

    def measure(net: nn.Module) -> float:
        with torch.no_grad():
            return float(options.loss(net(z[rows]), y[rows]))

    starts = []
    for _ in range(options.restarts):
        net = build_stack(x.shape[1], num_outputs, options, int(random.randint(2**31 - 1)))
        _fit(net, z[used], y[used], options)
        starts.append((measure(net), net))
        if SCARCE * count_params(net) > y.numel():
            break  # the ridge decides, not the start
    error, best = min(starts, key=lambda start: start[0])
    net, best_size = best, int(options.grid_sizes[0])
    for grid_size in options.grid_sizes[1:]:
        if (grid_size + options.spline_order + 1) * x.shape[1] > len(used):
            break  # fewer points than coefficients of one node
        net = copy.deepcopy(net)
        refine_stack(net, z[used], int(grid_size))
        _fit(net, z[used], y[used], options)
        reached = measure(net)
        if reached < error:
            error, best, best_size = reached, net, int(grid_size)
        elif num_held:
            break
    if count_params(best) > len(x):
        log.warning(
            "%d points for %d coefficients: the fit rests on the ridge; fewer hidden units or "
            "a smaller grid size would be surer",
            len(x),
            count_params(best),
        )
    mean, deviation = np.zeros(num_outputs), np.ones(num_outputs)
    return FittedStack(best, best_size, z, y, scaling, mean, deviation, options)


def build_stack(
    num_columns: int, num_outputs: int, options: StackOptions, seed: int, residual: str = "auto"
) -> nn.Sequential:
    """A new network on the first grid; its weights are drawn by the seed."""
    hidden = HIDDEN if options.hidden is None else options.hidden
    basis = get_basis(
        "bspline",
        grid_size=int(options.grid_sizes[0]),
        spline_order=int(options.spline_order),
        grid_range=(-1.0, 1.0),
        extrapolation="linear",
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        modules: list[nn.Module] = []
        residual = "identity" if options.mult and residual == "auto" else residual
        kept: dict[str, Any] = {"residual": residual, "backend": "dense", "dtype": torch.float64}
        sizes = [int(size) for size in (num_columns, *hidden, num_outputs)]
        for depth, (a, b) in enumerate(pairwise(sizes)):
            products = min(options.mult, b) if depth < len(hidden) else 0
            modules.append(KANLinear(a, b + products, basis=basis, **kept))
            if products:
                modules.append(Products(b, products))
    net = nn.Sequential(*modules)
    if options.constrain:
        options.constrain(net)
    return net


def _fit(net: Any, z: Tensor, y: Tensor, options: StackOptions) -> None:
    def penalty() -> Tensor:
        values, total = z, z.new_zeros(())
        for layer in net:
            if isinstance(layer, KANLinear):
                norms = layer.edge_norms(values)
                total = total + edge_penalty(norms, options.lamb_l1, options.lamb_entropy)
            values = layer(values)
        return options.lamb * total + options.ridge * sum_of_squares(net) / len(z)

    if options.is_regression and not options.lamb:
        given = sum(layer.num_idle for layer in net if isinstance(layer, KANLinear))
        count = count_params(net) - given
        ridge = SMALL_RIDGE if count * SCARCE <= y.numel() else LARGE_RIDGE
        fit_squares(net, z, y, options.steps, ridge=ridge, least_gain=1e-3)
    else:
        fit_lbfgs(net, z, y, options.loss, 3 * options.steps, penalty, tolerance=1e-7)


@torch.no_grad()
def refine_stack(net: nn.Sequential, z: Tensor, grid_size: int) -> None:
    """Move every grid to its inputs and refine it; functions stay."""
    values = z
    for layer in net:
        following = layer(values)
        if isinstance(layer, KANLinear):
            layer.update_grid(values)
            layer.refine(grid_size, values)
        values = following
