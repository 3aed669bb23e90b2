"""Moving and refining the grid of a layer while its function stays.

Axes: N rows of a sample, P points, C features, K functions before and L after the change.

The new coefficients of every edge come from one matrix per feature, T = argmin |Phi' T - Phi|, over
the data and, with a small weight, over points of both grids. The latter decide what the data leave
open (few or equal values), so the problem is never rank deficient.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from kanzoo import registry
from kanzoo.bases.base import Basis, GridBasis

SAMPLE_ROWS = 4096
# What the points of the grid weigh together, against all data together: inside both ranges, and
# outside of one, where functions seldom agree and must not disturb the fit inside.
INSIDE_WEIGHT = 1e-5
OUTSIDE_WEIGHT = 1e-10
OPTIMIZERS_STATE = ("remap", "reset")


class Mapped(Protocol):
    """A layer whose weight, or a tensor shaped like it, can be mapped function by function."""

    weight: nn.Parameter

    @property
    def is_constrained(self) -> bool:
        """Whether the weight is a mere parameter of what the layer computes with."""

    def map_functions(self, tensor: Tensor, matrix: Tensor) -> Tensor:
        """sum_k M[c, l, k] W[.., c, k, ..]: matrix `(C, L, K)`."""


@dataclass
class GridChange:
    """What a change of grid did to a layer's weight: W' = T W, with T `(C, L, K)` in float64.

    The residual branch is the last function of both sides, mapped to itself.
    """

    layer: Mapped
    matrix: Tensor

    def gradient_matrix(self) -> Tensor:
        """(T^+)^T: how gradients with respect to the weight transform."""
        inverse: Tensor = torch.linalg.pinv(self.matrix, rtol=1e-6)
        return inverse.transpose(1, 2)

    def adjust(self, optimizer: torch.optim.Optimizer, how: str = "reset") -> None:
        """`adjust_optimizer` for this change alone."""
        adjust_optimizer(optimizer, [self], how)


def spread(rows: Tensor, count: int) -> Tensor:
    """About `count` of many rows, evenly spread over all of them but in no fixed step.

    A fixed step would take every time the same column of an image, the padded one perhaps.
    """
    if len(rows) <= count:
        return rows
    golden = torch.arange(1, count + 1, dtype=torch.float64) * ((5**0.5 - 1) / 2)
    index = ((golden - golden.floor()) * len(rows)).long().sort().values
    return rows[index.to(rows.device)]


def sample_rows(x: Tensor, rows: int = SAMPLE_ROWS) -> Tensor:
    """At most `rows` rows spread over x, float64 on the CPU, NaN for values that are not finite.

    Shapes: `(N, C) -> (rows, C)`. With several processes, the rows of all of them, the same on all;
    every one contributes equally many, whatever the size of its batch.
    """
    distributed = dist.is_available() and dist.is_initialized()
    rows = max(1, rows // dist.get_world_size()) if distributed else min(rows, len(x))
    if len(x) > rows:
        chosen = spread(x.detach(), rows).contiguous()
    elif len(x):
        index = torch.arange(rows, device=x.device) * len(x) // max(rows, 1)
        chosen = x.detach()[index].contiguous()
    else:
        chosen = x.new_full((rows, x.shape[1]), float("nan"))
    if distributed:
        gathered = [torch.empty_like(chosen) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, chosen)
        chosen = torch.cat(gathered)
    chosen = chosen.cpu().double()
    return chosen.where(chosen.isfinite(), torch.nan)


def transfer(old: GridBasis, new: GridBasis, sample: Tensor | None) -> Tensor:
    """The matrices T `(C, L, K)` that make phi'(x) . (T w) as near to phi(x) . w as can be.

    Shapes: sample `(N, C)`, NaN for what is missing.
    """
    points = torch.cat([old.grid_points(), new.grid_points()])
    ends = torch.stack([old.grid_ends(), new.grid_ends()])
    inside = (points >= ends[:, 0].amax(0)) & (points <= ends[:, 1].amin(0))
    share = torch.where(inside, INSIDE_WEIGHT, OUTSIDE_WEIGHT).double() / len(points)
    pairs = [(points, share)]
    if sample is None:
        pairs = [(points, torch.where(inside, share / INSIDE_WEIGHT, share))]
    elif len(sample):
        known = sample.isfinite()
        pairs.append((sample.where(known, 0.0), known.double() / known.sum(0).clamp(min=1)))
    before_basis, after_basis = _exact(old), _exact(new)
    features, before, after = points.shape[1], old.num_functions, new.num_functions
    gram = points.new_zeros(features, after, after)
    right = points.new_zeros(features, after, before)
    rows = max(1, 4_000_000 // (features * (after + before)))
    with torch.no_grad():
        for x, weight in pairs:
            for start in range(0, len(x), rows):
                part = x[start : start + rows]
                fresh = after_basis(part).permute(2, 0, 1)  # (C, L, N)
                scaled = fresh * weight[start : start + rows].t().unsqueeze(1)
                gram += scaled @ fresh.transpose(1, 2)
                right += scaled @ before_basis(part).permute(2, 1, 0)
    values, vectors = torch.linalg.eigh(gram)
    inverse = torch.where(values > 1e-14 * values[:, -1:], 1 / values, 0.0)
    solve = vectors * inverse.unsqueeze(1) @ vectors.transpose(1, 2)
    matrix: Tensor = solve @ right
    return matrix + solve @ (right - gram @ matrix)  # one step against rounding


def _exact(basis: Basis) -> Basis:
    return copy.deepcopy(basis).cpu().double()


def replace_data(parameter: nn.Parameter, data: Tensor) -> None:
    """Give a parameter other data of any shape; optimisers and tied modules still hold it."""
    parameter.grad = None
    # Autograd remembers the old shape while any graph with the parameter lives, unless the dtype
    # changes on the way.
    other = torch.float16 if data.dtype != torch.float16 else torch.float32
    parameter.data = data.new_empty(0, dtype=other)
    parameter.data = data


def share_from_first(tensors: Iterable[Tensor]) -> None:
    """Give all processes the first one's values, where there are several."""
    if dist.is_available() and dist.is_initialized():
        for tensor in tensors:
            dist.broadcast(tensor, 0)


@torch.no_grad()
def adjust_optimizer(
    optimizer: torch.optim.Optimizer, changes: Iterable[GridChange], how: str = "reset"
) -> None:
    """Make the state of an optimiser fit weights whose grid has changed.

    "reset" forgets the state of those weights, so that they start as new ones; "remap" transforms
    it as gradients transform: first moments by A = (T^+)^T, second moments by the squares of A,
    which takes the gradients of a feature's functions as uncorrelated. The history of LBFGS holds
    all parameters in one vector; it starts anew either way.
    """
    registry.check_name("how", how, OPTIMIZERS_STATE)
    if isinstance(optimizer, torch.optim.LBFGS):
        optimizer.state.clear()
        optimizer._numel_cache = None
        return
    for change in changes:
        weight = change.layer.weight
        state = optimizer.state.get(weight)
        if not state:
            continue
        # Parameters of constrained edges are no linear image of their coefficients.
        if how == "reset" or change.layer.is_constrained:
            del optimizer.state[weight]
            continue
        matrix = change.gradient_matrix()
        before = change.matrix.shape[2]
        for key, value in state.items():
            if not isinstance(value, Tensor) or value.dim() < 2:
                continue  # a step counter
            squares = key.endswith("_sq") or key in ("sum", "square_avg")
            mapped = change.layer.map_functions(value, matrix.square() if squares else matrix)
            if mapped.shape != weight.shape:
                raise ValueError(f"optimiser state {key!r} does not fit {before} functions")
            state[key] = mapped
