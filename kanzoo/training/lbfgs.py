"""LBFGS for exact fits: no absolute thresholds, and little work beside that of the closure.

Axes: P parameters, all in one vector.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

SUFFICIENT, CURVATURE = 1e-4, 0.9  # constants of the strong Wolfe conditions
SHORTEST, LONGEST = 1.01, 10.0  # times the last trial, where that was too short
SAFE = 0.1  # share of a bracket that trials keep away from its ends
ROUNDING = 2.3e-16


class LBFGS(torch.optim.LBFGS):
    """PyTorch's LBFGS, but one that goes on where losses are small, with less work of its own.

    PyTorch leaves steps out of the history where the product of step and change of gradient is
    below 1e-10, an absolute number: at a loss of 1e-9 it stands still. And it computes with tensors
    of one number, which takes longer than to evaluate a small network. Options and closure are
    PyTorch's; the line search is Nocedal and Wright's (Numerical Optimization, algorithms 3.5 and
    3.6), for the strong Wolfe conditions.
    """

    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(params, **options)
        group = self.param_groups[0]
        if group["line_search_fn"] != "strong_wolfe" or group["maximize"]:
            raise ValueError("LBFGS needs line_search_fn='strong_wolfe' and maximize=False")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
        """One step of up to `max_iter` iterations; `closure` works out the loss and gradients."""
        group = self.param_groups[0]
        objective = _Objective(group["params"], closure)
        first = objective.evaluate()
        if not group["params"]:
            return first
        state = self.state[group["params"][0]]
        pairs: list[tuple[Tensor, Tensor, float]] = state.setdefault("pairs", [])
        here = _Trial(0.0, _number(first), 0.0, objective.gradient())
        for _ in range(group["max_iter"]):
            left = group["max_eval"] - objective.evaluations
            if float(here.gradient.abs().max()) <= group["tolerance_grad"] or left < 1:
                break
            direction = _descend(here.gradient, pairs)
            slope = float(here.gradient.dot(direction))
            if not slope < -group["tolerance_change"]:
                pairs.clear()
                break
            length = group["lr"]
            if not pairs:
                length *= min(1.0, 1 / float(here.gradient.abs().sum()))
            width = float(direction.abs().max())
            smallest = group["tolerance_change"] / width
            here = here._replace(length=0.0, slope=slope)
            reached = _search(objective, direction, here, length, smallest, left)
            if reached.length == 0:
                if objective.evaluations < group["max_eval"]:
                    pairs.clear()  # nothing is lower in this direction: forget what led to it
                objective.move(direction, 0.0)
                break
            objective.move(direction, reached.length)
            step, change = direction.mul_(reached.length), reached.gradient - here.gradient
            product = float(step.dot(change))
            if product > ROUNDING * float(change.dot(change)):
                pairs.append((step, change, 1 / product))
                del pairs[: -group["history_size"]]
            gain = here.loss - reached.loss
            here = reached
            if (
                reached.length * width <= group["tolerance_change"]
                or gain < group["tolerance_change"]
            ):
                break
        return first


class _Trial(NamedTuple):
    """Loss and gradient `(P,)` at a length along a direction, and the slope in it."""

    length: float
    loss: float
    slope: float
    gradient: Tensor


class _Objective:
    """The closure's loss and gradient as functions of one vector of all parameters."""

    def __init__(self, params: Iterable[Tensor], closure: Callable[[], Any]) -> None:
        self.params = list(params)
        self.closure = torch.enable_grad()(closure)
        self.evaluations = 0
        if self.params:
            self.start = torch.cat([p.reshape(-1) for p in self.params])
            self.point = self.start.clone()
            parts = self.point.split([p.numel() for p in self.params])
            self.parts = [part.view_as(p) for p, part in zip(self.params, parts, strict=True)]

    def evaluate(self) -> Any:
        self.evaluations += 1
        return self.closure()

    def gradient(self) -> Tensor:
        """The gradients of all parameters, `(P,)`."""
        return torch.cat(
            [p.new_zeros(p.numel()) if p.grad is None else p.grad.reshape(-1) for p in self.params]
        )

    def at(self, direction: Tensor, length: float) -> _Trial:
        """The trial at a length from the start."""
        self._write(direction, length)
        loss = _number(self.evaluate())
        gradient = self.gradient()
        return _Trial(length, loss, float(gradient.dot(direction)), gradient)

    def move(self, direction: Tensor, length: float) -> None:
        """Take a new start there."""
        self._write(direction, length)
        self.start.copy_(self.point)

    def _write(self, direction: Tensor, length: float) -> None:
        torch.add(self.start, direction, alpha=length, out=self.point)
        for parameter, part in zip(self.params, self.parts, strict=True):
            parameter.copy_(part)


def _number(loss: Any) -> float:
    return float(loss.detach() if isinstance(loss, Tensor) else loss)


def _descend(gradient: Tensor, pairs: list[tuple[Tensor, Tensor, float]]) -> Tensor:
    """Minus the inverse Hessian of the history times the gradient, by two loops over it."""
    direction = gradient.neg()
    if not pairs:
        return direction
    shares = []
    for step, change, inverse in reversed(pairs):
        shares.append(inverse * float(step.dot(direction)))
        direction.add_(change, alpha=-shares[-1])
    _, change, inverse = pairs[-1]
    direction.mul_(1 / (inverse * float(change.dot(change))))
    for (step, change, inverse), share in zip(pairs, reversed(shares), strict=True):
        direction.add_(step, alpha=share - inverse * float(change.dot(direction)))
    return direction


def _search(
    objective: _Objective,
    direction: Tensor,
    start: _Trial,
    length: float,
    smallest: float,
    most: int,
) -> _Trial:
    """A trial with the strong Wolfe conditions, or the best of `most`: perhaps the start itself."""

    def too_high(trial: _Trial) -> bool:
        return not trial.loss <= start.loss + SUFFICIENT * trial.length * start.slope

    def is_flat(trial: _Trial) -> bool:
        return abs(trial.slope) <= -CURVATURE * start.slope

    low, high = start, None
    for count in range(most):
        trial = objective.at(direction, length)
        if high is None:  # longer and longer, until a minimum is in between
            if too_high(trial) or (count and trial.loss >= low.loss):
                high = trial
            elif is_flat(trial):
                return trial
            elif trial.slope >= 0:
                low, high = trial, low
            else:
                shortest = trial.length + (SHORTEST - 1) * (trial.length - low.length)
                length = max(shortest, min(_minimum(low, trial), LONGEST * trial.length))
                low = trial
                continue
        elif too_high(trial) or trial.loss >= low.loss:
            high = trial
        elif is_flat(trial):
            return trial
        else:
            if trial.slope * (high.length - low.length) >= 0:
                high = low
            low = trial
        if abs(high.length - low.length) <= smallest:
            break
        left, right = sorted((low.length, high.length))
        edge = SAFE * (right - left)
        length = max(left + edge, min(_minimum(low, high), right - edge))
    return low


def _minimum(a: _Trial, b: _Trial) -> float:
    """Where the cubic through both trials has its minimum; halfway where it has none."""
    middle = (a.length + b.length) / 2
    if a.length == b.length or not math.isfinite(a.loss + b.loss + a.slope + b.slope):
        return middle
    width = b.length - a.length
    mixed = a.slope + b.slope - 3 * (b.loss - a.loss) / width
    square = mixed * mixed - a.slope * b.slope
    if square < 0:
        return middle
    root = math.copysign(math.sqrt(square), width)
    below = b.slope - a.slope + 2 * root
    return b.length - width * (b.slope + root - mixed) / below if below else middle
