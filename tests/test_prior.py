"""Prior knowledge: networks that are monotone, even, odd, exchangeable or separable by make."""

import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kanzoo
from kanzoo.fit.least_squares import fit_lbfgs, fit_squares, network_rmse
from kanzoo.interpret.formula.run import symbolic
from kanzoo.interpret.prior import constrain_edge, exchangeable, impose, separable
from kanzoo.interpret.pruning import prune, shrink
from kanzoo.layers.constraint import KINDS

F64 = torch.float64
RISING: dict[str, dict[str, Any]] = {
    "bspline": {"basis": kanzoo.get_basis("bspline", extrapolation="linear")},
    "clamped": {"basis": kanzoo.get_basis("bspline", extrapolation="clamp", spline_order=2)},
    "squashed": {"basis": "bspline", "squash": "tanh", "residual": "tanh"},
    "adaptive": {"basis": kanzoo.get_basis("bspline_adaptive", extrapolation="linear")},
    "hats": {"basis": "piecewise_linear", "residual": "relu"},
    "bernstein": {"basis": "bernstein", "residual": "identity"},
    "relu": {"basis": "relu"},
    "residual only": {"basis": "none", "residual": "identity"},
}
MIRRORED = ("bspline", "piecewise_linear", "rbf", "chebyshev", "legendre", "hermite", "fourier")


def stack(*sizes: int, **options: Any) -> nn.Sequential:
    torch.manual_seed(0)
    options = {"basis": RISING["bspline"]["basis"], "dtype": F64, **options}
    return nn.Sequential(*[kanzoo.KANLinear(a, b, **options) for a, b in pairwise(sizes)])


def points(count: int, columns: int, reach: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return reach * torch.randn(count, columns, dtype=F64, generator=generator)


def train(net: nn.Module, x: Tensor, y: Tensor, steps: int = 4) -> None:
    """Steps of Adam that are large enough to break what is not guaranteed."""
    optimizer = torch.optim.Adam(net.parameters(), lr=0.5)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.mse_loss(net(x), y).backward()
        optimizer.step()


def slope(net: nn.Module, x: Tensor, i: int) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(net(x).sum(), x)[0][:, i]


@pytest.mark.parametrize("name", RISING)
def test_edges_are_monotone_at_all_inputs_before_and_after_training(name: str) -> None:
    torch.manual_seed(2)
    layer = kanzoo.KANLinear(2, 3, dtype=F64, **RISING[name])
    free = layer.edge(1, 2, points(40, 1)).detach()
    constrain_edge(layer, 0, 1, "increasing")
    constrain_edge(layer, 1, 0, "decreasing")
    torch.testing.assert_close(layer.edge(1, 2, points(40, 1)).detach(), free)
    x = points(400, 1, reach=4.0)[:, 0].sort().values
    data = points(60, 2)
    for _ in range(3):
        assert (layer.edge(0, 1, x).diff() >= -1e-12).all()
        assert (layer.edge(1, 0, x).diff() <= 1e-12).all()
        assert layer.edge(0, 1, x).std() > 1e-6
        train(layer, data, points(60, 3).flip(0))  # against the constraint as often as with it
    torch.nn.init.normal_(layer.weight, std=5.0)
    assert (layer.edge(0, 1, x).diff() >= -1e-12).all()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"basis": "bspline"}, "extrapolation 'linear'"),
        ({"basis": "rbf"}, "rbf"),
        ({"basis": "chebyshev"}, "chebyshev"),
        ({"basis": "prelu"}, "prelu"),
        ({"basis": "none"}, "none"),
        ({"basis": "bernstein", "squash": "tanh"}, "squash 'sigmoid'"),
        ({"basis": RISING["bspline"]["basis"], "squash": "layer"}, "squash 'layer'"),
    ],
)
def test_what_cannot_be_guaranteed_is_refused(options: dict[str, Any], text: str) -> None:
    layer = kanzoo.KANLinear(2, 2, **options)
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(ValueError, match=text):
        constrain_edge(layer, 0, 0, "increasing")
    assert before.keys() == layer.state_dict().keys()


@pytest.mark.parametrize("name", MIRRORED)
@pytest.mark.parametrize("kind", ["even", "odd"])
def test_edges_are_even_or_odd_before_and_after_training(name: str, kind: str) -> None:
    torch.manual_seed(3)
    layer = kanzoo.KANLinear(2, 2, basis=name, residual="identity", dtype=F64)
    constrain_edge(layer, 0, 1, kind)
    x = points(300, 1)
    sign = 1 if kind == "even" else -1
    for _ in range(2):
        value, turned = layer.edge(0, 1, x), layer.edge(0, 1, -x)
        torch.testing.assert_close(turned, sign * value, rtol=1e-5, atol=1e-5)
        assert value.std() > 1e-3
        assert not torch.allclose(layer.edge(1, 1, -x), sign * layer.edge(1, 1, x), atol=0.05)
        train(layer, points(50, 2), points(50, 2).flip(0), steps=2)


def test_a_network_is_monotone_in_the_inputs_that_were_named() -> None:
    net = stack(3, 4, 2, 1)
    x = points(300, 3)
    assert (slope(net, x, 0) < 0).any()
    impose(net, {0: "increasing", 2: "decreasing"})
    y = -x[:, :1] + torch.sin(2 * x[:, 1:2]) + x[:, 2:]  # data that want the opposite
    for _ in range(2):
        assert (slope(net, x, 0) >= 0).all()
        assert (slope(net, x, 2) <= 0).all()
        assert (slope(net, x, 1) > 0).any()
        assert (slope(net, x, 1) < 0).any()
        train(net, x, y)
    assert network_rmse(net, x, y) > 0.5


def test_monotone_networks_fit_monotone_data_through_growing_grids() -> None:
    net = stack(2, 2, 1)
    x = points(300, 2, reach=0.7)
    y = torch.exp(x[:, :1]) + torch.sin(3 * x[:, 1:])
    impose(net, {0: "increasing"})
    net[0].update_grid(x)
    net[1].update_grid(net[0](x))
    fit_squares(net, x, y, 15)
    before = net(x).detach()
    values = x
    for layer in net:
        following = layer(values)
        layer.update_grid(values)
        layer.refine(10, values)
        values = following
    error = (net(x) - before).square().mean().sqrt() / before.std()
    assert error < 0.1  # five cells over a wider range
    assert fit_squares(net, x, y, 25) < 0.05
    assert (slope(net, points(400, 2), 0) >= 0).all()


def test_even_and_odd_networks_and_grids_that_follow_one_sided_data() -> None:
    net = stack(2, 3, 1)
    impose(net, {0: "even"})
    x = points(200, 2)
    mirrored = x * torch.tensor([-1.0, 1.0])
    net[0].update_grid(x.abs())
    net[0].refine(9, x.abs())
    train(net, x, x[:, :1], steps=2)
    torch.testing.assert_close(net(x), net(mirrored), rtol=1e-9, atol=1e-9)
    assert not torch.allclose(net(x), net(-x), atol=1e-2)
    odd = stack(2, 3, 1)
    impose(odd, {0: "odd", 1: "odd"})
    train(odd, x, x[:, :1].cos(), steps=3)
    torch.testing.assert_close(odd(-x), -odd(x), rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="together"):
        impose(stack(2, 1), {0: "odd"})


def test_exchanging_inputs_changes_nothing() -> None:
    net = stack(4, 3, 1)
    exchangeable(net, [[0, 2]])
    exchangeable(net, [[2, 3]])  # with what was shared before
    x = points(100, 4)
    for _ in range(2):
        for order in ([2, 1, 0, 3], [3, 1, 2, 0], [2, 1, 3, 0]):
            torch.testing.assert_close(net(x[:, order]), net(x), rtol=1e-12, atol=1e-12)
        assert not torch.allclose(net(x[:, [1, 0, 2, 3]]), net(x), atol=1e-2)
        train(net, x, x[:, :1])
    pruned = prune(net, points(50, 4), threshold=0.3).net
    torch.testing.assert_close(pruned(x[:, [2, 1, 0, 3]]), pruned(x), rtol=1e-12, atol=1e-12)
    adaptive = stack(2, 1, basis="bspline_adaptive")
    adaptive[0].update_grid(torch.cat([x[:, :1], 3 * x[:, 1:2]], 1))
    with pytest.raises(ValueError, match="uniform"):
        exchangeable(adaptive, [[0, 1]])
    with pytest.raises(ValueError, match="own"):
        exchangeable(stack(2, 1, basis="sine"), [[0, 1]])
    with pytest.raises(ValueError, match="two inputs"):
        exchangeable(net, [[1]])


def test_a_grid_that_would_break_what_was_imposed_stays() -> None:
    net = stack(2, 1, basis=kanzoo.get_basis("bspline_adaptive"))
    exchangeable(net, [[0, 1]])
    x = points(100, 2) * torch.tensor([1.0, 3.0])
    before = net(x)
    with pytest.raises(ValueError, match="equal grids"):
        net[0].update_grid(x)
    torch.testing.assert_close(net(x), before, rtol=0, atol=0)


def mixed(net: nn.Module, i: int, j: int) -> float:
    """The largest mixed second derivative at random points."""
    x = points(50, net[0].in_features, reach=1.0).requires_grad_()
    total = 0.0
    for output in net(x).unbind(1):
        first = torch.autograd.grad(output.sum(), x, create_graph=True)[0][:, i]
        second = torch.autograd.grad(first.sum(), x, retain_graph=True)[0][:, j]
        total = max(total, float(second.abs().max()))
    return total


def test_separated_inputs_never_meet() -> None:
    net = stack(4, 5, 3, 2)
    assert mixed(net, 0, 3) > 1e-3
    separable(net, [[0, 2], [1, 3]])
    train(net, points(60, 4), points(60, 2))
    for i in (0, 2):
        for j in (1, 3):
            assert mixed(net, i, j) == 0
    assert mixed(net, 0, 2) > 1e-3
    with pytest.raises(ValueError, match="once"):
        separable(net, [[0], [1]])
    with pytest.raises(ValueError, match="too few"):
        separable(stack(3, 2, 1), [[0], [1], [2]])
    shared = stack(2, 2, 1)
    exchangeable(shared, [[0, 1]])
    with pytest.raises(ValueError, match="separated"):
        separable(shared, [[0], [1]])


def constrained(**options: Any) -> nn.Module:
    net = kanzoo.create_model(
        "mlp", in_shape=(3,), num_outputs=1, widths=[4], norm="none", seed=0,
        basis=kanzoo.get_basis("bspline", extrapolation="linear"), **options,
    )  # fmt: skip
    exchangeable(net, [[0, 1]])
    impose(net, {0: "increasing", 1: "increasing", 2: "even"})
    return net


def test_what_was_imposed_is_copied_saved_and_loaded(tmp_path: Path) -> None:
    net, x = constrained(), points(40, 3).float()
    plain = kanzoo.create_model(
        "mlp", in_shape=(3,), num_outputs=1, widths=[4], norm="none",
        basis=kanzoo.get_basis("bspline", extrapolation="linear"),
    )  # fmt: skip
    plain.load_state_dict(net.state_dict())
    kanzoo.save(net, tmp_path / "net")
    for other in (copy.deepcopy(net), plain, kanzoo.load(tmp_path / "net")):
        torch.testing.assert_close(other(x), net(x), rtol=0, atol=0)
        assert torch.equal(other.stem.edge_kind, net.stem.edge_kind)
        assert torch.equal(other.stem.input_group, net.stem.input_group)
        train(other, x, -x[:, :1])
        assert (slope(other, x, 0) >= -1e-5).all()
        torch.testing.assert_close(other(x[:, [1, 0, 2]]), other(x), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(other(x * torch.tensor([1, 1, -1])), other(x))
    wrong = kanzoo.KANLinear(3, 4)  # a basis that cannot keep it
    with pytest.raises(ValueError, match="monotone"):
        wrong.load_state_dict(net.stem.state_dict())


def test_a_failure_leaves_the_network_as_it_was() -> None:
    net = nn.Sequential(
        kanzoo.KANLinear(2, 2, dtype=F64, **RISING["bspline"]), kanzoo.KANLinear(2, 1, dtype=F64)
    )
    x = points(20, 2)
    before = net(x)
    with pytest.raises(ValueError, match="extrapolation"):
        impose(net, {0: "increasing"})
    torch.testing.assert_close(net(x), before, rtol=0, atol=0)
    assert net[0].edge_kind is None
    with pytest.raises(ValueError, match="increasing"):
        impose(net, {0: "rising"})
    with pytest.raises(ValueError, match="from 0 to 1"):
        impose(net, {2: "increasing"})
    with pytest.raises(ValueError, match=r"norm=none"):
        impose(kanzoo.create_model("mlp", in_shape=(2,), num_outputs=1, width=3), {0: "even"})


def test_optimiser_state_of_constrained_edges_starts_anew() -> None:
    layer = stack(2, 1)[0]
    impose(nn.Sequential(layer), {0: "increasing"})
    optimizer = torch.optim.Adam(layer.parameters())
    layer(points(9, 2)).sum().backward()
    optimizer.step()
    layer.refine(9).adjust(optimizer, "remap")
    assert layer.weight not in optimizer.state


def test_shrinking_keeps_what_was_imposed() -> None:
    net = stack(3, 4, 1)
    impose(net, {0: "increasing"})
    exchangeable(net, [[1, 2]])
    keep = torch.ones(3, 4, dtype=torch.bool)
    keep[:, 2] = False
    net[0].mask_edges(keep)
    x = points(50, 3)
    small, columns = shrink(net, x)
    torch.testing.assert_close(small(x[:, columns]), net(x))
    train(small, x[:, columns], -x[:, :1])
    assert small[0].out_features == 3
    assert (slope(small, x, 0) >= 0).all()
    torch.testing.assert_close(small(x[:, [0, 2, 1]]), small(x))


def test_convolutions_keep_monotone_kernels() -> None:
    conv = kanzoo.KANConv2d(2, 3, 3, padding=1, dtype=F64, **RISING["bspline"])
    conv.constrain_edges(torch.full((3, 2), KINDS["increasing"]))
    image = torch.randn(2, 2, 5, 5, dtype=F64)
    higher = image + torch.rand_like(image)
    assert (conv(higher) >= conv(image) - 1e-12).all()
    plain = kanzoo.KANConv2d(2, 3, 3, padding=1, dtype=F64, **RISING["bspline"])
    assert (plain(higher) < plain(image)).any()


def test_a_formula_is_read_from_a_constrained_network() -> None:
    net = stack(2, 1, basis=kanzoo.get_basis("bspline", grid_range=(-1, 1), extrapolation="linear"))
    impose(net, {0: "increasing", 1: "even"})
    x = torch.rand(300, 2, dtype=F64) * 2 - 1
    y = torch.exp(x[:, :1]) + x[:, 1:] ** 2
    assert fit_squares(net, x, y, 40) < 0.02
    formula = symbolic(net, x, y, names=["a", "b"], functions=["x", "x^2", "exp"])
    assert str(formula.expression) == "b**2 + exp(a)"


def test_constraints_hold_where_compiled_kernels_fit() -> None:
    net, x = stack(1, 1), torch.linspace(-1, 1, 60, dtype=F64).unsqueeze(1)
    impose(net, {0: "increasing"})
    y = x + torch.sin(3 * x)
    before = network_rmse(net, x, y)
    fit_lbfgs(net, x, y, nn.functional.mse_loss, 20)
    assert network_rmse(net, x, y) < 0.5 * before
    assert net(x).diff(dim=0).min() >= 0
