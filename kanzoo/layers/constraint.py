"""Edge functions of a kind: increasing, decreasing, even, odd; and inputs that share their edges.

The weight of a constrained layer is a parameter that any optimiser may move anywhere; what the
layer computes with is its image under a smooth map into the weights of such functions.

Axes: C input channels, K functions a channel (basis and residual), A and B the two dimensions of
the weight beside it: (C, O) of a linear layer, (O, C / groups) of a convolution; T taps.
"""

import copy
import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from kanzoo.bases.activation import ODD, RISING
from kanzoo.bases.base import GridBasis, normal_quantiles
from kanzoo.checks import check_name
from kanzoo.layers.expansion import Expansion

KINDS: Mapping[str, int] = {"free": 0, "increasing": 1, "decreasing": -1, "even": 2, "odd": 3}
SQUASHED = {"none": (-float("inf"), float("inf")), "tanh": (-1.0, 1.0), "sigmoid": (0.0, 1.0)}
SAME = 1e-5  # relative difference of functions that count as the same


def kind_number(kind: str) -> int:
    """The number that `edge_kind` stores for a kind; `ValueError` names the nearest."""
    check_name("kind of an edge", kind, KINDS)
    return KINDS[kind]


def effective(weight: Tensor, kind: Tensor | None, expansion: Expansion) -> Tensor:
    """Weights of functions of their kind, from any: `(K, A, B, ..)`, kinds `(A, B)`.

    Increasing: coefficients that grow by the square of a parameter each, or are such squares where
    the function increases itself. Even and odd: half of the function and half of its mirror
    image. The residual branch takes part where its activation is of that kind.
    """
    if kind is None:
        return weight
    main, rest, kind, sign = _parts(weight, kind, expansion)
    steps = main.square()
    if expansion.basis.rising == "ordered":
        rising = torch.cat([main[:1], main[:1] + sign * steps[1:].cumsum(0)])
    else:
        rising = sign * steps
    image = _reflected(main, expansion)
    parts = [torch.where(kind.abs() == 1, rising, main)]
    parts[0] = torch.where(kind == 2, (main + image) / 2, parts[0])
    parts[0] = torch.where(kind == 3, (main - image) / 2, parts[0])
    if len(rest):
        alone = sign * rest.square() if expansion.residual in RISING else torch.zeros_like(rest)
        branch = torch.where(kind.abs() == 1, alone, rest)
        branch = torch.where(kind == 2, 0.0, branch)
        parts.append(branch if expansion.residual in ODD else torch.where(kind == 3, 0.0, branch))
    return torch.cat(parts)


@torch.no_grad()
def parameters_of(
    weight: Tensor, kind: Tensor | None, expansion: Expansion, least: float
) -> Tensor:
    """Parameters whose effective weights are the given ones, or near them if these are of no kind.

    Of coefficients that are not ordered the nearest that are is taken; their steps are at least
    `least` times the mean step, for at zero they would have no gradient.
    """
    if kind is None:
        return weight
    main, rest, kind, sign = _parts(weight, kind, expansion)
    if expansion.basis.rising == "ordered":
        nearest = sign * _isotonic(sign * main)
        floor = least * main.diff(dim=0).abs().mean(0)
        raw = torch.cat([nearest[:1], _root(sign * nearest.diff(dim=0), floor)])
    else:
        raw = _root(sign * main, least * main.abs().mean(0))
    if expansion.residual in RISING:
        rest = torch.where(kind.abs() == 1, _root(sign * rest, least * rest.abs()), rest)
    return torch.cat([torch.where(kind.abs() == 1, raw, main), rest])


def _parts(weight: Tensor, kind: Tensor, expansion: Expansion) -> tuple[Tensor, ...]:
    """Weights of the basis and of the residual, and the kinds for both, whole and as numbers."""
    count = expansion.basis.num_functions
    kind = kind.view(*kind.shape, *[1] * (weight.dim() - 3))
    return weight[:count], weight[count:], kind, kind.to(weight)


def _root(steps: Tensor, floor: Tensor) -> Tensor:
    return torch.maximum(steps, floor).clamp(min=0).sqrt()


def _isotonic(values: Tensor) -> Tensor:
    """The nearest values that do not decrease along K, by the min-max formula: `(K, ..)`.

    The k-th is the largest over i <= k of the least over j >= k of the mean from i to j.
    """
    count = len(values)
    sums = torch.cat([torch.zeros_like(values[:1]), values.cumsum(0)])
    indices = torch.arange(count + 1, device=values.device)
    lengths = (indices[1:] - indices[:-1, None]).clamp(min=1).to(values)
    shape = (count, count, *[1] * (values.dim() - 1))
    means = (sums[1:] - sums[:-1].unsqueeze(1)) / lengths.view(shape)  # (i, j, ..)
    best = [means[: k + 1, k:].amin(1).amax(0) for k in range(count)]
    return torch.stack(best)


def _reflected(main: Tensor, expansion: Expansion) -> Tensor:
    """Coefficients of x -> f(-x)."""
    if expansion.reflection is None:
        return main
    order, signs = expansion.reflection
    reflected = torch.tensor(signs, dtype=main.dtype, device=main.device)
    return main[list(order)] * reflected.view(-1, *[1] * (main.dim() - 1))


@torch.no_grad()
def monotone_on_data(weight: Tensor, kind: Tensor, basis: GridBasis, sample: Tensor) -> Tensor:
    """Weights of monotone edges, as near to the given ones on data as ordered coefficients allow.

    Shapes: weight `(K, C, O)`, kind `(C, O)`, sample `(N, C)` in float64 on the CPU, NaN for what
    is missing. Non-negative least squares for every edge whose coefficients are not ordered.
    """
    from scipy.optimize import nnls  # with few users, while layers are on every machine

    count = basis.num_functions
    main = weight[:count].double().cpu().numpy()
    signs = kind.cpu().numpy()
    values = copy.deepcopy(basis).cpu().double()(sample.nan_to_num())  # (K, N, C)
    values = values * sample.isfinite()
    gram = torch.einsum("knc,lnc->ckl", values, values) / len(sample)
    gram += (
        1e-8 * gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * torch.eye(count, device="cpu")
    )
    roots = torch.linalg.cholesky(gram).transpose(1, 2).numpy()
    steps = np.tril(np.ones((count, count)))  # from steps to coefficients, the first step free
    steps = np.concatenate([-steps[:, :1], steps], axis=1)
    wrong = (np.diff(main, axis=0) * signs < 0).any(0) & (np.abs(signs) == 1)
    for i, o in zip(*wrong.nonzero(), strict=True):
        coefficients = signs[i, o] * main[:, i, o]
        solution, _ = nnls(roots[i] @ steps, roots[i] @ coefficients)
        main[:, i, o] = signs[i, o] * (steps @ solution)
    return torch.cat([torch.from_numpy(main).to(weight), weight[count:]])


def check_kinds(kind: Tensor, expansion: Expansion) -> None:
    """Raise `ValueError` unless the layer's basis can keep the kinds for all inputs.

    Sets what `effective` needs to know of the basis, so it is called again when a grid changes.
    """
    name = expansion.factory.name
    if kind.abs().eq(1).any():
        _check_rising(expansion, name)
    mirrored = bool(kind.ge(2).any())
    reflection = _find_reflection(expansion) if mirrored else None
    if mirrored and (reflection is None or expansion.squash not in ("none", "tanh")):
        raise ValueError(
            f"edges of basis {name!r} with squash {expansion.squash!r} cannot be made even or "
            "odd: its functions must be mirror images of each other about 0, as B-splines on "
            "a grid from -a to a or polynomials are, and not be trained"
        )
    expansion.reflection = reflection


def _check_rising(expansion: Expansion, name: str) -> None:
    basis = expansion.basis
    if basis.rising is None and (basis.num_functions or expansion.residual not in RISING):
        raise ValueError(
            f"edges of basis {name!r} cannot be made monotone for all inputs: take bspline with "
            "extrapolation 'linear' or 'clamp', piecewise_linear, or bernstein with squash sigmoid"
        )
    if expansion.squash not in SQUASHED:
        raise ValueError(
            f"squash {expansion.squash!r} mixes or turns inputs, so that edges cannot be made "
            f"monotone: take one of {', '.join(SQUASHED)}"
        )
    low, high = SQUASHED[expansion.squash]
    ends = basis.rising_range()
    if not ends[0] <= low < high <= ends[1]:
        raise ValueError(
            f"edges of basis {name!r} are monotone from {ends[0]:.4g} to {ends[1]:.4g} only: take "
            "extrapolation 'linear' or 'clamp' for splines, squash 'sigmoid' for bernstein"
        )


@torch.no_grad()
def _find_reflection(expansion: Expansion) -> tuple[tuple[int, ...], tuple[float, ...]] | None:
    """Which function f_j and sign s make f_k(-x) = s f_j(x) for every k; None if any has none.

    Found from values at many points, which functions of another form do not share.
    """
    basis = expansion.basis
    if any(p.requires_grad for p in basis.parameters()):
        return None
    like = next(basis.buffers(), torch.zeros(()))
    like = like if like.is_floating_point() else like.float()
    steps = torch.arange(400, dtype=torch.float64, device="cpu")
    reach = torch.cat([normal_quantiles(400), 12 * steps.sin()])
    if expansion.squash == "tanh":
        reach = reach.tanh()
    x = reach.to(like).unsqueeze(-1).expand(-1, basis.in_features)
    values, reflected = basis(x), basis(-x)  # (K, N, C)
    order: list[int] = []
    signs: list[float] = []
    for function in reflected:
        for sign in (1.0, -1.0):
            gap = (values - sign * function).abs().amax((1, 2))
            index = int(gap.argmin())
            if float(gap[index]) <= SAME * float(function.abs().max()):
                order.append(index)
                signs.append(sign)
                break
        else:
            return None
    return tuple(order), tuple(signs)


def tie(weight: Tensor, group: Tensor | None) -> Tensor:
    """The mean over inputs that share their edges, for each: `(K, C, ..)`, group numbers `(C,)`."""
    if group is None:
        return weight
    counts = weight.new_zeros(len(group)).index_add(0, group, weight.new_ones(len(group)))
    sums = torch.zeros_like(weight).index_add(1, group, weight)
    means = sums / counts.clamp(min=1).view(-1, *[1] * (weight.dim() - 2))
    return means.index_select(1, group)


def tie_edges(weight: Tensor, group: Tensor | None) -> Tensor:
    """The mean over edges that are locked to each other, for each: `(K, A, B)`, groups `(A, B)`."""
    if group is None:
        return weight
    return tie(weight.flatten(1, 2), group.flatten()).unflatten(1, weight.shape[1:3])


def joined_inputs(group: Tensor) -> Tensor:
    """Group numbers `(C,)` of inputs, equal where edges `(C, O)` of two are locked together."""
    numbers = list(range(len(group)))
    for edges in group.unique():
        first, *rest = sorted({numbers[i] for i in (group == edges).any(1).nonzero().flatten()})
        numbers = [first if number in rest else number for number in numbers]
    return torch.tensor(numbers, device=group.device)


@torch.no_grad()
def check_tied(group: Tensor, expansion: Expansion) -> None:
    """Raise `ValueError` unless inputs of a group are expanded in the same functions, for good."""
    if any(p.requires_grad for p in expansion.parameters()) or expansion.squash not in SQUASHED:
        raise ValueError(
            f"inputs cannot share edges of basis {expansion.factory.name!r} with squash "
            f"{expansion.squash!r}: every input is expanded in functions of its own"
        )
    like = next(expansion.buffers(), torch.zeros(()))
    x = normal_quantiles(100).to(like if like.is_floating_point() else like.float())
    values = expansion.univariate(x.unsqueeze(-1).expand(-1, len(group)))
    first = [int((group == number).nonzero()[0]) for number in group]
    if not torch.allclose(values, values[..., first], rtol=SAME, atol=SAME):
        raise ValueError(
            "inputs that share their edges must have equal grids: take grid 'uniform', not adaptive"
        )


def check_numbers(name: str, group: Tensor, shape: tuple[int, ...]) -> None:
    """Raise `ValueError` unless a tensor holds numbers of groups of what has this shape."""
    limit = math.prod(shape)
    if (
        group.dtype != torch.long
        or group.shape != shape
        or bool(((group < 0) | (group >= limit)).any())
    ):
        raise ValueError(f"{name} must hold whole numbers from 0 to {limit - 1}, shaped {shape}")


def check_equal_rows(edges: Tensor, group: Tensor) -> None:
    """Raise `ValueError` unless rows `(C, ..)` for inputs of the same group are equal."""
    first = [int((group == number).nonzero()[0]) for number in group]
    if not torch.equal(edges, edges[first]):
        raise ValueError(
            "inputs that share their edges must be alike: their edges of the same kinds, pruned "
            "together, and not in groups that are to be separated"
        )
