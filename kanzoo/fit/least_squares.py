"""Fitting small networks on all data at once, in float64: Levenberg-Marquardt and LBFGS.

Axes: N samples, O outputs, P parameters.
"""

import logging
import math
from collections.abc import Callable
from typing import Any

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
        return levenberg_marquardt(net, x, y, steps, ridge=ridge, least_gain=least_gain)

    def penalty() -> Tensor:
        return ridge / y.numel() * sum_of_squares(net)

    fit_lbfgs(net, x, y, nn.functional.mse_loss, 10 * steps, penalty if ridge else None)
    return network_rmse(net, x, y)


def sum_of_squares(net: nn.Module) -> Tensor:
    """What a ridge weighs: all parameters but those of given functions, which mean something."""
    parameters = [p for name, p in net.named_parameters() if not name.endswith(GIVEN)]
    return torch.stack([p.square().sum() for p in parameters]).sum()


def levenberg_marquardt(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    steps: int = 50,
    *,
    ridge: float = 0.0,
    least_gain: float = 1e-6,
) -> float:
    """Levenberg-Marquardt with Marquardt's scaling and a damping that follows the gain.

    Directions that the data leave open stay where they are. Stops when a step gains less than the
    share `least_gain` three times in a row. Returns the RMSE reached.
    """
    parameters = {n: p for n, p in net.named_parameters() if p.requires_grad}
    fixed: dict[str, Tensor] = {n: p for n, p in net.named_parameters() if not p.requires_grad}
    fixed |= dict(net.named_buffers())
    if not parameters:
        return network_rmse(net, x, y)

    def predict(values: dict[str, Tensor], row: Tensor) -> Tensor:
        return functional_call(net, {**fixed, **values}, (row.unsqueeze(0),)).squeeze(0)

    jacobian = vmap(jacrev(predict), in_dims=(None, 0))
    shapes = [p.shape for p in parameters.values()]
    sizes = [p.numel() for p in parameters.values()]

    def write(flat: Tensor) -> None:
        with torch.no_grad():
            for p, piece, shape in zip(parameters.values(), flat.split(sizes), shapes, strict=True):
                p.copy_(piece.view(shape))

    flat = torch.cat([p.detach().flatten() for p in parameters.values()])
    counts = [torch.full_like(p, float(not n.endswith(GIVEN))) for n, p in parameters.items()]
    ridged = torch.cat([count.flatten() for count in counts])

    def objective(flat: Tensor) -> float:
        value = network_rmse(net, x, y)
        penalty = ridge * float((ridged * flat).square().sum()) / y.numel()
        return value if ridge == 0 else (value * value + penalty) ** 0.5

    best, damping, idle = objective(flat), 1e-3, 0
    for _ in range(steps):
        values = {n: p.detach() for n, p in parameters.items()}
        jac = jacobian(values, x)
        matrix = torch.cat([jac[n].flatten(2).flatten(0, 1) for n in parameters], dim=1)  # (N O, P)
        with torch.no_grad():
            residual = (net(x) - y).flatten()
        gram, right = matrix.t() @ matrix, matrix.t() @ residual + ridge * ridged * flat
        diagonal = gram.diagonal().clone()
        gram.diagonal().add_(ridge * ridged)
        floor = 1e-10 * diagonal.mean() + 1e-300
        gained = False
        for _ in range(12):
            damped = gram + torch.diag(damping * diagonal + floor)
            factor, info = torch.linalg.cholesky_ex(damped)
            if int(info) == 0:
                step = torch.cholesky_solve(right.unsqueeze(1), factor).squeeze(1)
                write(flat - step)
                reached = objective(flat - step)
                if reached < best:
                    gained = True
                    break
            damping = max(damping * 4, 1e-14)
        if not gained:
            break
        idle = idle + 1 if reached > best * (1 - least_gain) else 0
        flat, best, damping = flat - step, reached, damping / 10
        if idle == 3:
            break
    write(flat)
    return network_rmse(net, x, y)


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
