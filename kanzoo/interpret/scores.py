"""How much edges and nodes matter: sizes of edge functions on data, and attribution from the end.

Axes: N rows, K functions, C input channels, E = O / groups outputs that a channel reaches, T taps.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kanzoo.fit.chain import chain, kan_layers
from kanzoo.interpret.edges import ROWS, edge_deviations, layer_values
from kanzoo.layers import KANLayer
from kanzoo.layers.grid import subsample
from kanzoo.layers.products import node_of


@dataclass(frozen=True)
class LayerScores:
    """Scores of one layer's edges and nodes, `(C, E)`, `(C,)` and `(O,)`.

    `l1` is the mean of |phi| on the data (KAN, 2404.19756, eq. 2.17) and `std` its standard
    deviation, which a constant edge does not have; `mean` is that of
    phi; a kernel's taps are added up. `inputs` and
    `outputs` are the largest score of a node's outgoing and incoming edges (section 2.5.1).
    """

    l1: Tensor
    std: Tensor
    inputs: Tensor
    outputs: Tensor
    mean: Tensor


@torch.no_grad()
def layer_scores(layer: KANLayer, x: Tensor) -> LayerScores:
    """Scores of a layer on its inputs x, shaped as the layer takes them."""
    return _scores(layer, subsample(layer.rows(x), ROWS))


def _scores(layer: KANLayer, rows: Tensor) -> LayerScores:
    """Scores on the values `(N, C)` that the basis gets to see."""
    parts = [
        torch.stack([block.abs().mean(0), block.std(0, correction=0), block.mean(0)]).sum(-1)
        for block in _blocks(layer, rows)
    ]
    l1, std, mean = torch.cat(parts, dim=1)
    groups = layer.out_features // layer.edges_out
    incoming = std.unflatten(0, (groups, -1)).amax(1).flatten()  # (O,)
    return LayerScores(l1, std, std.amax(1), incoming, mean)


def _blocks(layer: KANLayer, rows: Tensor, limit: int = 8_000_000) -> Iterator[Tensor]:
    """Values of the edge functions of some channels at a time, `(N, C, E, T)`, to fit in memory."""
    basis, weight = layer.edge_basis(rows)  # (K, N, C)
    channels = max(1, limit // max(1, basis.shape[1] * weight[0, 0].numel()))
    for start in range(0, layer.in_features, channels):
        block_channels = slice(start, start + channels)
        yield torch.einsum("knc,cket->ncet", basis[..., block_channels], weight[block_channels])


@torch.no_grad()
def edge_scores(net: nn.Module, x: Tensor) -> dict[str, LayerScores]:
    """Scores of every KAN layer of any network when it sees x, by the layer's name.

    All calls of a layer count, so every step of a recurrent one.
    """
    layers = kan_layers(net)
    values = layer_values(net, x, layers)
    return {name: _scores(layers[name], rows) for name, rows in values.items()}


@dataclass(frozen=True)
class Contrast:
    """Standard deviations of the local and the global part of every edge on the data, `(C, E)`.

    Global are the residual branch and the functions that a basis calls so (`Basis.num_global`, the
    PReLU of `bspline_prelu`); all others count as local, as splines and bells are. A kernel's taps
    are added up.
    """

    local_part: Tensor
    global_part: Tensor

    @property
    def global_share(self) -> float:
        """The global parts' share of the sum of both, over all edges."""
        both = float(self.local_part.sum() + self.global_part.sum())
        return float(self.global_part.sum()) / both if both > 0 else 0.0


@torch.no_grad()
def contrast(net: nn.Module, x: Tensor) -> dict[str, Contrast]:
    """How much of the edges of every KAN layer is local and how much global, when it sees x."""
    layers = kan_layers(net)
    contrasts = {}
    for name, rows in layer_values(net, x, layers).items():
        basis = layers[name].expansion.basis
        count = basis.num_functions - basis.num_global
        contrasts[name] = Contrast(
            *(
                edge_deviations(layers[name], rows, functions).sum(-1)
                for functions in (slice(0, count), slice(count, None))
            )
        )
    return contrasts


@dataclass(frozen=True)
class Attribution:
    """Attribution scores of a stack: `nodes[l]` `(C_l,)` and `edges[l]` `(C_l, C_{l+1})`.

    `nodes[0]` are the scores of the inputs, `nodes[-1]` those of the outputs.
    """

    nodes: list[Tensor]
    edges: list[Tensor]


@torch.no_grad()
def attribution(net: nn.Module, x: Tensor, outputs: Tensor | None = None) -> Attribution:
    """How much of the outputs' variation every edge and node accounts for, from the end back.

    With E the standard deviation of an edge's function and N that of the node it leads to,
    B_ij = A_j E_ij / N_j for edges and A_i = sum_j B_ij for nodes (KAN 2.0, 2408.10205, eq. 9).
    Both factors of a product have its score. `outputs` are the scores to start from, 1 for every
    output unless given. Raises `ValueError` for networks that are not a stack of `KANLinear`.
    """
    stages = chain(net, x)
    inputs = [x.flatten(1)]
    for stage in stages:
        inputs.append(stage(inputs[-1]))
    score = torch.ones_like(inputs[-1][0]) if outputs is None else outputs.to(inputs[-1])
    nodes: list[Tensor] = [score]
    edges: list[Tensor] = []
    for stage, seen in zip(reversed(stages), inputs[-2::-1], strict=True):
        edge = layer_scores(stage.layer, seen).std
        node = stage.layer(seen).std(0, correction=0)
        score = nodes[0][node_of(stage.num_nodes, stage.products)]
        share = torch.where(node > 0, score / node, 0.0)
        edges.insert(0, edge * share)
        nodes.insert(0, edges[0].sum(1))
    return Attribution(nodes, edges)
