"""What scores show at random weights: a control for every picture of a trained network.

Scores that look the same after the weights have been drawn anew come from the data, the basis and
the architecture, not from training (Adebayo et al. 2018, 1810.03292). Axes: D draws; C input
channels, E outputs that a channel reaches, T taps of a kernel.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kanzoo.interpret.edges import edge_functions
from kanzoo.layers import KANLayer
from kanzoo.layers.inputs import evaluating

SEEDS = (0, 1, 2, 3, 4)
MAX_NUMBERS = 2**19  # in the inputs that a page looks at more than once


@dataclass(frozen=True)
class RandomScores:
    """Scores of a layer's edges at random weights, `(D, C, E, T)`."""

    draws: np.ndarray

    def edge_range(self, index: tuple[int, int, int]) -> tuple[float, float]:
        """Least and largest score of the edge at an index of `(C, E, T)`."""
        values = self.draws[:, index[0], index[1], index[2]]
        return float(values.min()), float(values.max())

    @property
    def strongest(self) -> tuple[float, float]:
        """Least and largest of the draws' strongest scores."""
        values = self.draws.reshape(len(self.draws), -1).max(1)
        return float(values.min()), float(values.max())

    @property
    def inputs(self) -> np.ndarray:
        """`input_scores` of every draw, `(D, C)`."""
        return np.stack([input_scores(draw) for draw in self.draws])


def input_scores(scores: np.ndarray) -> np.ndarray:
    """The root of the sum of squared scores `(C, E, T)` of the edges of every input, `(C,)`."""
    return np.asarray(np.sqrt((scores**2).sum((1, 2))))


def rank_correlation(scores: np.ndarray, draws: np.ndarray) -> float:
    """Spearman's correlation of scores with those of every draw, `(D, ...)`: the mean.

    NaN for fewer than three scores, and where some are all the same.
    """
    rows = [scores.ravel(), *(draw.ravel() for draw in draws)]
    if scores.size < 3 or any(np.ptp(row) == 0 for row in rows):
        return float("nan")
    return float(np.mean([spearmanr(rows[0], row).statistic for row in rows[1:]]))


def fewer(x: Tensor) -> Tensor:
    """The first samples of x where they are large, for what sees them many times."""
    return x[: max(64, MAX_NUMBERS // max(1, x[0].numel()))]


def random_scores(
    net: nn.Module, x: Tensor, seeds: Sequence[int] = SEEDS
) -> dict[str, RandomScores]:
    """Scores of all edges as the network shows them at random weights, by the layer's name."""
    draws: dict[str, list[np.ndarray]] = {}
    for seed in seeds:
        for layer in edge_functions(redrawn(net, x, seed), x, num_edges=0):
            draws.setdefault(layer.name, []).append(layer.scores)
    return {name: RandomScores(np.stack(scores)) for name, scores in draws.items()}


@torch.no_grad()
def redrawn(net: nn.Module, x: Tensor, seed: int) -> nn.Module:
    """A copy of a network with weights drawn anew from a seed, and grids fitted to x.

    In the order in which x passes them, every grid is moved to its layer's inputs, and the weights
    are then drawn by `reset_parameters`; trained parameters of a basis start anew, and statistics
    of batch normalisations become those of x. Which edges are pruned and what functions they were
    given stays, and so do parameters that no module draws, as positions of a transformer.
    PyTorch's generator is left as it was.
    """
    net = copy.deepcopy(net)
    waiting: dict[nn.Module, Any] = {}

    def at_first_call(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        waiting.pop(module).remove()
        if isinstance(module, _BatchNorm):
            dims = [d for d in range(inputs[0].dim()) if d != 1]
            if module.running_mean is not None and module.running_var is not None:
                module.running_mean.copy_(inputs[0].mean(dims))
                module.running_var.copy_(inputs[0].var(dims))
        elif isinstance(module, KANLayer):
            if module.has_grid:
                module.update_grid(inputs[0])
            module.reset_parameters()

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in net.modules():
            if isinstance(module, KANLayer):
                _restart_basis(module)
            elif (reset := getattr(module, "reset_parameters", None)) is not None:
                reset()
            if isinstance(module, (KANLayer, _BatchNorm)):
                waiting[module] = module.register_forward_pre_hook(at_first_call)
        with evaluating(net):
            net(x)
    for handle in waiting.values():
        handle.remove()
    return net


def _restart_basis(layer: KANLayer) -> None:
    """Give a basis the trained parameters that it has at the start."""
    basis = layer.expansion.basis
    like: dict[str, Any] = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    start = dict(layer.expansion.factory(layer.in_features, **like).named_parameters())
    for name, parameter in basis.named_parameters():
        if name in start and start[name].shape == parameter.shape:
            parameter.copy_(start[name])
