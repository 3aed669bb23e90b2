"""Graphs: nodes have no order, padding no effect, sums over neighbours are those of edge lists."""

import networkx as nx
import pytest
import torch
from conftest import compose
from torch import Tensor
from zoo import make

from kanzoo import registry
from kanzoo.models.graph import GCN, GIN, normalised

FEATURES, NODES = 3, 6


def graphs(count: int = 4) -> Tensor:
    """Random graphs `(B, N, F + N)` of two to six nodes."""
    generator = torch.Generator().manual_seed(0)
    made = torch.zeros(count, NODES, FEATURES + NODES)
    for i, graph in enumerate(made):
        size = 2 + i % (NODES - 1)
        graph[:size, :FEATURES] = torch.randn(size, FEATURES, generator=generator)
        linked = (torch.rand(size, size, generator=generator) < 0.6).triu(1)
        graph[:size, FEATURES : FEATURES + size] = (linked | linked.T).float() + torch.eye(size)
    return made


@pytest.mark.parametrize("conv", ["gin", "gcn"])
@pytest.mark.parametrize("roles", [(), "all"])
@pytest.mark.parametrize("pool", ["sum", "mean"])
def test_nodes_have_no_order_and_padding_no_effect(conv: str, roles: object, pool: str) -> None:
    net = make("graph", roles, conv=conv, pool=pool).double().eval()
    x = graphs().double()
    order = torch.randperm(NODES, generator=torch.Generator().manual_seed(1))
    columns = torch.cat([torch.arange(FEATURES), FEATURES + order])
    want = net(x)
    torch.testing.assert_close(net(x[:, order][:, :, columns]), want)
    pair = x[:1].clone()  # the graph of two nodes, its padding filled
    pair[:, 2:, :FEATURES] = 7.0
    torch.testing.assert_close(net(pair), want[:1])


@pytest.mark.parametrize("conv", ["gin", "gcn"])
def test_neighbours_are_summed_as_over_lists_of_edges(conv: str) -> None:
    x = graphs().double()
    edges = x[..., FEATURES:]
    nodes = torch.randn(len(x), NODES, 8, dtype=torch.float64)
    net = make("graph", "all", conv=conv).double()
    layer = net.convs[0]
    assert isinstance(layer, GIN | GCN)
    if isinstance(layer, GIN):
        torch.nn.init.constant_(layer.epsilon, 0.3)
    given = edges if isinstance(layer, GIN) else normalised(edges)
    for graph, matrix, got in zip(nodes, edges, layer(nodes, given), strict=True):
        sources, targets = matrix.nonzero(as_tuple=True)
        if isinstance(layer, GIN):
            is_loop = sources == targets
            sums = torch.zeros_like(graph).index_add(0, targets[~is_loop], graph[sources[~is_loop]])
            present = matrix.diagonal()[:, None]
            want = layer.update((present + layer.epsilon) * graph + sums)
        else:
            degrees = torch.bincount(targets, minlength=NODES).clamp(min=1).double()
            weights = (degrees[sources] * degrees[targets]).rsqrt()
            want = layer.update(
                torch.zeros_like(graph).index_add(0, targets, weights[:, None] * graph[sources])
            )
        torch.testing.assert_close(got, want)


def test_the_atlas_has_every_connected_graph_and_its_connectivity() -> None:
    data = registry.instantiate(compose("train", ["data=graph_atlas", "data.split_seed=0"])["data"])
    train, test = data.read()
    sizes = torch.cat([train.x, test.x])[..., 0].sum(1).long().bincount(minlength=8)
    # Connected graphs of n nodes: OEIS A001349.
    assert sizes.tolist() == [0, 0, 1, 2, 6, 21, 112, 853]
    for x, y in zip(test.x[::20], test.y[::20], strict=True):
        count = int(x[:, 0].sum())
        matrix = (x[:count, 1 : 1 + count] - torch.eye(count)).numpy()
        known = nx.algebraic_connectivity(nx.from_numpy_array(matrix), method="lanczos", tol=1e-10)
        assert float(y) == pytest.approx(known, rel=1e-6)


def test_a_digit_is_the_graph_of_its_pixels() -> None:
    from sklearn.datasets import load_digits

    data = registry.instantiate(compose("train", ["data=digits_graph"])["data"])
    data.split_seed = 0
    train, test = data.read()
    x = torch.cat([train.x, test.x])
    grey = torch.from_numpy(load_digits().data).float() / 16
    assert sorted(x[..., 0].sum(1).tolist()) == sorted(grey.sum(1).tolist())
    place, edges = (3.5 * (x[..., 1:3] + 1)).round(), x[..., 3:]
    assert torch.equal(edges, edges.mT)
    apart = (place[:, :, None] - place[:, None]).abs().amax(-1)
    there = edges.diagonal(dim1=1, dim2=2)
    assert torch.equal(edges > 0, (apart <= 1) & (there[:, :, None] * there[:, None] > 0))
