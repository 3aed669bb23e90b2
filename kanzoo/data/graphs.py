"""Graphs that need no download: digits as graphs of pixels, and all graphs of up to seven nodes.

Axes: G graphs, N nodes at most, F features of a node.
"""

from typing import Any

import torch

from kanzoo.data.base import DataSpec, Split
from kanzoo.data.memory import MemoryDataset
from kanzoo.data.tabular import moments, standardise

SIDE = 8


class Graphs(MemoryDataset):
    """Graphs `(N, F + N)` with a target each: features of nodes, then the adjacency matrix.

    Every node is a neighbour of itself, rows of zeros pad smaller graphs. There is no official test
    set: a fifth that `split_seed` draws serves as one.
    """

    test_set = "resampled"
    domain = "graphs"

    def __init__(self, *, val_size: float = 0.25, **options: Any) -> None:
        super().__init__(val_size=val_size, **options)


class DigitsGraph(Graphs):
    """Scikit-learn's 1,797 digits: a node a pixel that is not white, with its eight neighbours.

    Features of a node are its grey level in [0, 1] and its row and column in [-1, 1]. As in graphs
    of superpixels (2003.00982, section 4), all that is known of the grid is in these features.
    """

    num_train, num_test = 1437, 360
    nodes, num_features = 42, 3
    class_names = tuple("0123456789")

    @property
    def spec(self) -> DataSpec:
        """Room for the digit with most pixels, ten classes."""
        shape = (self.nodes, self.num_features + self.nodes)
        return DataSpec(shape, 10, "classification", self.class_names, "graph")

    def read(self) -> tuple[Split, Split]:
        """Return graphs of the scans."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        grey = torch.from_numpy(digits.data).float() / 16  # (G, 64)
        position = torch.cartesian_prod(*[torch.arange(SIDE, dtype=torch.float32)] * 2)  # (64, 2)
        kept = (
            (grey > 0).int().argsort(stable=True, dim=1, descending=True)[:, : self.nodes]
        )  # (G, N)
        grey = grey.gather(1, kept)
        is_node = (grey > 0).float()
        position = position[kept]  # (G, N, 2)
        near = (position[:, :, None] - position[:, None]).abs().amax(-1) <= 1  # (G, N, N)
        edges = near * is_node[:, :, None] * is_node[:, None]
        features = torch.cat([grey[..., None], 2 * position / (SIDE - 1) - 1], -1)
        x = torch.cat([features * is_node[..., None], edges], -1)
        return self.divide(x, torch.from_numpy(digits.target).long(), "DigitsGraph")


class GraphAtlas(Graphs):
    """The 995 connected graphs of two to seven nodes: their algebraic connectivity.

    This is the second least eigenvalue of the Laplacian (Fiedler, 1973), in units of its deviation
    over the training graphs; nodes have no features but a one. The graphs are those of "An Atlas of
    Graphs" (Read and Wilson, 1998), which come with NetworkX.
    """

    num_train, num_test = 796, 199
    nodes = 7

    @property
    def spec(self) -> DataSpec:
        """Seven nodes, one number."""
        return DataSpec((self.nodes, 1 + self.nodes), 1, "regression", kind="graph")

    def read(self) -> tuple[Split, Split]:
        """Return the connected graphs of NetworkX's atlas."""
        import networkx as nx

        graphs = [g for g in nx.graph_atlas_g() if len(g) > 1 and nx.is_connected(g)]
        edges = torch.zeros(len(graphs), self.nodes, self.nodes, dtype=torch.float64)
        for matrix, graph in zip(edges, graphs, strict=True):
            matrix[: len(graph), : len(graph)] = torch.from_numpy(nx.to_numpy_array(graph))
        degrees = edges.sum(-1)
        # Padding gets values above all others, so that it is not among the least two.
        absent = torch.where(degrees > 0, 0.0, 2.0 * self.nodes)
        laplacian = torch.diag_embed(degrees + absent) - edges
        connectivity = torch.linalg.eigvalsh(laplacian)[:, 1:2]  # (G, 1)
        is_node = (degrees > 0).double()
        x = torch.cat([is_node[..., None], edges + torch.diag_embed(is_node)], -1)
        return self.divide(x.float(), connectivity, "GraphAtlas")

    def cut(self) -> dict[str, Split]:
        """Split the graphs, and standardise the targets with the training split's moments."""
        splits = super().cut()
        known = moments(splits["train"].y)
        return {part: Split(x, standardise(y, known)) for part, (x, y) in splits.items()}
