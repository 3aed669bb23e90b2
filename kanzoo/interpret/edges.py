"""Samples of a network's edge functions, for plots."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from kanzoo.layers.conv import KANConv
from kanzoo.layers.kan import KANLayer, KANLinear


@dataclass(frozen=True)
class EdgeSample:
    """Edge functions of one layer: x `(points,)`, ys `(edges, points)`, named by `layer`."""

    layer: str
    x: np.ndarray
    ys: np.ndarray


def sample_edges(
    net: nn.Module, batch: Tensor, *, num_edges: int = 12, num_points: int = 101
) -> EdgeSample:
    """The strongest edges of the last layer with a trainable edge function.

    They are drawn over the central 98 % of the layer's inputs on `batch`. An edge is strong when
    its function varies much there (standard deviation over the inputs). Raises `ValueError` for a
    network without KAN layers.
    """
    layers = {
        name: module
        for name, module in net.named_modules()
        if isinstance(module, KANLayer) and module.expansion.num_functions > 1
    }
    if not layers:
        raise ValueError("the network has no KAN layer, so there are no edge functions to draw")
    name, layer = list(layers.items())[-1]
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        net(batch)
    handle.remove()
    inputs = layer.rows(seen[0])
    low, high = np.quantile(inputs.cpu().numpy(), [0.01, 0.99])
    x = torch.linspace(float(low), float(high), num_points)
    with torch.no_grad():
        values = layer.expansion.univariate(x.unsqueeze(-1).expand(-1, layer.in_features))
        # A convolution has many edges between two channels, one a tap, and in groups.
        weight = layer.by_function()  # (K, ...), the edges in any order behind
        curves = _curves(layer, values, weight)
    strongest = curves.std(dim=-1).argsort(descending=True)[:num_edges]
    return EdgeSample(name, x.numpy(), curves[strongest].numpy())


def _curves(layer: KANLayer, values: Tensor, weight: Tensor) -> Tensor:
    """Edge functions `(edges, points)` from basis values `(K, points, C)`."""
    if isinstance(layer, KANLinear):
        return torch.einsum("kpc,kco->cop", values, weight).flatten(0, 1)
    if isinstance(layer, KANConv):  # weight (K, O, C / groups, taps)
        grouped = values.unflatten(-1, (layer.groups, -1))  # (K, points, G, C / G)
        taps = weight.unflatten(1, (layer.groups, -1)).flatten(4)  # (K, G, O / G, C / G, taps)
        return torch.einsum("kpgc,kgoct->goctp", grouped, taps).flatten(0, -2)
    return torch.einsum("kpc,kcet->cetp", values, weight.flatten(3)).flatten(0, -2)
