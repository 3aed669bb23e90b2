"""Work by hand: given edges, locks, own functions, nodes added and removed, formulas compiled."""

import copy
import pickle
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sympy
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import kanzoo
from kanzoo.data.formula import formula_values
from kanzoo.fit.least_squares import fit_lbfgs, fit_squares
from kanzoo.interpret.by_hand import (
    deepen,
    expand,
    fix_edge,
    free_edge,
    lock_edges,
    prune_edge,
    prune_input,
    prune_node,
    refine,
    suggest,
    unlock_edges,
)
from kanzoo.interpret.formula.compile import from_formula
from kanzoo.interpret.formula.run import symbolic
from kanzoo.interpret.pictures.graph import draw
from kanzoo.interpret.prior import impose
from kanzoo.interpret.pruning import alive
from kanzoo.interpret.scores import layer_scores
from kanzoo.layers.elementary import LIBRARY, get_function, register_function
from kanzoo.layers.products import Products

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


def test_locked_edges_are_trained_as_one_function() -> None:
    x = torch.randn(40, 2, dtype=F64)
    net = stack(2, 3, 1)
    layer, edges = net[0], [(0, 0), (1, 2)]
    mean = sum(layer.edge(*edge, x[:, 0]) for edge in edges).detach() / 2
    lock_edges(net, 0, edges)
    torch.testing.assert_close(layer.edge(0, 0, x[:, 0]).detach(), mean)
    alone = layer.edge(0, 1, x[:, 0]).detach()
    y = torch.sin(x.sum(1, keepdim=True))
    fit_lbfgs(net, x, y, nn.functional.mse_loss, 10)
    layer.refine(12, x)
    copies = [copy.deepcopy(layer), kanzoo.KANLinear(2, 3, dtype=F64)]
    copies[1].load_state_dict(layer.state_dict())
    for other in (layer, *copies):
        first = other.edge(0, 0, x[:, 0])
        torch.testing.assert_close(other.edge(1, 2, x[:, 0]), first)
        assert (first - mean).abs().max() > 1e-3
        assert (other.edge(0, 1, x[:, 0]) - alone).abs().max() > 1e-3
    wrong = {**layer.state_dict(), "edge_group": torch.full((2, 3), 99)}
    with pytest.raises(ValueError, match="edge_group must hold"):
        copies[1].load_state_dict(wrong)
    prune_edge(net, 0, 0, 0)  # which leaves the other one as it is
    torch.testing.assert_close(layer.edge(1, 2, x[:, 0]), first)
    assert layer.edge_group is None
    with pytest.raises(ValueError, match="given or pruned"):
        lock_edges(net, 0, edges[::-1])
    fix_edge(net, 0, 0, 1, "sin")
    lock_edges(net, 0, [(0, 1), (0, 0)])
    unlock_edges(net, 0, [(0, 0)])
    with torch.no_grad():
        layer.given_affine[0, layer.given_at(0, 0).column] = 3
    torch.testing.assert_close(layer.edge(0, 1, x[:, 0]).detach(), x[:, 0].sin())


FORMULAS = (
    "x*y", "exp(sin(pi*x)+y**2)", "x*y*z/(1+x**2)+3", "2**x*sqrt(y)", "x**y", "max(x,y)-min(y,z)",
    "erf(x)*jv(0,y)+x**2.3", "sin(x)+x+sin(sin(x))+cos(sin(x))", "1/(exp(x/y)-1)", "5",
)  # fmt: skip


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_compiled_network_equals_its_formula(formula: str) -> None:
    names = ["x", "y", "z"]
    x = np.random.default_rng(0).uniform(0.5, 2, (40, 3))
    net = from_formula(formula, names, torch.as_tensor(x))
    expected = formula_values(formula, names, x)
    np.testing.assert_allclose(net(torch.as_tensor(x)).detach()[:, 0], expected, atol=1e-9)


def test_compiled_networks_are_read_drawn_trained_and_set_free() -> None:
    x = torch.rand(200, 2, dtype=F64) * 2 - 1
    net = from_formula(["sin(2*u)*exp(v)", "u*v"], ["u", "v"], x)
    read = symbolic(net, x, names=["u", "v"])
    u, v = read.symbols
    assert sympy.simplify(read.expressions[0] - sympy.sin(2 * u) * sympy.exp(v)).is_zero
    assert {edge["function"] for edge in read.edges} == {"sin", "exp", "x"}
    texts = {text.get_text() for text in draw(net, x, names=["u", "v"]).axes[0].texts}
    assert {"sin", "exp"} <= texts
    y = torch.stack([1.5 * torch.sin(2.2 * x[:, 0]) * x[:, 1].exp(), x[:, 0] * x[:, 1]], 1)
    assert fit_squares(net, x, y, 30) < 1e-8
    assert np.isclose(abs(net[0].given_affine.detach()), 2.2).any()
    large = from_formula("100*sin(u)", x=x[:, :1])
    assert fit_squares(large, x[:, :1], 100 * x[:, :1].sin(), 5, ridge=1.0) < 1e-9
    free_edge(net, 0, 0, 0, x)
    assert fit_squares(net, x, y, 30) < 1e-2
    with pytest.raises(ValueError, match="several variables"):
        from_formula("atan2(x, y)")
    with pytest.raises(ValueError, match=r"not a finite real number at u="):
        from_formula("log(u)", ["u", "v"], x)
    with pytest.raises(ValueError, match="unknown name"):
        from_formula("w", ["u", "v"])


def test_suggested_and_fixed_functions_are_those_that_the_edges_are() -> None:
    net = from_formula("sin(3*x) + y**2", ["x", "y"])
    x = torch.rand(300, 2, dtype=F64) * 2 - 1
    y = net(x).detach()
    for i in range(2):
        free_edge(net, 0, i, 0, x)
    net[0].refine(20, x)
    fit_squares(net, x, y, 20)
    best = suggest(net, x, 0, 0, 0)[0]
    assert best.function.name in ("sin", "cos")
    assert best.r2 > 0.999
    assert abs(abs(best.a) - 3) < 0.05
    fit = fix_edge(net, "0", 0, 0, "sin", x=x)
    assert fit.r2 > 0.999
    fix_edge(net, 0, 1, 0, "x^2", x=x)
    assert fit_squares(net, x, y, 50) < 1e-9
    assert abs(abs(net[0].given_affine[0, 0].item()) - 3) < 1e-6
    for wrong, message in (
        (lambda: fix_edge(net, 0, 0, 0, "sine"), "did you mean 'sin'"),
        (lambda: fix_edge(net, 0, 2, 0, "sin"), "i must be a whole number 0 to 1"),
        (lambda: fix_edge(net, 1, 0, 0, "sin"), "layer"),
        (lambda: fix_edge(net, 0, 0, 0, "log", affine=(1, 0, 1, 0), x=x), "not defined"),
        (lambda: fix_edge(net, 0, 0, 0, "sin", affine=(1, 2)), "four finite numbers"),
        (lambda: lock_edges(net, 0, [(0, 0)]), "two or more"),
        (lambda: impose(net, {0: "increasing"}), "given functions"),
        (lambda: register_function("sin", "x**2"), "none of the library"),
        (lambda: register_function("mine", "x*y"), "one variable"),
        (lambda: register_function("mine", "log(x)"), "domain"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            wrong()
        assert "\n" not in str(caught.value)


def test_own_functions_have_their_derivatives_from_sympy_and_are_stored(tmp_path: Path) -> None:
    register_function("bell", "x*exp(-x**2)")
    register_function("bessel", sympy.besselj(0, sympy.Symbol("t")), domain=(0, float("inf")))
    x = torch.linspace(0.1, 3, 9, dtype=F64, requires_grad=True)
    for name in ("bell", "bessel"):
        assert torch.autograd.gradcheck(get_function(name).call, x)
        assert torch.autograd.gradgradcheck(get_function(name).call, x)
    options = {"in_shape": (2,), "num_outputs": 1, "layers": "kan", "norm": "none"}
    net = kanzoo.create_model("mlp", **options, width=2, depth=1, seed=0).double()
    fix_edge(net, "stem", 0, 1, "bell", affine=(2, 0, 1, 0))
    points = torch.rand(5, 2, dtype=F64)
    expected = 2 * points[:, 0] * torch.exp(-4 * points[:, 0] ** 2)
    torch.testing.assert_close(net.stem.edge(0, 1, points[:, 0]), expected, check_dtype=False)
    kanzoo.save(net, tmp_path / "net")
    del LIBRARY["bell"]  # as in another process
    torch.testing.assert_close(kanzoo.load(tmp_path / "net")(points), net(points), rtol=0, atol=0)
    del LIBRARY["bessel"]
    state = load_file(tmp_path / "net.safetensors")
    for text in ('[[0,9,0,"sin","",-1,1,true]]', '[[0,0,0,"f","__import__(1)",-1,1,true]]', "["):
        state["stem.given_edges"] = torch.tensor(list(text.encode()), dtype=torch.uint8)
        save_file(state, tmp_path / "net.safetensors")
        with pytest.raises(ValueError, match="given edges of a layer cannot be read") as caught:
            kanzoo.load(tmp_path / "net")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mult", [0, 1])
def test_nodes_are_added_and_taken_away(mult: int, tmp_path: Path) -> None:
    options = {"in_shape": (3,), "num_outputs": 1, "layers": "kan", "norm": "none"}
    net = kanzoo.create_model("mlp", **options, width=2, depth=1, mult=mult, seed=0).double()
    x = torch.randn(60, 3, dtype=F64)
    fix_edge(net, 0, 1, 1, "sin", x=x)
    prune_edge(net, 0, 2, 0)
    y, edges = net(x).detach(), alive(net.stem)
    expand(net, 0, nodes=2, products=mult)
    torch.testing.assert_close(net(x).detach(), y)
    assert net.stem.out_features == 4 + 3 * mult
    sums = 2 - mult
    assert torch.equal(alive(net.stem)[:, [*range(sums), *range(sums + 2, 4 + mult)]], edges)
    kanzoo.save(net, tmp_path / "net")
    torch.testing.assert_close(kanzoo.load(tmp_path / "net")(x).detach(), y)
    net(x).square().sum().backward()
    assert net.head.weight.grad[sums : sums + 2].abs().min(0).values.max() > 0
    before = net(x).detach()
    prune_node(net, 0, sums, x)  # a new one, which adds nothing yet
    torch.testing.assert_close(net(x).detach(), before)
    prune_input(net, 2, x)
    assert torch.autograd.grad(net(x.requires_grad_()).sum(), x)[0][:, 2].abs().max() == 0
    prune_input(net, 1)
    with pytest.raises(ValueError, match="no edge of layer"):
        prune_input(net, 0)
    with pytest.raises(ValueError, match="outputs cannot be"):
        prune_node(net, "head", 0)


def test_estimators_are_changed_by_hand() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.uniform(1, 3, (200, 3)), columns=["a", "b", "c"])
    y = frame["a"] * frame["b"] + np.sin(2 * frame["c"])
    model = kanzoo.KANRegressor(hidden=(2,), mult=1, restarts=1, random_state=0)
    model.fit(frame, y)
    assert isinstance(model.network_[1], Products)
    model.start_from("1.1*a*b + sin(2.1*c)")
    start = model.predict(frame) - (
        1.1 * y + np.sin(2.1 * frame["c"]) - 1.1 * np.sin(2 * frame["c"])
    )
    assert np.abs(start).max() < 1e-9
    assert model.refit() < 1e-6
    assert model.score(frame, y) > 1 - 1e-9
    formula = model.symbolic()
    assert formula.relative_error < 1e-6
    assert {str(s) for s in formula.expression.free_symbols} == {"a", "b", "c"}
    other = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(other.predict(frame), model.predict(frame))
    model.expand(0, products=1)
    model.refine(4)
    assert model.score(frame, y) > 1 - 1e-9
    assert model.suggest(0, 2, 0)[0].r2 <= 1
    model.prune_input("c")
    assert model.predict(frame.assign(c=2.0)).tolist() == model.predict(frame).tolist()


def test_layers_are_added_and_refined() -> None:
    net, x = stack(2, 3, 2), torch.rand(50, 2, dtype=F64)
    before = net(x).detach()
    deepen(net)
    torch.testing.assert_close(net(x).detach(), before)
    free_edge(net, 2, 0, 1)  # which was pruned
    refine(net, x, 20)
    torch.testing.assert_close(net(x).detach(), before, rtol=0, atol=0.02)
    assert net[2].expansion.basis.grid_size == 20
    net(x).sum().backward()
    assert net[2].weight.grad[0, :, 1].abs().max() > 0
