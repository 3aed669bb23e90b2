"""Product nodes: their values, and all that reads networks which have them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import kanzoo
from kanzoo.fit.chain import chain
from kanzoo.fit.least_squares import fit_squares, network_rmse
from kanzoo.interpret.formula.run import symbolic
from kanzoo.interpret.pictures import graph
from kanzoo.interpret.prior import impose, separable
from kanzoo.interpret.pruning import alive, prune, shrink, smallest
from kanzoo.interpret.scores import attribution, edge_scores
from kanzoo.layers.products import Products, multiply, node_of

F64 = torch.float64


def mlp(*widths: int, mult: int = 1, inputs: int = 2, seed: int = 5, **options: Any) -> nn.Module:
    basis = kanzoo.get_basis("bspline", grid_size=3, grid_range=(-1, 1), extrapolation="linear")
    options = {"norm": "none", "basis": basis, **options}
    return kanzoo.create_model(
        "mlp",
        in_shape=(inputs,),
        num_outputs=1,
        widths=list(widths),
        mult=mult,
        seed=seed,
        **options,
    ).double()


def square(count: int = 300, columns: int = 2) -> torch.Tensor:
    return torch.rand(count, columns, dtype=F64, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_nodes_are_sums_and_products() -> None:
    x = torch.randn(4, 5, 7, dtype=F64)
    y = Products(5, 2)(x)
    expected = torch.stack(
        [x[..., 0], x[..., 1], x[..., 2], x[..., 3] * x[..., 4], x[..., 5] * x[..., 6]], -1
    )
    assert torch.equal(y, expected)
    assert node_of(5, 2) == [0, 1, 2, 3, 3, 4, 4]
    assert multiply(x, 0) is x
    with pytest.raises(ValueError, match="products"):
        Products(2, 3)


@pytest.mark.parametrize("layers", ["kan", "mlp"])
def test_the_option_puts_products_behind_every_hidden_layer_of_both_twins(layers: str) -> None:
    net = mlp(4, 3, mult=2, inputs=3, layers=layers)
    x = square(20, 3)
    first, _, hidden, second = net.hidden
    y = first(net.stem(x))
    torch.testing.assert_close(y[:, 2], net.stem(x)[:, 2] * net.stem(x)[:, 3])
    torch.testing.assert_close(net.head(second(hidden(y))), net(x))
    assert net.stem.out_features == 6
    plain = kanzoo.create_model("mlp", in_shape=(3,), num_outputs=1, widths=[4, 3])
    assert plain.state_dict().keys() != net.state_dict().keys()
    with pytest.raises(ValueError, match="mult"):
        mlp(2, mult=-1)
    assert [m.products for m in mlp(2, 1, mult=3).modules() if isinstance(m, Products)] == [2, 1]


def test_budgets_are_matched_and_networks_saved(tmp_path: Path) -> None:
    options: dict[str, Any] = {"in_shape": (6,), "num_outputs": 2, "mult": 3, "seed": 0}
    twin = kanzoo.create_model("mlp", layers="mlp", width=40, **options)
    net = kanzoo.create_model("mlp", width=40, match="params", **options)
    counts = [sum(p.numel() for p in n.parameters()) for n in (net, twin)]
    assert counts[0] / counts[1] == pytest.approx(1, abs=0.02)
    kanzoo.save(net, tmp_path / "net")
    x = torch.randn(5, 6)
    torch.testing.assert_close(kanzoo.load(tmp_path / "net")(x), net(x))


def test_a_product_is_found_as_a_formula() -> None:
    x = square()
    y = x[:, :1] * x[:, 1:]
    net = mlp(1)
    assert fit_squares(net, x, y, 60, ridge=1e-6) < 1e-2
    formula = symbolic(net, x, y, names=["x", "y"])
    assert str(formula.expression) == "x*y"
    assert {(edge["layer"], edge["o"]) for edge in formula.edges} == {(0, 0), (0, 1), (1, 0)}


def test_attribution_gives_both_factors_the_score_of_their_product() -> None:
    net, x = mlp(3, inputs=2), square()
    found = attribution(net, x)
    assert found.edges[0].shape == (2, 4)
    assert found.nodes[1].shape == (3,)
    sums = net.stem(x).detach().std(0, correction=0)
    edges = edge_scores(net, x)["stem"].std
    expected = edges / sums * found.nodes[1][[0, 1, 2, 2]]
    torch.testing.assert_close(found.edges[0], expected)


def test_a_node_is_pruned_with_both_its_factors() -> None:
    net, x = mlp(3), square()
    with torch.no_grad():
        net.head.weight[2] = 0
    result = prune(net, x, threshold=0.0, node_threshold=0.0)
    assert result.nodes == 1
    assert alive(result.net.stem).tolist() == [[True, True, False, False]] * 2
    torch.testing.assert_close(result.net(x), net(x))
    with pytest.raises(ValueError, match="product nodes"):
        shrink(result.net, x)
    y = x[:, :1] * x[:, 1:]
    pair = mlp(1)
    fit_squares(pair, x, y, 60, ridge=1e-6)
    assert network_rmse(smallest(pair, x, y).net, x, y) < 1e-2


def test_products_in_the_picture() -> None:
    figure = graph.draw(mlp(3, 2, mult=2), square())
    signs = [text for text in figure.axes[0].texts if text.get_text() == "×"]  # noqa: RUF001
    assert len(signs) == 4
    stages = chain(mlp(3, 2, mult=2), square(), allow_norms=True)
    assert [stage.num_nodes for stage in stages] == [3, 2, 1]


def test_products_stay_within_their_group_and_off_monotone_paths() -> None:
    net = mlp(4, mult=2, inputs=4)
    separable(net, [[0, 1], [2, 3]])
    x = square(30, 4).requires_grad_()
    first = torch.autograd.grad(net(x).sum(), x, create_graph=True)[0]
    mixed = torch.autograd.grad(first[:, 0].sum(), x, retain_graph=True)[0]
    assert not mixed[:, 2:].any()
    assert mixed[:, 1].any()
    with pytest.raises(ValueError, match="multiplies"):
        impose(net, {0: "increasing"})
    with pytest.raises(ValueError, match=r"norm=none"):
        chain(mlp(3, norm="layer"), square())
