"""Moving and refining the grid of a layer while its function stays.

Axes: N rows of a sample, P points, C features, K functions before and L after the change.

The new coefficients of every edge come from one matrix per feature, T = argmin |Phi' T - Phi|, over
the data and, with a small weight, over points of both grids. The latter decide what the data leave
open (few or equal values), so the problem is never rank deficient.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from kanzoo.bases.base import Basis, GridBasis
from kanzoo.checks import check_name

SAMPLE_ROWS = 4096
# What the points of the grid weigh together, against all data together: inside both ranges, and
# outside of one, where functions seldom agree and must not disturb the fit inside.
INSIDE_WEIGHT = 1e-5
OUTSIDE_WEIGHT = 1e-10
OPTIMIZERS_STATE = ("remap", "reset")
# State of PyTorch's optimisers that is a mean of gradients (1) or of their squares (2).
MOMENTS = {
    **dict.fromkeys(("exp_avg", "momentum_buffer", "grad_avg"), 1),
    **dict.fromkeys(("exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum"), 2),
}


class Mapped(Protocol):
    """A layer whose weight, or a tensor shaped like it, can be mapped function by function."""

    function_dim: ClassVar[int]
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


def subsample(rows: Tensor, count: int) -> Tensor:
    """About `count` of many rows, evenly spread over all of them but in no fixed step.

    A fixed step would take every time the same column of an image, the padded one perhaps.
    """
    return rows if len(rows) <= count else rows[_subsample_index(len(rows), count).to(rows.device)]


def _subsample_index(size: int, count: int) -> Tensor:
    if size <= count:
        return torch.arange(size, device="cpu")
    golden = torch.arange(1, count + 1, dtype=torch.float64, device="cpu") * ((5**0.5 - 1) / 2)
    return ((golden - golden.floor()) * size).long().sort().values


def sample_rows(x: Tensor, rows: int = SAMPLE_ROWS, samples: int | None = None) -> Tensor:
    """At most `rows` rows spread over x, float64 on the CPU, NaN for values that are not finite.

    Shapes: `(N, C) -> (rows, C)`. With several processes, the rows that one process with all of
    their samples would take, the same on all; `samples` of them, N unless given, make the N rows.
    """
    chosen = x.detach()
    if dist.is_available() and dist.is_initialized():
        chosen = _rows_of_all(chosen, rows, samples or len(x))
    else:
        chosen = subsample(chosen, rows)
    chosen = chosen.cpu().double()
    return chosen.where(chosen.isfinite(), torch.nan)


def _rows_of_all(x: Tensor, rows: int, samples: int) -> Tensor:
    """The rows of all processes, of whose samples each has every so manyth if all have as many."""
    rank, processes = dist.get_rank(), dist.get_world_size()
    sizes = [torch.empty(2, dtype=torch.long, device=x.device) for _ in range(processes)]
    dist.all_gather(sizes, torch.tensor([len(x), samples], device=x.device))
    counts = [int(size[0]) for size in sizes]
    index = _subsample_index(sum(counts), rows)
    if all(torch.equal(size, sizes[0]) for size in sizes) and len(x) % samples == 0:
        each = len(x) // samples
        sample = index // each
        owner, local = sample % processes, sample // processes * each + index % each
    else:
        totals = torch.tensor(counts, device="cpu")
        ends = totals.cumsum(0)
        owner = torch.searchsorted(ends, index, right=True)
        local = index - (ends - totals)[owner]
    largest = int(owner.bincount(minlength=1).max()) if len(index) else 0
    mine = x.new_zeros(largest, x.shape[1])
    chosen = x[local[owner == rank].to(x.device)]
    mine[: len(chosen)] = chosen
    gathered = [torch.empty_like(mine) for _ in range(processes)]
    dist.all_gather(gathered, mine)
    return torch.cat([part[: int((owner == r).sum())] for r, part in enumerate(gathered)])


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
    """Give a parameter other data of any shape; optimisers and tied modules still hold it.

    Data of the same shape are copied, so that hooks on the gradient stay, as those of DDP; for
    another shape DDP must be wrapped around the network anew.
    """
    parameter.grad = None
    if data.shape == parameter.shape and data.dtype == parameter.dtype:
        with torch.no_grad():
            parameter.copy_(data)
        return
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
    which takes the gradients of a feature's functions as uncorrelated. Several changes of a layer
    are given in their order. State that is no moment of gradients, and the history of LBFGS, which
    holds all parameters in one vector, start anew either way.
    """
    check_name("how", how, OPTIMIZERS_STATE)
    if isinstance(optimizer, torch.optim.LBFGS):
        optimizer.state.clear()
        optimizer._numel_cache = None
        return
    for change in changes:
        weight = change.layer.weight
        state = optimizer.state.get(weight)
        if not state:
            continue
        tensors = {k: v for k, v in state.items() if isinstance(v, Tensor) and v.dim() > 1}
        # Parameters of constrained edges are no linear image of their coefficients.
        if how == "reset" or change.layer.is_constrained or not tensors.keys() <= MOMENTS.keys():
            del optimizer.state[weight]
            continue
        matrix = change.gradient_matrix()
        before, dim = matrix.shape[2], change.layer.function_dim
        if misfits := [key for key, value in tensors.items() if value.shape[dim] != before]:
            raise ValueError(f"optimiser state {misfits[0]!r} does not fit {before} functions")
        for key, value in tensors.items():
            power = matrix.square() if MOMENTS[key] == 2 else matrix
            state[key] = change.layer.map_functions(value, power)
