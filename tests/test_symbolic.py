"""Formulas: the library recovers its own functions, networks with known edges their formula."""

import math
from itertools import pairwise

import numpy as np
import pytest
import sympy
import torch
from torch import nn

import kanzoo
from kanzoo.data.functions import Functions
from kanzoo.fit.least_squares import fit_squares, network_rmse
from kanzoo.interpret.formula.clock import Clock, TimeOver
from kanzoo.interpret.formula.constants import tidy
from kanzoo.interpret.formula.library import fit_edge
from kanzoo.interpret.formula.names import make_symbols
from kanzoo.interpret.formula.read import read_formula
from kanzoo.interpret.formula.run import FormulaError, symbolic
from kanzoo.layers.elementary import LIBRARY, get_function

F64 = torch.float64
X, Y = sympy.symbols("x y", real=True)
# a and b on inputs in [-1, 2] that keep the argument in the domain.
PLACES = {"shift": (1.7, -0.4), "scale": (-1.3, 0.2), "both": (0.9, -0.4), "line": (2.0, 1.0)}


def place(name: str) -> tuple[float, float]:
    low, high = LIBRARY[name].domain
    if low > 0:
        return -1.3, 3.1
    return (0.4, -0.2) if math.isfinite(high) else PLACES.get(LIBRARY[name].search, (1.7, -0.4))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if index % 3 else ())
        for index, name in enumerate(LIBRARY)
    ],
)
def test_the_library_recovers_its_own_functions(name: str) -> None:
    x = np.random.default_rng(0).uniform(-1, 2, 100)
    a, b = place(name)
    y = 2.3 * LIBRARY[name].call(torch.as_tensor(a * x + b)).numpy() - 0.7
    fits = fit_edge(x, y)
    own = next(fit for fit in fits if fit.function.name == name)
    assert own.r2 > 1 - 1e-6
    assert fits[0].r2 > 1 - 1e-6
    assert fits[0].function.complexity <= LIBRARY[name].complexity
    if name != "sgn":
        np.testing.assert_allclose(own(x), y, atol=1e-4)


@pytest.mark.parametrize("name", LIBRARY)
def test_symbols_and_tensors_agree_and_gradients_are_finite(name: str) -> None:
    a, b = place(name)
    t = torch.linspace(-1, 2, 50, dtype=F64) * a + b
    values = sympy.lambdify(X, LIBRARY[name].symbol(X), "numpy")(t.numpy())
    np.testing.assert_allclose(LIBRARY[name].call(t).numpy(), values, atol=1e-9)
    wide = torch.linspace(-300, 300, 601, dtype=F64, requires_grad=True)
    LIBRARY[name].call(wide).sum().backward()
    assert wide.grad.isfinite().all()


def test_the_library_is_large_and_says_what_it_has() -> None:
    assert len(LIBRARY) >= 25
    assert get_function("x**2") is LIBRARY["x^2"]
    with pytest.raises(ValueError, match="tanh"):
        get_function("tahn")


def test_bad_edges() -> None:
    x = np.linspace(-1, 1, 50)
    assert fit_edge(x, np.full(50, 0.3))[0].function.name == "0"
    assert fit_edge(x, np.full(50, 0.3))[0].d == pytest.approx(0.3)
    with pytest.raises(ValueError, match="NaN"):
        fit_edge(x, np.where(x > 0, np.nan, x))
    names = {fit.function.name for fit in fit_edge(x, x**3)}
    assert "x^3" in names


def stack(*sizes: int) -> nn.Sequential:
    torch.manual_seed(1)
    basis = kanzoo.get_basis("bspline", grid_size=5, grid_range=(-1, 1), extrapolation="linear")
    pairs = pairwise(sizes)
    return nn.Sequential(
        *[kanzoo.KANLinear(a, b, basis=basis, dtype=F64, backend="dense") for a, b in pairs]
    )


def test_levenberg_marquardt_finds_least_squares() -> None:
    net, x = stack(2, 1), torch.rand(100, 2, dtype=F64) * 2 - 1
    y = torch.sin(x.sum(1, keepdim=True))
    basis = net[0].expansion.univariate(x).permute(1, 2, 0).flatten(1)  # a linear problem
    design = torch.cat([basis, torch.ones(100, 1, dtype=F64)], dim=1)
    solution = torch.linalg.lstsq(design, y, driver="gelsd").solution
    best = (design @ solution - y).square().mean().sqrt().item()
    assert fit_squares(net, x, y, 30) == pytest.approx(best, rel=1e-3)
    assert network_rmse(net, x, y) == pytest.approx(best, rel=1e-3)


def test_a_layer_with_known_edges_becomes_its_formula() -> None:
    net, x = stack(2, 1), torch.rand(300, 2, dtype=F64) * 2 - 1
    y = 3 * x[:, :1] ** 2 - x[:, 1:] / 2 + 1
    assert fit_squares(net, x, y, 20) < 0.1
    formula = symbolic(net, x, y, names=["x", "y"])
    assert sympy.simplify(formula.expression - (3 * X**2 - Y / 2 + 1)) == 0
    assert formula.rmse_formula < 1e-9
    np.testing.assert_allclose(formula(x.numpy()), y[:, 0].numpy(), atol=1e-9)
    assert "x^{2}" in formula.latex
    assert {edge["function"] for edge in formula.summary()["edges"]} == {"x", "x^2"}
    assert "RMSE" in str(formula)


def test_scaled_data_come_back_in_their_own_units() -> None:
    net, z = stack(1, 1), torch.rand(200, 1, dtype=F64) * 2 - 1
    x = 5 + 2 * z
    y = x**2
    assert fit_squares(net, z, (y - 26) / 10, 20) < 0.1
    formula = symbolic(net, z, (y - 26) / 10, names=["x"], inputs=[(5, 2)], outputs=[(26, 10)])
    assert sympy.simplify(formula.expression - X**2) == 0


def test_a_formula_that_misses_its_tolerance_is_refused_and_the_edge_named() -> None:
    net, x = stack(1, 1), torch.rand(300, 1, dtype=F64) * 2 - 1
    y = torch.sin(9 * x) * torch.exp(x) + x.abs()
    net[0].refine(20, x)
    fit_squares(net, x, y, 20)
    with pytest.raises(FormulaError, match=r"layer 0, input 0 -> output 0"):
        symbolic(net, x, y, functions=["x", "x^2", "exp"])


def test_what_has_no_formula() -> None:
    x = torch.rand(20, 2)
    twin = kanzoo.create_model("mlp", layers="mlp", in_shape=(2,), num_outputs=1)
    with pytest.raises(ValueError, match="no KAN layer"):
        symbolic(twin, x)
    normed = kanzoo.create_model("mlp", in_shape=(2,), num_outputs=1, width=3)
    with pytest.raises(ValueError, match=r"norm=none"):
        symbolic(normed, x)
    net = stack(2, 1)
    with pytest.raises(ValueError, match="NaN"):
        symbolic(net, x.fill_diagonal_(math.nan))
    with pytest.raises(ValueError, match="tolerance"):
        symbolic(net, torch.rand(20, 2), tolerance=2)
    with pytest.raises(ValueError, match="different names"):
        make_symbols(["a", "a"])


@pytest.mark.parametrize(
    ("rough", "exact"),
    [
        (3.14159265 * X + 1e-9, sympy.pi * X),
        (sympy.sin(1.5707963 * X + 7.8539816), sympy.cos(sympy.pi * X / 2)),
        (0.33333333 * X**2 - 1.41421356, X**2 / 3 - sympy.sqrt(2)),
        (1.6487212707 * sympy.exp(X**2 - 0.5), sympy.exp(X**2)),
        (0.3989423 * X, X / sympy.sqrt(2 * sympy.pi)),
        (0.7312 * X, sympy.Float("0.7312") * X),
    ],
)
def test_constants_become_what_they_stand_for(rough: sympy.Expr, exact: sympy.Expr) -> None:
    x = np.linspace(-1, 1, 101)[:, None]
    truth = sympy.lambdify(X, exact, "numpy")(x[:, 0])
    found = tidy(rough, [X], x, truth)
    assert sympy.simplify(found - exact) == 0
    noise = np.random.default_rng(0).normal(0, 1e-3, 101)
    values = sympy.lambdify(X, tidy(rough, [X], x, truth + noise), "numpy")(x[:, 0])
    assert np.sqrt(np.square(values - truth).mean()) < 1e-3


@pytest.mark.slow
def test_the_kan_papers_example_comes_back_from_eight_of_ten_seeds() -> None:
    x0, x1 = sympy.symbols("x0 x1", real=True)
    expected = sympy.exp(sympy.sin(sympy.pi * x0) + x1**2)
    exact = 0
    for seed in range(10):
        x = np.random.default_rng(seed).uniform(-1, 1, (1000, 2))
        y = np.exp(np.sin(np.pi * x[:, 0]) + x[:, 1] ** 2)
        model = kanzoo.KANRegressor([1], random_state=seed, formula="auto").fit(x, y)
        exact += sympy.simplify(model.formula_.expression - expected) == 0
    assert exact >= 8


def test_the_time_for_a_search_ends_with_a_sentence() -> None:
    net, x = stack(3, 2, 1), torch.rand(200, 3, dtype=F64) * 2 - 1
    with pytest.raises(FormulaError, match=r"no formula in 0\.001 s: 0 of 8 edges .* time_limit"):
        symbolic(net, x, time_limit=1e-3)
    with pytest.raises(ValueError, match="time_limit"):
        symbolic(net, x, time_limit=0)


def test_a_complete_formula_is_not_lost_when_the_time_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = stack(1, 1), torch.rand(200, 1, dtype=F64) * 2 - 1
    y = torch.sin(3 * x) + 0.05 * torch.randn(200, 1, dtype=F64)
    fit_squares(net, x, y, 20)
    ends = iter([False, False, *[True] * 9])

    def check(clock: Clock) -> None:
        if next(ends):
            raise TimeOver

    monkeypatch.setattr(Clock, "check", check)
    formula = symbolic(net, x, y, functions=["sin", "cos"], tolerance=0.1)
    assert {"sin", "cos"} & {str(f.func) for f in formula.expression.atoms(sympy.Function)}


def test_the_error_against_the_data_is_told_and_limited() -> None:
    net, x = stack(1, 1), torch.rand(300, 1, dtype=F64) * 2 - 1
    y = x**2 + torch.randn(300, 1, dtype=F64)
    fit_squares(net, x, y, 10)
    formula = symbolic(net, x, y, tolerance=0.2, functions=["x", "x^2"])
    assert formula.relative_error == pytest.approx(
        formula.rmse_formula / float(y.std(correction=0))
    )
    assert formula.relative_error > 0.8
    assert formula.summary()["relative_error"] == formula.relative_error
    with pytest.raises(FormulaError, match=r"network itself misses the data by 0\.\d+ of"):
        symbolic(net, x, y, tolerance=0.2, max_error=0.1)
    exact = net(x).detach()
    with pytest.raises(FormulaError):
        symbolic(net, x, exact, tolerance=0.9, max_error=1e-3, functions=["x"])


def test_the_formula_of_a_run_on_a_residue_has_the_prior_in_it() -> None:
    dataset = Functions(formula="x*y + x**2", prior="x*y", dtype="float64", n_train=200)
    dataset.load()
    net = stack(2, 1)
    fit_squares(net, *dataset.splits["train"], 20)
    found = read_formula(net, dataset, names=dataset.columns, functions=["x", "x^2"])
    assert sympy.simplify(sympy.sympify(found["expression"]) - sympy.sympify("x*y + x**2")) == 0
    assert found["prior"] == "x*y"
    assert found["rmse_formula"] < 1e-6
    scaled = Functions(formula="x*y + x**2", prior="x*y", standardise="both", n_train=200)
    scaled.load()
    fit_squares(net, *(part.double() for part in scaled.splits["train"]), 20)
    found = read_formula(net, scaled, names=scaled.columns, functions=["x", "x^2"])
    values = sympy.lambdify((X, Y), sympy.sympify(found["expression"], {"x": X, "y": Y}), "numpy")
    x, y = np.random.default_rng(0).uniform(-1, 1, (2, 50))  # in the function's units
    np.testing.assert_allclose(values(x, y), x * y + x**2, atol=1e-4)
