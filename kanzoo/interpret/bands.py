"""Edge functions of several networks that differ by their seed, beside those of the first.

Axes: S networks, P points of a curve, N samples, E outputs of a layer.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from kanzoo.fit.chain import kan_layers
from kanzoo.interpret.edges import LayerEdges, takes_data
from kanzoo.layers import KANLinear


@torch.no_grad()
def edge_bands(
    net: nn.Module, others: Sequence[nn.Module], x: Tensor, edges: LayerEdges
) -> list[np.ndarray] | None:
    """Curves `(S, P)` of every edge of a linear layer that the network's inputs go into.

    Hidden nodes are in another order in every network: each node is compared with the one whose
    values on x are most correlated with its own, over all pairs (Hungarian method), turned and
    scaled to the same deviation. Curves have the mean of the first network's. None where there is
    nothing to compare: other layers, and networks of another shape.
    """
    name, layer = edges.name, edges.layer
    is_last = name == list(kan_layers(net))[-1]
    first = _outputs(net, name, x)
    if first is None:
        return None
    curves: list[list[np.ndarray]] = [[edge.y] for edge in edges.edges]
    for other in others:
        twin, values = kan_layers(other).get(name), _outputs(other, name, x)
        if values is None or values.shape != first.shape or not isinstance(twin, KANLinear):
            return None
        nodes = np.arange(layer.out_features)
        scale = np.ones(layer.out_features)
        if not is_last:
            nodes, scale = _matched(first, values)
        for edge, found in zip(edges.edges, curves, strict=True):
            points = torch.from_numpy(edge.x).to(x)
            y = twin.edge(edge.source, int(nodes[edge.target]), points).double().numpy()
            y = y * scale[edge.target]
            found.append(y - y.mean() + edge.y.mean())
    return [np.stack(found) for found in curves]


def _outputs(net: nn.Module, name: str, x: Tensor) -> np.ndarray | None:
    """What a linear layer gives for x, `(N, E)`; None unless x itself goes into it."""
    layer = kan_layers(net).get(name)
    if not isinstance(layer, KANLinear) or not takes_data(net, x, name, layer):
        return None
    outputs: np.ndarray = layer(x).double().numpy()
    return outputs


def _matched(first: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For every node of the first the other's node that is most like it, and its scale."""
    a, b = (values - values.mean(0) for values in (first, other))
    sizes = [np.maximum(values.std(0), 1e-300) for values in (a, b)]
    correlation = (a / sizes[0]).T @ (b / sizes[1]) / len(a)
    _, nodes = linear_sum_assignment(-np.abs(correlation))
    sign = np.sign(correlation[np.arange(len(nodes)), nodes])
    return nodes, sign * sizes[0] / sizes[1][nodes]
