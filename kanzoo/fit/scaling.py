"""Columns brought to [-1, 1] in a way that few wild values do not decide.

Axes: N samples, C columns.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

TAIL = 0.05  # share of the values at either end that has no say in where the fence is
CROWD = 0.01  # share of a range in which the inner half of a column shows no differences
REACH = 2.0  # distance of the fence from the inner values, in widths of these


@dataclass(frozen=True)
class Scaling:
    """The network's inputs are (x - shift) / scale, of x clipped to [low, high]; `(C,)` each."""

    shift: np.ndarray
    scale: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def __call__(self, x: np.ndarray) -> Tensor:
        return torch.as_tensor((np.clip(x, self.low, self.high) - self.shift) / self.scale)


def range_scaling(x: np.ndarray, fence: bool = False) -> Scaling:
    """The scaling of x `(N, C)` by the range of every column, a constant one becoming zero.

    With a fence, values further than `REACH` widths of the inner 90 % outside of these are clipped
    to the last one that is not: none of evenly, normally or exponentially distributed columns.
    Columns of which the inner values are all equal have no fence, nor have columns that all keep
    inside.
    """
    low, high = x.min(0), x.max(0)
    below, above = np.full(x.shape[1], -np.inf), np.full(x.shape[1], np.inf)
    if fence:
        inner = np.quantile(x, (TAIL, 1 - TAIL), axis=0, method="nearest")
        width = REACH * (inner[1] - inner[0])
        ends = inner[0] - width, inner[1] + width
        nearest = (
            np.where(x >= ends[0], x, np.inf).min(0),
            np.where(x <= ends[1], x, -np.inf).max(0),
        )
        below = np.where((width > 0) & (low < ends[0]), nearest[0], below)
        above = np.where((width > 0) & (high > ends[1]), nearest[1], above)
        low, high = np.maximum(low, below), np.minimum(high, above)
    half = (high - low) / 2
    return Scaling((low + high) / 2, np.where(half > 0, half, 1.0), below, above)


def crowded(z: np.ndarray) -> np.ndarray:
    """The numbers of scaled columns whose inner half lies in `CROWD` of their range."""
    ends = np.quantile(z, (0.25, 0.75), axis=0)
    width, whole = ends[1] - ends[0], np.ptp(z, axis=0)
    return np.flatnonzero((width > 0) & (width < CROWD * whole))
