"""What pruning costs: a metric against the share of edges that a ranking keeps.

Axes: C input channels, E outputs that a channel reaches.
"""

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from kanzoo.interpret.control import redrawn
from kanzoo.interpret.pruning import alive, mask_layer
from kanzoo.interpret.scores import edge_scores
from kanzoo.layers import KANLayer

SHARES = (1.0, 0.7, 0.5, 0.35, 0.25, 0.15, 0.1, 0.05, 0.02)
Metric = Callable[[nn.Module], float]


def score_curve(
    net: nn.Module, x: Tensor, metric: Metric, seed: int | None = None
) -> list[tuple[float, float]]:
    """Shares of edges kept and the metric there, ranked by their scores on x.

    Scores are relative to the largest of their layer; what pruned edges add in the mean goes into
    biases; nothing is trained afterwards. With a `seed` the ranking is that of the network at
    random weights: the edges that are kept are then chosen without what training has learned.
    """
    scores = edge_scores(net, x)
    ranking = scores if seed is None else edge_scores(redrawn(net, x, seed), x)
    worth = {name: score.std for name, score in ranking.items()}
    return _curve(net, worth, {name: score.mean for name, score in scores.items()}, metric)


def magnitude_curve(net: nn.Module, metric: Metric) -> list[tuple[float, float]]:
    """As `score_curve` for an MLP, whose weights are ranked by their magnitude.

    That of a kernel is the norm over its taps. Raises `ValueError` for networks with edge
    functions of more than one basis function.
    """
    layers = _layers(net)
    weights = {name: layer.edge_weight().detach() for name, layer in layers.items()}
    if not weights or any(weight.shape[1] > 1 for weight in weights.values()):
        raise ValueError("the twin is no MLP: its layers must have one function a channel")
    worth = {name: weight[:, 0].norm(dim=-1) for name, weight in weights.items()}
    means = {name: torch.zeros_like(value) for name, value in worth.items()}
    return _curve(net, worth, means, metric)


def _layers(net: nn.Module) -> dict[str, KANLayer]:
    return {name: m for name, m in net.named_modules() if isinstance(m, KANLayer)}


@torch.no_grad()
def _curve(
    net: nn.Module, worth: Mapping[str, Tensor], means: Mapping[str, Tensor], metric: Metric
) -> list[tuple[float, float]]:
    """The metric where the edges of the largest relative worth are kept, of every layer one."""
    layers = {name: layer for name, layer in _layers(net).items() if name in worth}
    left = {name: alive(layer) for name, layer in layers.items()}
    relative = {
        name: torch.where(left[name], value / value.max().clamp_min(1e-30), -1.0)
        for name, value in worth.items()
    }
    order = torch.cat([value.flatten() for value in relative.values()]).sort(descending=True)
    total = sum(int(mask.sum()) for mask in left.values())
    points: list[tuple[float, float]] = []
    for share in SHARES:
        least = order.values[max(1, round(share * total)) - 1]
        pruned = copy.deepcopy(net)
        kept = 0
        for name, layer in _layers(pruned).items():
            if name in layers:
                value = relative[name]
                keep = ((value >= least) | (value == value.max())) & left[name]
                keep = layer.keep_tied(keep)
                mask_layer(layer, keep, means[name])
                kept += int(keep.sum())
        if not points or kept / total < points[-1][0]:
            points.append((kept / total, metric(pruned)))
    return points
