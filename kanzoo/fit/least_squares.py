"""Fitting small networks on all data at once, in float64: Levenberg-Marquardt and LBFGS.

Axes: N samples, O outputs, P parameters.
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from kanzoo.fit.compiled_mse import compiled_mse
from kanzoo.layers.parameters import count_params
from kanzoo.training.lbfgs import LBFGS

log = logging.getLogger("kanzoo")

MAX_JACOBIAN = 20_000_000  # numbers of a Jacobian that are still worth their memory
GIVEN = "given_affine"  # parameters of given functions
MAX_SIZE = 3_000  # parameters whose normal equations are still worth being solved
Penalty = Callable[[], Tensor]


def fit_squares(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    steps: int = 50,
    *,
    ridge: float = 0.0,
    least_gain: float = 1e-6,
) -> float:
    """Minimise the mean squared error over all trainable parameters; returns the RMSE reached.

    Shapes: x `(N, C)`, y `(N, O)`. Levenberg-Marquardt where the Jacobian fits in memory, which for
    such networks gets many digits further than LBFGS in the same time; LBFGS otherwise. `ridge`
    times the sum of squares of all parameters is added to the sum of squared errors.
    """
    size = count_params(net)
    is_small = size <= MAX_SIZE and y.numel() * size <= MAX_JACOBIAN
    if is_small and y.numel() * size**2 <= 2e10:
        problem = _Network(net, x, y, ridge)
        if problem.parameters:
            levenberg_marquardt(problem, steps, least_gain=least_gain, damping=Damping())
        return network_rmse(net, x, y)

    def penalty() -> Tensor:
        return ridge / y.numel() * sum_of_squares(net)

    fit_lbfgs(net, x, y, nn.functional.mse_loss, 10 * steps, penalty if ridge else None)
    return network_rmse(net, x, y)


def sum_of_squares(net: nn.Module) -> Tensor:
    """What a ridge weighs: all parameters but those of given functions, which mean something."""
    parameters = [p for name, p in net.named_parameters() if not name.endswith(GIVEN)]
    return torch.stack([p.square().sum() for p in parameters]).sum()


class Squares(Protocol):
    """A loss, about a sum of squares, whose parameters are one vector `(P,)`."""

    def flat(self) -> Tensor:
        """The parameters."""

    def write(self, flat: Tensor) -> None:
        """Set the parameters."""

    def value(self) -> float:
        """What is made small."""

    def normal_equations(self) -> tuple[Tensor, Tensor, Tensor]:
        """The Gauss-Newton matrix `(P, P)`, the gradient and the scales of parameters `(P,)`."""


@dataclass(frozen=True)
class Damping:
    """How steps of Levenberg-Marquardt are shortened until the value falls."""

    start: float = 1e-3
    factor: float = 4.0  # of a step that does not gain
    least: float = 1e-14
    floor: float = 1e-10  # beside the scales, as a share of their mean
    tries: int = 12


def levenberg_marquardt(
    problem: Squares,
    steps: int,
    *,
    least_gain: float,
    damping: Damping,
    least_promise: float | None = None,
    deadline: float = math.inf,
) -> float:
    """Levenberg-Marquardt with Marquardt's scaling and a damping that follows the gain.

    Directions that the data leave open stay where they are. Stops when a step gains less than the
    share `least_gain` three times in a row, when none gains, or promises more than the share
    `least_promise`, and at the deadline of `time.monotonic`. Returns the value reached.
    """
    best, amount, idle = problem.value(), damping.start, 0
    for _ in range(steps):
        if time.monotonic() > deadline:
            break
        before = problem.flat()
        gram, gradient, scales = problem.normal_equations()
        floor = damping.floor * float(scales.mean()) + 1e-300
        gained = False
        for _ in range(damping.tries):
            damped = gram.clone()
            damped.diagonal().add_(amount * scales + floor)
            factor, info = torch.linalg.cholesky_ex(damped)
            if int(info) == 0:
                change = torch.cholesky_solve(gradient[:, None], factor)[:, 0]
                problem.write(before - change)
                reached = problem.value()
                if reached < best:
                    gained = True
                    break
                if least_promise is not None and float(gradient @ change) < least_promise * best:
                    break
            amount = max(amount * damping.factor, damping.least)
        if not gained:
            problem.write(before)
            break
        idle = idle + 1 if reached > best * (1 - least_gain) else 0
        best, amount = reached, amount / 10
        if idle == 3:
            break
    return best


class _Network:
    """The RMSE of any network, with a ridge, differentiated automatically."""

    def __init__(self, net: nn.Module, x: Tensor, y: Tensor, ridge: float) -> None:
        self.net, self.x, self.y, self.ridge = net, x, y, ridge
        self.parameters = {n: p for n, p in net.named_parameters() if p.requires_grad}
        fixed: dict[str, Tensor] = {n: p for n, p in net.named_parameters() if not p.requires_grad}
        fixed |= dict(net.named_buffers())
        counts = {n: float(not n.endswith(GIVEN)) for n in self.parameters}
        ridged = [torch.full_like(p, counts[n]).flatten() for n, p in self.parameters.items()]
        self.ridged = torch.cat(ridged) if ridged else torch.empty(0)

        def predict(values: dict[str, Tensor], row: Tensor) -> Tensor:
            return functional_call(net, {**fixed, **values}, (row.unsqueeze(0),)).squeeze(0)

        self.jacobian = vmap(jacrev(predict), in_dims=(None, 0))

    def flat(self) -> Tensor:
        return torch.cat([p.detach().flatten() for p in self.parameters.values()])

    @torch.no_grad()
    def write(self, flat: Tensor) -> None:
        pieces = flat.split([p.numel() for p in self.parameters.values()])
        for p, piece in zip(self.parameters.values(), pieces, strict=True):
            p.copy_(piece.view_as(p))

    def value(self) -> float:
        value = network_rmse(self.net, self.x, self.y)
        penalty = self.ridge * float((self.ridged * self.flat()).square().sum()) / self.y.numel()
        return value if self.ridge == 0 else (value * value + penalty) ** 0.5

    def normal_equations(self) -> tuple[Tensor, Tensor, Tensor]:
        jac = self.jacobian({n: p.detach() for n, p in self.parameters.items()}, self.x)
        matrix = torch.cat([jac[n].flatten(2).flatten(0, 1) for n in self.parameters], dim=1)
        with torch.no_grad():
            residual = (self.net(self.x) - self.y).flatten()  # (N O,), as the rows of the matrix
        gram, right = matrix.t() @ matrix, matrix.t() @ residual
        right = right + self.ridge * self.ridged * self.flat()
        scales = gram.diagonal().clone()
        gram.diagonal().add_(self.ridge * self.ridged)
        return gram, right, scales


def fit_lbfgs(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    steps: int = 100,
    penalty: Penalty | None = None,
    tolerance: float = 1e-14,
) -> float:
    """Minimise a loss, with a penalty added if given, by LBFGS with strong Wolfe line search.

    The parameters of the lowest objective met are kept. Returns the loss without the penalty.
    """
    parameters = [p for p in net.parameters() if p.requires_grad]
    if parameters:
        optimizer = LBFGS(
            parameters,
            max_iter=steps,
            history_size=20,
            tolerance_grad=tolerance,
            tolerance_change=tolerance,
            line_search_fn="strong_wolfe",
        )
        best: tuple[float, list[Tensor]] = (float("inf"), [])
        squares = loss is nn.functional.mse_loss and penalty is None
        direct = compiled_mse(net, x, y) if squares else None

        def autograd() -> Tensor:
            optimizer.zero_grad()
            value = loss(net(x), y)
            value = value if penalty is None else value + penalty()
            value.backward()
            return value.detach()

        def closure() -> Tensor:
            nonlocal best
            value = autograd() if direct is None else direct()
            if float(value) < best[0]:
                best = (float(value), [p.detach().clone() for p in parameters])
            return value

        optimizer.step(closure)
        with torch.no_grad():
            for parameter, values in zip(parameters, best[1], strict=False):
                parameter.copy_(values)
                parameter.grad = None
    with torch.no_grad():
        return float(loss(net(x), y))


def rmse(values: Any, y: Any) -> float:
    """Root mean square of the difference of two tensors or two arrays; infinite for NaN."""
    error = math.sqrt(((values - y) ** 2).mean())
    return error if error == error else math.inf


@torch.no_grad()
def network_rmse(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """The `rmse` of a network's outputs at x."""
    return rmse(net(x), y)
