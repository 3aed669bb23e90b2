"""Work by hand: given edges, locks, own functions, nodes added and removed, formulas compiled."""

import copy
import pickle
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

import kanzoo
from kanzoo.interpret.pruning import alive
from kanzoo.interpret.scores import layer_scores

F64 = torch.float64


def stack(*sizes: int) -> nn.Sequential:
    torch.manual_seed(0)
    basis = kanzoo.get_basis("bspline", grid_range=(-2, 2))
    return nn.Sequential(
        *[kanzoo.KANLinear(a, b, basis=basis, dtype=F64) for a, b in pairwise(sizes)]
    )


def test_given_edges_are_their_functions_and_stay() -> None:
    x = torch.randn(30, 2, dtype=F64)
    layer = stack(2, 2)[0]
    plain, old = layer(x).detach(), layer.edge(1, 0, x[:, 1]).detach()
    layer.fix_edge(1, 0, "x**2", (2.0, 0.5, 1.5, 0.25))
    square = 1.5 * (2 * x[:, 1] + 0.5) ** 2 + 0.25
    expected = plain.clone()
    expected[:, 0] += square - old
    torch.testing.assert_close(layer(x).detach(), expected)
    torch.testing.assert_close(layer.edge(1, 0, x[:, 1]).detach(), square)
    scores = layer_scores(layer, x)  # which see given functions, and so does the penalty
    torch.testing.assert_close(scores.std[1, 0], square.std(correction=0))
    torch.testing.assert_close(layer.edge_norms(x), scores.l1)
    layer.share_given((1, 0), (0, 1))
    torch.testing.assert_close(layer.edge(0, 1, x[:, 0]), layer.edge(1, 0, x[:, 0]))
    layer.fix_edge(0, 0, "sin", is_trained=False)
    before = layer.edge(0, 0, x[:, 0]).detach()
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    layer(x).square().sum().backward()
    optimizer.step()
    layer.refine(9, x)
    layer.update_grid(x)
    torch.testing.assert_close(layer.edge(0, 0, x[:, 0]).detach(), before)
    a, b, c, d = layer.given_affine[:, layer.given_at(1, 0).column].tolist()
    assert a != 2.0
    for edge in ((1, 0), (0, 1)):
        torch.testing.assert_close(
            layer.edge(*edge, x[:, 0]).detach(), c * (a * x[:, 0] + b) ** 2 + d
        )
    layer.free_edge(1, 0)
    assert layer.given_at(1, 0) is None
    assert alive(layer).all()
    inside = torch.linspace(-1.5, 1.5, 20, dtype=F64)
    freed = layer.edge(1, 0, inside).detach()
    gap = freed - c * (a * inside + b) ** 2
    assert float(gap.std()) < 1e-6  # but for a constant, which is in the bias
    layer.weight.grad = None
    layer(x).square().sum().backward()
    assert layer.weight.grad[1, :, 0].abs().max() > 0
    assert layer.weight.grad[0, :, 0].abs().max() == 0


def test_given_edges_survive_whatever_is_done_with_networks(tmp_path: Path) -> None:
    options = {"in_shape": (2,), "num_outputs": 1, "layers": "kan", "norm": "none"}
    net = kanzoo.create_model("mlp", **options, width=2, depth=1, mult=1, seed=0).double()
    layer = net.stem
    layer.fix_edge(0, 1, "sin", (2.0, 0.1, 1.0, 0.0))
    x = torch.randn(20, 2, dtype=F64)
    y = net(x).detach()
    kanzoo.save(net, tmp_path / "net")
    for other in (
        copy.deepcopy(net),
        pickle.loads(pickle.dumps(net)),
        kanzoo.load(tmp_path / "net"),
    ):
        torch.testing.assert_close(other(x).detach(), y, rtol=0, atol=0)
        assert other.stem.given == layer.given
    assert net.float().stem.given_affine.dtype == torch.float32
