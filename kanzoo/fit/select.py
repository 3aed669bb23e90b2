"""Stacks whose form and penalty held-out data choose: from a linear model to hidden layers.

A linear model and a sum of functions of the columns are stacks without hidden layers; they are
always among the candidates, and what they leave is where hidden layers start from.

Axes: N samples, C columns, O outputs.
"""

import copy
import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import Tensor, nn

from kanzoo.fit.embed import bias_of, embed, layers_of
from kanzoo.fit.newton import Penalty, fit_newton, losses, predict
from kanzoo.fit.noise import conformal_quantiles
from kanzoo.fit.parts import fit_parts
from kanzoo.fit.scaling import range_scaling
from kanzoo.fit.stack import (
    HIDDEN,
    FittedStack,
    StackOptions,
    build_stack,
    refine_stack,
    standardise,
)
from kanzoo.layers.parameters import count_params

MAX_ROWS = 6_000  # that candidates are compared on; the chosen one is fitted to all
MAX_FOLD_ROWS = 3_000  # samples from which one part is held out instead of folds in turn
NUM_FOLDS, FEW_FOLDS, MANY = 5, 3, 500  # fewer folds from so many samples
MAX_SIZE = 1_500  # parameters of a candidate that nobody asked for
RIDGES = (1e4, 1e3, 300.0, 100.0, 30.0, 10.0, 3.0, 1.0, 0.1, 1e-3, 1e-6)
ROUGH = (1e4, 1e3, 100.0, 10.0, 1.0, 0.1, 1e-3, 1e-8)
HIDDEN_RIDGE, LEAST, MOST = 0.03, 1e-8, 100.0  # from where hidden layers go up, then down
COARSE = 0.01  # share that the steps of a candidate must gain
GAIN = 0.5  # standard errors by which a candidate must be better than a simpler one
SHARE, FINAL = 0.7, 0.93  # of the time, after which no other candidate or step is begun

log = logging.getLogger("kanzoo")


@dataclass
class Candidate:
    """Networks of one form and penalty, one a fold, and their losses on held-out samples."""

    nets: list[nn.Sequential]
    penalty: Penalty
    grid_size: int
    losses: Tensor
    misses: Tensor | None = None
    """Absolute errors of held-out samples, `(N, O)`, of regression."""

    @property
    def error(self) -> float:
        return float(self.losses.mean())

    def beats(self, other: "Candidate") -> bool:
        """Whether it is better than a simpler one by more than chance."""
        gain = other.losses - self.losses
        noise = float(gain.std()) / math.sqrt(len(gain)) if len(gain) > 1 else 0.0
        return float(gain.mean()) > GAIN * noise


class Selection:
    """The data, the folds, and the clock of a selection."""

    def __init__(
        self,
        z: Tensor,
        y: Tensor,
        weights: Tensor | None,
        options: StackOptions,
        stop: float,
        num_classes: int | None = None,
    ) -> None:
        self.options, self.stop = options, stop
        random = check_random_state(options.random_state)
        order = torch.as_tensor(random.permutation(len(z)))[:MAX_ROWS]
        self.z, self.y = z[order], y[order]
        self.weights = None if weights is None else weights[order]
        self.num_outputs = num_classes or (
            y.shape[1] if y.is_floating_point() else int(y.max()) + 1
        )
        self.seeds = [int(random.randint(2**31 - 1)) for _ in range(max(options.restarts, 1))]
        rows = torch.arange(len(order))
        if len(rows) > MAX_FOLD_ROWS:
            parts = [rows[: max(1, int(options.validation_fraction * len(rows)))]]
        else:
            num_folds = NUM_FOLDS if len(rows) < MANY else FEW_FOLDS
            parts = list(rows.tensor_split(min(num_folds, len(rows))))
        self.held, self.used = parts, [rows[~torch.isin(rows, part)] for part in parts]
        if len(rows) < 3:
            self.held = self.used = [rows]

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self.stop

    def build(self, hidden: Sequence[int], grid_size: int, seed: int) -> nn.Sequential:
        options = replace(self.options, hidden=hidden, grid_sizes=(grid_size,))
        return build_stack(self.z.shape[1], self.num_outputs, options, seed, "identity")

    def fit(self, nets: Sequence[nn.Sequential], penalty: Penalty, grid_size: int) -> Candidate:
        """Copies of networks, fitted to their folds."""
        nets, errors, misses = copy.deepcopy(list(nets)), [], []
        for net, used, held in zip(nets, self.used, self.held, strict=True):
            weights = None if self.weights is None else self.weights[used]
            fit_newton(
                net, self.z[used], self.y[used], penalty, weights=weights,
                steps=self.options.steps, least_gain=COARSE, deadline=self.stop,
            )  # fmt: skip
            outputs = predict(net, self.z[held])
            each = losses(outputs, self.y[held])
            if self.y.is_floating_point() and held is not used:
                misses.append((outputs - self.y[held]).abs())
            errors.append(each if self.weights is None else each * self.weights[held])
        values = torch.cat(errors).nan_to_num(math.inf, math.inf)
        return Candidate([*nets], penalty, grid_size, values, torch.cat(misses) if misses else None)

    def path(
        self,
        start: Sequence[nn.Sequential],
        penalties: Iterator[Penalty],
        grid_size: int,
        patience: int = 3,
    ) -> Candidate | None:
        """The best along a path of penalties, which ends when `patience` in a row are worse."""
        best: Candidate | None = None
        nets, worse = start, 0
        for penalty in penalties:
            if self.is_over and best is not None:
                break
            reached = self.fit(nets, penalty, grid_size)
            nets = reached.nets
            if best is None or reached.error < best.error:
                best, worse = reached, 0
            else:
                worse += 1
                if worse == patience:
                    break
        return best

    def linear(self) -> Candidate:
        net = self.build((), int(self.options.grid_sizes[0]), 0)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.zero_()
        ridges = RIDGES if self.y.is_floating_point() else RIDGES[3:-1]
        best = self.path(
            [net] * len(self.held), map(Penalty, ridges), int(self.options.grid_sizes[0])
        )
        assert best is not None
        return best

    def additive(self, linear: Candidate, grid_size: int) -> Candidate | None:
        start = [self.build((), grid_size, 0) for _ in linear.nets]
        with torch.no_grad():
            for net, other in zip(start, linear.nets, strict=True):
                new, old = layers_of(net)[0], layers_of(other)[0]
                new.weight.zero_()
                new.weight[:, -1] = old.weight[:, -1]
                bias_of(new).copy_(bias_of(old))
        rough = ROUGH if self.y.is_floating_point() else ROUGH[1:-2]
        ridge = linear.penalty.ridge
        return self.path(start, (Penalty(ridge, r) for r in rough), grid_size)

    def hidden(self, base: Candidate, widths: Sequence[int]) -> Candidate | None:
        """Networks with hidden layers, which start from the base or at random."""
        grid_size = int(self.options.grid_sizes[0])
        best: Candidate | None = None
        for k, seed in enumerate(self.seeds):
            if self.is_over and best is not None:
                break
            start = [self.build(widths, grid_size, seed) for _ in base.nets]
            if k == 0:
                for net, other in zip(start, base.nets, strict=True):
                    embed(net, other)
            if best is None:
                found = self.path(start, _up(HIDDEN_RIDGE), grid_size, 2)
                assert found is not None
                if found.penalty.ridge == HIDDEN_RIDGE:
                    lower = self.path(found.nets, _down(HIDDEN_RIDGE), grid_size, 2)
                    found = min((c for c in (found, lower) if c), key=lambda c: c.error)
            else:
                ridge = best.penalty.ridge
                found = self.fit(start, Penalty(ridge, ridge), grid_size)
            if best is None or found.error < best.error:
                best = found
        return best

    def grown(self, candidate: Candidate) -> Candidate:
        """A candidate with hidden layers on finer grids, as far as these are better."""
        for grid_size in self.options.grid_sizes[1:]:
            size = (int(grid_size) + self.options.spline_order + 1) * self.z.shape[1]
            if self.is_over or size > len(self.used[0]):
                break
            nets = copy.deepcopy(candidate.nets)
            for net, used in zip(nets, self.used, strict=True):
                refine_stack(net, self.z[used], int(grid_size))
            finer = self.fit(nets, candidate.penalty, int(grid_size))
            if not finer.error < candidate.error:
                break
            candidate = finer
        return candidate


def select_stack(
    x: np.ndarray,
    y: Tensor,
    options: StackOptions,
    *,
    weights: Tensor | None = None,
    units: tuple[np.ndarray, np.ndarray] | None = None,
    time_budget: float | None = None,
    num_classes: int | None = None,
) -> FittedStack:
    """Fit x `(N, C)` to standardised targets `(N, O)`, or to numbers of classes `(N,)`.

    Candidates are a linear model, a sum of functions, and networks with hidden layers, or only
    those of `options.hidden`; their penalties and grids are chosen by the losses of held-out
    samples, and one that is not simpler must be better by more than chance. `units` are mean and
    deviation of the targets; `time_budget` in seconds holds for all of it. There may be more
    classes than occur, `num_classes`.
    """
    start = time.monotonic()
    time_budget = math.inf if time_budget is None else time_budget
    scaling = range_scaling(x, fence=True)
    z = scaling(x)
    unit = 1.0 if weights is None else float(weights.mean())
    weights = None if weights is None else weights / unit
    selection = Selection(z, y, weights, options, start + SHARE * time_budget, num_classes)
    best = _choose(selection, options)
    net = best.nets[0]
    limits: Any = {"steps": options.steps, "deadline": start + FINAL * time_budget}
    seen = fit_parts(net, z, y, best.penalty, weights=weights, **limits)
    if seen < len(z):
        log.info("time_budget=%g was enough for %d of %d samples", time_budget, seen, len(z))
    mean, deviation = standardise(np.zeros((1, selection.num_outputs))) if units is None else units
    chosen = replace(options, hidden=[layer.out_features for layer in layers_of(net)[:-1]])
    misses = None if best.misses is None else conformal_quantiles(best.misses.numpy())
    return FittedStack(
        net,
        best.grid_size,
        z,
        y,
        scaling,
        mean,
        deviation,
        chosen,
        best.penalty,
        weights,
        unit,
        misses,
    )


def _choose(selection: Selection, options: StackOptions) -> Candidate:
    wanted = options.hidden
    linear = base = selection.linear()
    columns, outputs = selection.z.shape[1], selection.num_outputs
    coarse = linear
    ends = {int(options.grid_sizes[0]): None, int(options.grid_sizes[-1]): None}
    for grid_size in ends:  # the penalty on roughness makes those between superfluous
        size = (grid_size + options.spline_order + 1) * columns * outputs
        if selection.is_over or size > MAX_SIZE:
            break
        found = selection.additive(linear, grid_size)
        if found is not None and found.beats(base):
            base = found
            coarse = found if grid_size == int(options.grid_sizes[0]) else coarse
    if wanted is not None and not len(wanted):
        return base
    widths = HIDDEN if wanted is None else wanted
    size = count_params(selection.build(widths, int(options.grid_sizes[0]), 0))
    if wanted is None and (selection.is_over or size > MAX_SIZE):
        return base
    deep = selection.hidden(coarse, widths)
    if deep is None or (wanted is None and not deep.beats(base)):
        return base
    return selection.grown(deep)


def _up(ridge: float) -> Iterator[Penalty]:
    while ridge <= MOST:
        yield Penalty(ridge, ridge)
        ridge *= 6


def _down(ridge: float) -> Iterator[Penalty]:
    while ridge > LEAST:
        ridge = max(ridge / 30, LEAST)
        yield Penalty(ridge, ridge)
