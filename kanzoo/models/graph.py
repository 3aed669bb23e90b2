"""Graph networks: GCN and GIN.

Axes: B batch, N nodes, F features of a node, E width.
"""

from collections.abc import Collection
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kanzoo.checks import check_name
from kanzoo.layers.factory import LayerFactory
from kanzoo.layers.options import check_sizes
from kanzoo.layers.transformer import FeedForward, check_token_norm
from kanzoo.models.base import Architecture, InnerSizes, size_or

CONVS = ("gin", "gcn")
POOLS = ("sum", "mean")


def normalised(edges: Tensor) -> Tensor:
    """D^-1/2 A D^-1/2 of graphs `(B, N, N)` with self-loops; padding stays zero."""
    scale = edges.sum(-1).clamp(min=1).rsqrt()  # (B, N)
    return scale[:, :, None] * edges * scale[:, None]


class GIN(nn.Module):
    """Two layers of (1 + epsilon) h + the sum over neighbours (1810.00826, eq. 4.1).

    Epsilon is learned, from zero. Shapes: nodes `(B, N, E)`, graphs `(B, N, N)` with self-loops
    `-> (B, N, E)`.
    """

    def __init__(self, width: int, hidden: int, layers: LayerFactory) -> None:
        super().__init__()
        self.epsilon = nn.Parameter(torch.zeros(()))
        self.update = FeedForward("update", width, hidden, layers)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        return self.update(self.epsilon * nodes + edges @ nodes)


class GCN(nn.Module):
    """One layer of the mean over neighbours, weighted by degrees (1609.02907, eq. 2).

    Shapes as for `GIN`, of graphs that are `normalised`.
    """

    def __init__(self, width: int, layers: LayerFactory) -> None:
        super().__init__()
        self.update = layers.linear("update", width, width)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        return self.update(edges @ nodes)


class GraphNet(Architecture):
    """Pre-norm residual graph convolutions, then a sum or a mean over the nodes.

    A graph is one matrix `(N, F + N)`: a row a node, with its features, then its row of the
    adjacency matrix, in which every node has itself as a neighbour. Rows of zeros are padding,
    which changes nothing. Neighbours are added by one product with that matrix, so that shapes are
    the same for all graphs.

    Shapes: `(B, N, F + N) -> (B, num_outputs)`.
    """

    kinds: ClassVar[tuple[str, ...]] = ("graph",)
    roles: ClassVar[tuple[str, ...]] = ("stem", "update", "head")
    activated: ClassVar[tuple[str, ...]] = ("update",)
    fine: ClassVar[str | None] = "update_ratio"

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_outputs: int,
        layers: LayerFactory,
        *,
        conv: str = "gin",
        width: int = 64,
        depth: int = 4,
        update_ratio: float = 1.0,
        update_width: int | None = None,
        pool: str = "sum",
        norm: str = "layer",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes(width=width, depth=depth)
        check_name("conv of graph", conv, CONVS)
        check_name("pool of graph", pool, POOLS)
        check_token_norm("graph", norm)
        if len(in_shape) != 2 or in_shape[1] <= in_shape[0]:
            raise ValueError(
                f"graph needs graphs (N, F + N), features and neighbours of every node, got inputs "
                f"of shape {in_shape}"
            )
        self.features, self.conv, self.pool = in_shape[1] - in_shape[0], conv, pool
        hidden = size_or("update_width", update_width, "update_ratio", update_ratio, width)
        self.stem = layers.linear("stem", self.features, width, activate=False)
        self.norms = nn.ModuleList(layers.norm(norm, width) for _ in range(depth))
        self.convs = nn.ModuleList(
            GIN(width, hidden, layers) if conv == "gin" else GCN(width, layers)
            for _ in range(depth)
        )
        self.norm = layers.norm(norm, width)
        self.dropout = nn.Dropout(dropout)
        self.head = layers.linear("head", width, num_outputs, activate=False)

    @classmethod
    def inner_sizes(cls, roles: Collection[str], options: dict[str, Any]) -> InnerSizes:
        if "update" not in roles or options["conv"] == "gcn":  # whose layer has no inside
            return {}
        given, ratio = options["update_width"], options["update_ratio"]
        width = options["width"]
        return {"update_width": size_or("update_width", given, "update_ratio", ratio, width)}

    def forward(self, x: Tensor) -> Tensor:
        edges = x[..., self.features :]  # (B, N, N)
        is_node = edges.diagonal(dim1=-2, dim2=-1)[..., None]  # (B, N, 1)
        edges = normalised(edges) if self.conv == "gcn" else edges
        nodes = self.stem(x[..., : self.features])  # (B, N, E)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            nodes = nodes + self.dropout(conv(norm(nodes), edges))
        pooled = (self.norm(nodes) * is_node).sum(-2)  # (B, E)
        if self.pool == "mean":
            pooled = pooled / is_node.sum(-2).clamp(min=1)
        return self.head(pooled)
