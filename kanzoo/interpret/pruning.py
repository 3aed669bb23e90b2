"""Pruning: which edges, nodes and inputs a network can do without.

Axes: N rows, C input channels, E = O / groups outputs that a channel reaches.
"""

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from kanzoo.checks import check_keywords
from kanzoo.fit.chain import Stage, chain, check_finite, kan_layers
from kanzoo.fit.least_squares import fit_squares, network_rmse, rmse
from kanzoo.interpret.resize import restricted
from kanzoo.interpret.scores import attribution, edge_scores
from kanzoo.layers import KANLayer, KANLinear
from kanzoo.layers.conv import KANConv
from kanzoo.layers.inputs import evaluating
from kanzoo.layers.products import node_of

log = logging.getLogger("kanzoo")


@dataclass(frozen=True)
class Pruning:
    """A pruned network, what was removed and what it cost.

    `edges`, `nodes` and `inputs` count what is gone by this pruning; `before` and `after` are the
    metric (RMSE of the outputs unless another was asked for); `left` and `total` count edges.
    """

    net: nn.Module
    edges: int
    nodes: int
    inputs: int
    left: int
    total: int
    before: float
    after: float

    def __str__(self) -> str:
        if not self.edges:
            return f"nothing to prune: {self.left} of {self.total} edges are left, none is weak"
        return (
            f"{self.edges} edges, {self.nodes} nodes and {self.inputs} inputs pruned, "
            f"{self.left} of {self.total} edges left; metric {self.before:.4g} -> {self.after:.4g}"
        )


def alive(layer: KANLayer) -> Tensor:
    """Which edges of a layer are not pruned, bool `(C, E)`."""
    return layer.edges_left()


@check_keywords
def prune(
    net: nn.Module,
    x: Tensor,
    y: Tensor | None = None,
    *,
    threshold: float = 0.03,
    node_threshold: float = 0.01,
    metric: Callable[[Tensor, Tensor], float] | None = None,
) -> Pruning:
    """A copy of a network without its weak edges, nodes and inputs, as it sees x.

    An edge is weak when its score is at most `threshold` of the largest in its layer; what it adds
    in the mean goes into the bias. The score is its attribution in a plain stack of `KANLinear`
    (KAN 2.0, 2408.10205), and the standard deviation of its function in any other network. A
    hidden node of a stack goes with all its edges when the best of its incoming or of its outgoing
    edges lies at most at `node_threshold` of the layer's best (KAN, 2404.19756, section 2.5.1).
    Masks keep pruned edges at zero in later training and are part of `state_dict`; `shrink` builds
    the smaller stack.

    `metric(outputs, y)` compares the outputs before and after, RMSE unless given; without y the
    network's own outputs are the truth. Raises `ValueError` if no edge of a layer would be left.
    """
    if not 0 <= threshold < 1 or not 0 <= node_threshold < 1:
        raise ValueError(
            f"thresholds must be from 0 and below 1, got {threshold}, {node_threshold}"
        )
    check_finite(x)
    scores = edge_scores(net, x)
    pruned = copy.deepcopy(net)
    layers = kan_layers(pruned)
    masks = {name: alive(layer) for name, layer in layers.items()}
    before = {name: mask.clone() for name, mask in masks.items()}
    stack = _stages(net, x)
    worth = {name: score.std for name, score in scores.items()}
    if stack is not None:
        names = [stage.name for stage in stack]
        worth = dict(zip(names, attribution(net, x).edges, strict=True))
    for name, value in worth.items():
        top = value.max()
        masks[name] &= value > threshold * top if top > 0 else value >= 0
    if stack is not None:
        _drop_nodes(stack, masks, worth, node_threshold)
    for name, layer in layers.items():
        masks[name] = mask = layer.keep_tied(masks[name])
        if not mask.any():
            raise ValueError(
                f"no edge of layer {name!r} is left: lower the threshold, or the layer is constant"
            )
        mask_layer(layer, mask, scores[name].mean)
    dead_nodes, dead_inputs = 0, 0
    if stack is not None:
        for first, second in pairwise(stack):
            gone = ~masks[second.name].any(1) & before[second.name].any(1)
            dead_nodes += int((gone & _per_node(first, before[first.name]).any(0)).sum())
        first_name = stack[0].name
        dead_inputs = int((~masks[first_name].any(1) & before[first_name].any(1)).sum())
    measure = metric or rmse
    with torch.no_grad(), evaluating(net), evaluating(pruned):
        outputs = net(x)
        truth = outputs if y is None else y
        measured = (measure(outputs, truth), measure(pruned(x), truth))
    left = sum(int(mask.sum()) for mask in masks.values())
    result = Pruning(
        pruned,
        sum(int(mask.sum()) for mask in before.values()) - left,
        dead_nodes,
        dead_inputs,
        left,
        sum(mask.numel() for mask in masks.values()),
        *measured,
    )
    log.info("%s", result)
    return result


def _stages(net: nn.Module, x: Tensor) -> list[Stage] | None:
    """The layers of a stack, in order; None for other networks."""
    try:
        return chain(net, x)
    except ValueError:
        return None


def _per_node(stage: Stage, edges: Tensor) -> Tensor:
    """The largest of the edges `(C, O)` to each node behind the layer, from every input."""
    if not stage.products:
        return edges
    nodes = torch.tensor(node_of(stage.num_nodes, stage.products), device=edges.device)
    best = edges.double().new_zeros(len(edges), stage.num_nodes)
    best = best.scatter_reduce(1, nodes.expand(len(edges), -1), edges.double(), "amax")
    return best.to(edges.dtype)


def _drop_nodes(
    stack: list[Stage], masks: dict[str, Tensor], scores: dict[str, Tensor], threshold: float
) -> None:
    """Take all edges from nodes with weak edges on one side, or none, until nothing changes."""
    changed = True
    while changed:
        changed = False
        for stage, following in pairwise(stack):
            first, second = stage.name, following.name
            incoming = _per_node(stage, scores[first] * masks[first]).amax(0)
            outgoing = (scores[second] * masks[second]).amax(1)
            weak = (incoming <= threshold * incoming.max()) | (
                outgoing <= threshold * outgoing.max()
            )
            to_weak = weak[node_of(stage.num_nodes, stage.products)]
            if (masks[first][:, to_weak].any() or masks[second][weak].any()) and not weak.all():
                masks[first][:, to_weak] = False
                masks[second][weak] = False
                changed = True


@torch.no_grad()
def mask_layer(layer: KANLayer, keep: Tensor, mean: Tensor) -> None:
    """Remove edges where `keep` `(C, E)` is false, and add their means to the bias."""
    if bool(keep.all()) and layer.edge_mask is None:
        return
    if isinstance(layer, (KANLinear, KANConv)) and layer.bias is not None:
        groups = layer.out_features // layer.edges_out
        lost = (mean * ~keep).unflatten(0, (groups, -1)).sum(1).flatten()  # (O,)
        layer.bias.add_(lost.to(layer.bias))
    layer.mask_channels(keep)


@torch.no_grad()
def shrink(net: nn.Module, x: Tensor) -> tuple[nn.Sequential, list[int]]:
    """The stack without its pruned nodes and inputs, and the columns of x that it still takes.

    The function is the same: a node that no edge leads to is constant, and what it adds goes into
    the biases behind it. Raises `ValueError` for networks that are not a plain stack.
    """
    layers = [stage.layer for stage in chain(net, x, allow_products=False)]
    first = alive(layers[0]).any(1)
    inputs = first.nonzero().flatten().tolist() or [0]
    columns_left = torch.tensor(inputs)
    small: list[KANLinear] = []
    base: Tensor | None = (
        None  # values of nodes before this layer that are constant, NaN for others
    )
    for index, layer in enumerate(layers):
        mask = alive(layer)
        last = index == len(layers) - 1
        reached = mask[columns_left].any(0)
        used = reached & alive(layers[index + 1]).any(1) if not last else torch.ones_like(reached)
        if not used.any():
            raise ValueError(
                "no path from the inputs to the outputs is left: the network is constant"
            )
        bias = _bias_with(layer, base, mask)
        out = used.nonzero().flatten()
        small.append(restricted(layer, columns_left, out, bias[out]))
        base = torch.where(reached, torch.nan, bias)
        columns_left = out
    return nn.Sequential(*small), inputs


def _bias_with(layer: KANLinear, constants: Tensor | None, mask: Tensor) -> Tensor:
    """The layer's bias with what constant nodes before it add."""
    bias = layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias.clone()
    if constants is None:
        return bias
    known = ~constants.isnan()
    values, weight = layer.edge_basis(constants.nan_to_num().unsqueeze(0))
    added = torch.einsum("kc,cko->co", values[:, 0], weight[..., 0])
    return bias + (added * known.unsqueeze(1) * mask).sum(0).to(bias)


def smallest(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    tolerance: float = 0.1,
    refit: Callable[[nn.Module], Any] | None = None,
    rounds: int = 12,
) -> Pruning:
    """The smallest network found whose RMSE is at most (1 + tolerance) times the network's.

    An RMSE below a thousandth of the deviation of y always counts as good enough.

    Prunes at a threshold that grows, fits what is left to y again after every step (by `refit`,
    which changes a network in place, or by least squares), and keeps the last network within the
    tolerance. Regularise first (`kanzoo.training.regularise`) if edges share
    the work. Raises `ValueError` for networks that are not a stack of `KANLinear`.
    """
    chain(net, x)
    start = network_rmse(net, x, y)
    limit = start * (1 + tolerance) + 1e-12 * float(y.std())
    deviation = float(y.std())
    limit = max(limit, 1e-3 * deviation) if start < 1e-3 * deviation else limit
    best: Pruning | None = None
    current, first = copy.deepcopy(net), prune(net, x, y, threshold=0.0, node_threshold=0.0)
    for threshold in [0.005 * 2**k for k in range(rounds)]:
        if threshold >= 1:
            break
        try:
            candidate = prune(current, x, y, threshold=threshold, node_threshold=threshold / 2)
        except ValueError:
            break
        if not candidate.edges:
            continue
        _ = fit_squares(candidate.net, x, y, 30) if refit is None else refit(candidate.net)
        reached = network_rmse(candidate.net, x, y)
        if reached > limit:
            break
        current = candidate.net
        sums = {
            name: getattr(candidate, name) + (getattr(best, name) if best else 0)
            for name in ("edges", "nodes", "inputs")
        }
        best = replace(candidate, **sums, before=start, after=reached)
    return best or first
