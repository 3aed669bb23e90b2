"""Stacks fitted to samples that come in parts, in memory that does not grow with their number.

Axes: N samples, O outputs, C inputs, P parameters.
"""

import math
import time

import numpy as np
import torch
from torch import Tensor, nn

from kanzoo.fit.least_squares import MAX_SIZE
from kanzoo.fit.newton import Anchor, Penalty, Problem, fit_newton

MAX_ROWS = 20_000  # samples that are fitted at once; more of them are fitted part by part


@torch.no_grad()
def anchor_at(
    net: nn.Sequential,
    x: Tensor,
    y: Tensor,
    penalty: Penalty,
    weights: Tensor | None = None,
    anchor: Anchor | None = None,
) -> Anchor:
    """What samples say about the parameters of a stack that was fitted to them, and an anchor.

    Raises `ValueError` for a stack whose matrix would be too large.
    """
    problem = Problem(net, x, y, penalty, weights, anchor)
    if problem.size > MAX_SIZE:
        raise ValueError(
            f"{problem.size:,} parameters are too many to be fitted part by part, at most "
            f"{MAX_SIZE:,}: fewer hidden units, columns or grid intervals"
        )
    return Anchor(problem.flat(), problem.normal_equations()[0])


def fit_parts(
    net: nn.Sequential,
    x: Tensor,
    y: Tensor,
    penalty: Penalty,
    *,
    weights: Tensor | None = None,
    steps: int = 20,
    deadline: float = math.inf,
) -> int:
    """`fit_newton`, of many samples part by part, until the deadline; returns how many were seen.

    Parts are drawn, always alike.
    """
    if len(x) <= MAX_ROWS or sum(p.numel() for p in net.parameters()) > MAX_SIZE:
        fit_newton(net, x, y, penalty, weights=weights, steps=steps, deadline=deadline)
        return len(x)
    anchor, longest, seen = None, 0.0, 0
    order = torch.as_tensor(np.random.default_rng(0).permutation(len(x)))
    for rows in order.tensor_split(math.ceil(len(x) / MAX_ROWS)):
        start = time.monotonic()
        if seen and start + longest > deadline:
            break
        share = None if weights is None else weights[rows]
        data: tuple[nn.Sequential, Tensor, Tensor, Penalty] = (net, x[rows], y[rows], penalty)
        fit_newton(*data, weights=share, steps=steps, deadline=deadline, anchor=anchor)
        anchor = anchor_at(*data, weights=share, anchor=anchor)
        longest, seen = max(longest, time.monotonic() - start), seen + len(rows)
    return seen
