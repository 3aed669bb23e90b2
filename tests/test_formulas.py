"""Formulas from data: every way to one, names and units, noise, limits of time, code."""

import ctypes
import json
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sympy
from sklearn.exceptions import ConvergenceWarning
from torch import nn

import kanzoo
from kanzoo.data.csv_file import CSV
from kanzoo.fit.least_squares import fit_squares
from kanzoo.fit.stack import StackOptions
from kanzoo.interpret.formula.algebra import canonical
from kanzoo.interpret.formula.clock import Clock
from kanzoo.interpret.formula.constants import Constants, intervals, tidy
from kanzoo.interpret.formula.discover import discover, nearest
from kanzoo.interpret.formula.expression import Formula
from kanzoo.interpret.formula.front import Front
from kanzoo.interpret.formula.names import make_symbols
from kanzoo.interpret.formula.output import OutputSearch
from kanzoo.interpret.formula.problem import Problem
from kanzoo.interpret.formula.products import products
from kanzoo.interpret.formula.rational import noisy_quotients, quotients
from kanzoo.interpret.formula.read import read_formula
from kanzoo.interpret.formula.residual import addends_of, is_structured
from kanzoo.interpret.formula.separable import separations
from kanzoo.interpret.formula.sparse import thinned
from kanzoo.interpret.formula.stability import skeleton, stability
from kanzoo.interpret.formula.surrogate import fit_polynomial
from kanzoo.interpret.formula.terms import library, polynomial_terms
from kanzoo.interpret.formula.units import dimensionless

X = np.random.default_rng(0).uniform(0.5, 3, (400, 6))


def searched(y: np.ndarray, x: np.ndarray, **options: object) -> OutputSearch:
    names = [f"x{k}" for k in range(x.shape[1])]
    search = OutputSearch(x, y, make_symbols(names), names, StackOptions(), Clock(60))
    search.run(networks=False, **options)
    return search


def formula_of(x: np.ndarray, y: np.ndarray) -> Formula:
    names = [f"x{k}" for k in range(x.shape[1])]
    return nearest(x, y[:, None], names, time_limit=60)


def miss(expression: sympy.Expr, x: np.ndarray, y: np.ndarray) -> float:
    symbols = sorted(expression.free_symbols, key=str)
    values = sympy.lambdify(symbols, expression, "numpy")(*(x[:, int(str(s)[1:])] for s in symbols))
    return float(np.abs(values - y).max() / y.std())


@pytest.mark.parametrize(
    "y",
    [
        lambda a, b, c, d, e, f: a**3 - a,
        lambda a, b, c, d, e, f: (a - 1.7) ** 5 + a**2,
        pytest.param(
            lambda a, b, c, d, e, f: 20 - a - a * b / (1 + 0.5 * a**2), marks=pytest.mark.slow
        ),
        lambda a, b, c, d, e, f: 3 * a * b * c * d / (e * f),
        lambda a, b, c, d, e, f: a * b * (1 / c - 1 / d),
        lambda a, b, c, d, e, f: np.sqrt((a - b) ** 2 + (c - d) ** 2),
        pytest.param(lambda a, b, c, d, e, f: a * np.exp(-b * c / (d * e)), marks=pytest.mark.slow),
        pytest.param(lambda a, b, c, d, e, f: a * np.tanh(b * c / 3 / d), marks=pytest.mark.slow),
        pytest.param(lambda a, b, c, d, e, f: 1 / (2 + a**2 + b**2 + c**2), marks=pytest.mark.slow),
    ],
    ids=range(9),
)
def test_sums_products_and_quotients_are_found_without_a_network(y: object) -> None:
    values = y(*X.T)  # type: ignore[operator]
    search = searched(values, X)
    assert search.front.is_exact
    assert miss(search.front.choose().expression, X, values) < 1e-6


def test_polynomials_of_columns_that_change_their_sign_are_found() -> None:
    x = np.random.default_rng(1).uniform(-2, 2, (200, 1))
    y = x[:, 0] ** 3 - x[:, 0]
    model = kanzoo.KANRegressor(hidden=(2,), steps=3, formula="auto", random_state=0).fit(x, y)
    x0 = sympy.Symbol("x0", real=True)
    assert sympy.expand(model.formula_.expression - (x0**3 - x0)) == 0


@pytest.mark.slow
def test_absolute_values_of_columns_and_of_differences_are_found() -> None:
    x = 2 * X[:200, :2] - 3
    for y in (np.abs(x[:, 0]) * x[:, 1], np.abs(x[:, 0] - x[:, 1])):
        found = searched(y, x).front.choose()
        assert found.error < 1e-8
        assert miss(found.expression, x, y) < 1e-9


def test_one_function_of_a_polynomial_beside_another() -> None:
    x = np.random.default_rng(0).uniform(-2, 2, (300, 2))
    y = x[:, 0] * x[:, 1] + np.sin((x[:, 0] - 1) * (x[:, 1] - 1))
    assert searched(y, x).front.least < 1e-8


@pytest.mark.slow
def test_separable_functions_are_seen_and_columns_without_influence_dropped() -> None:
    x = X[:, :3]
    added = np.sin(2 * x[:, 0]) + x[:, 1] * np.exp(-x[:, 2])
    problem = Problem(x, added, tuple(make_symbols("abc")), lambda e: e)
    titles = [s.title(["a", "b", "c"]) for s in separations(problem, fit_polynomial(x, added))]
    assert titles == ["f1(a) + f2(b, c)"]
    times = (x[:, 0] ** 2 + 1) / (x[:, 1] + x[:, 2] ** 2)
    problem = Problem(x, times, tuple(make_symbols("abc")), lambda e: e)
    titles = [s.title(["a", "b", "c"]) for s in separations(problem, fit_polynomial(x, times))]
    assert titles == ["f1(a) * f2(b, c)"]
    y = np.exp(-((x[:, 0] - 1) ** 2)) / (1.2 + (x[:, 1] - 2.5) ** 2)
    search = searched(y, x)
    assert "does not depend on x2" in search.findings
    assert search.front.least < 1e-6


def test_products_and_quotients_by_linear_algebra() -> None:
    x = X[:, :3]
    problem = Problem(
        x,
        x[:, 0] ** 1.5 / x[:, 1] ** 2 * np.sin(x[:, 2]) ** 2,
        tuple(make_symbols("abc")),
        lambda e: e,
    )
    a, b, c = problem.columns
    found = [sympy.nsimplify(e, rational=True, tolerance=1e-9) for e in products(problem)]
    assert a ** sympy.Rational(3, 2) / b**2 * sympy.sin(c) ** 2 in found
    y = (x[:, 0] * x[:, 1] + 2) / (x[:, 2] ** 2 + x[:, 0])
    (quotient,) = quotients(Problem(x, y, problem.columns, lambda e: e))
    values = sympy.lambdify((a, b, c), quotient, "numpy")(*x.T)
    np.testing.assert_allclose(values, y, rtol=1e-9)
    noisy = y + 0.01 * np.random.default_rng(0).normal(size=len(y))
    assert not list(quotients(Problem(x, noisy, problem.columns, lambda e: e)))


@pytest.mark.parametrize(
    "text", ["(a**5 - 3*a**3 + 1)/(a**2 + 1)", "(a**6 + a**5)/(a**4 + a**3 + a**2 + a + 1)"]
)
def test_quotients_of_high_degree_have_simple_numbers(text: str) -> None:
    a = sympy.Symbol("a", real=True)
    x = np.random.default_rng(0).uniform(-1, 1, (400, 1))

    def found(y: np.ndarray) -> list[sympy.Expr]:
        return list(quotients(Problem(x, y, (a,), lambda expression: expression)))

    right = sympy.sympify(text, locals={"a": a})
    y = sympy.lambdify(a, right, "numpy")(x[:, 0])
    (expression,) = found(y)
    np.testing.assert_allclose(sympy.lambdify(a, expression, "numpy")(x[:, 0]), y, atol=1e-9)
    smooth = np.exp(0.7 * x[:, 0]) + np.tanh(1.3 * x[:, 0])
    assert not any(found(scale * smooth) for scale in (1e-3, 1, 1e3, 1e6))


def test_one_function_of_one_column_is_no_quotient() -> None:
    x = np.random.default_rng(0).uniform(0, 10, (300, 1))
    y = 213.8 * (1 - np.exp(-0.5472 * x))
    options = StackOptions(hidden=(), grid_sizes=(3,), random_state=0)
    found = discover(x, y, ["a"], options, time_limit=30).formula
    assert str(found.expression) == "1069/5 - 1069*exp(-0.5472*a)/5"


def test_every_output_is_judged_in_its_own_deviation() -> None:
    x = X[:150, :2]
    y = np.stack([1e-6 * x[:, 0] * x[:, 1], 1e5 * (x[:, 0] + x[:, 1])], 1)
    found = discover(x, y, ["a", "b"], StackOptions(hidden=(), grid_sizes=(3,), random_state=0))
    assert max(found.formula.relative_errors) < 1e-9
    np.testing.assert_allclose(found.formula(x), y, rtol=1e-9)
    assert len(found.fronts) == 2
    rough = Formula([sympy.Integer(0)] * 2, [], [1e-6, 1.0], [1e-6, 1e5])
    assert rough.relative_error == 1


@pytest.mark.parametrize(
    "names", [["sin", "cos"], ["_k0", "pi"], ["flow (m/s)", "flow [m/s]"], ["lambda", ""]]
)
def test_any_string_is_a_name(names: list[str]) -> None:
    x = X[:120, :2]
    y = 2 * x[:, 0] + x[:, 1] ** 2
    frame = pd.DataFrame(x, columns=names)
    model = kanzoo.KANRegressor(hidden=(), grid_sizes=(3,), formula="auto", random_state=0)
    formula = model.fit(frame, y).formula_
    a, b = formula.symbols
    assert formula.expression - (2 * a + b**2) == 0
    np.testing.assert_allclose(model.predict(frame), y, rtol=1e-12)
    shown = {formula.legend.get(s.name, s.name) for s in formula.symbols}
    assert shown == set(names)
    assert all(repr(name) in str(formula) for name in formula.legend.values())
    read = formula_of_network(model, frame)
    assert read.expression.free_symbols == {a, b}


def formula_of_network(model: kanzoo.KANRegressor, frame: pd.DataFrame) -> Formula:
    return model.symbolic(tolerance=0.02)


def test_code_of_a_formula_computes_what_it_does(tmp_path: Path) -> None:
    symbols = make_symbols(["double", "b", "the (c)"])
    a, b, c = symbols
    expression = sympy.pi * a**2 / 3 + sympy.exp(-b) * sympy.sin(c) + sympy.sqrt(abs(b) + 1)
    formula = Formula([expression, a + b], symbols, names=["double", "b", "the (c)"])
    x = X[:20, :3]
    space: dict = {}
    exec(formula.code("python"), space)
    np.testing.assert_allclose(space["formula"](*x.T), formula(x), rtol=1e-14)
    exec(formula.code("sympy"), space)
    assert space["expressions"] == formula.expressions
    assert "the (c)" in formula.code("latex")
    source, library = tmp_path / "f.c", tmp_path / "f.so"
    source.write_text(formula.code("c"))
    compiled = subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-lm"], check=False)
    if compiled.returncode == 0:
        call = ctypes.CDLL(str(library)).formula
        out = (ctypes.c_double * 2)()
        call(*(ctypes.c_double(v) for v in x[0]), out)
        np.testing.assert_allclose(list(out), formula(x)[0], rtol=1e-14)
    with pytest.raises(ValueError, match="python"):
        formula.code("pythn")


def test_a_formula_of_a_file_is_in_its_units(tmp_path: Path) -> None:
    frame = pd.DataFrame(X[:, :2] * [100, 0.01] + [1000, 0], columns=["mass (g)", "sin"])
    frame["out"] = 3 * frame["mass (g)"] + 1e4 * frame["sin"]
    path = tmp_path / "table.csv"
    frame.to_csv(path, index=False)
    data = CSV(path=str(path), target="out", dtype="float64")
    data.load()
    basis = kanzoo.get_basis("bspline", grid_size=3, grid_range=(-3, 3), extrapolation="linear")
    net = nn.Sequential(kanzoo.KANLinear(2, 1, basis=basis, backend="dense").double())
    fit_squares(net, *data.splits["train"], 10)
    for options in ({}, {"functions": ["x"]}):  # from the data, and from the network
        found = read_formula(net, data, names=data.columns, **options)
        assert not found["failed"]
        space: dict = {}
        exec(found["code"]["python"], space)
        values = space["formula"](frame["mass (g)"].to_numpy(), frame["sin"].to_numpy())
        np.testing.assert_allclose(values, frame["out"], rtol=1e-6)
        assert set(found["legend"].values()) == {"mass (g)", "sin"}
        json.dumps(found)


@pytest.mark.slow
def test_noise_is_estimated_and_constants_keep_to_their_intervals() -> None:
    random = np.random.default_rng(0)
    x = X[:, :2]
    truth = 2.5 * x[:, 0] * x[:, 1] + 1.234 * x[:, 0] ** 2
    y = truth + 0.05 * truth.std() * random.normal(size=len(x))
    model = kanzoo.KANRegressor(hidden=(), grid_sizes=(3,), formula="auto", random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        formula = model.fit(x, y).formula_
    assert np.sqrt(np.square(formula(x) - truth).mean()) < 0.015 * truth.std()
    assert formula.noise[0] == pytest.approx(0.05, rel=0.15)
    assert not formula.expression.has(sympy.pi, sympy.E)
    for value, low, high in formula.intervals[0]:
        assert low < value < high
        assert high - low < 0.3
    assert "noise about 0.05" in str(formula)
    assert len(model.formulas_) > 1
    assert [f.errors for f in model.formulas_] == sorted(f.errors for f in model.formulas_)[::-1]


def test_pi_stands_only_for_what_is_surely_pi() -> None:
    symbol = sympy.Symbol("x", real=True)
    x = np.linspace(0, 2, 300)[:, None]
    y = 3.1 * x[:, 0] + 0.3 * np.random.default_rng(3).normal(size=300)
    assert not tidy(sympy.Float(3.1) * symbol, [symbol], x, y).has(sympy.pi)
    exact = np.pi * x[:, 0]
    assert tidy(sympy.Float(3.1415926) * symbol, [symbol], x, exact) == sympy.pi * symbol


A, B, C = make_symbols(["a", "b", "c"])


@pytest.mark.parametrize(
    ("found", "written"),
    [
        ((-1.7 * A * B - 1.7 * C) / (-1.7 * A - 1.7 * C), "(a*b + c)/(a + c)"),
        (20 - A - A * B / (0.5 * A**2 + 1.0), "-a*b/(a**2/2 + 1) - a + 20"),
        (sympy.log(1.0 * sympy.exp(A * B) * sympy.exp(C)), "a*b + c"),
        (sympy.Float(1 / (2 * np.pi) ** 3) * A * B, "a*b/(8*pi**3)"),
        (sympy.Float(1 / np.sqrt(2 * np.pi)) * A * B, "sqrt(2)*a*b/(2*sqrt(pi))"),
        (sympy.Float(0.3183099) * A * B, "0.3183099*a*b"),
        (sympy.Float(0.016125) * A + 3.39 * B, "0.016125*a + 3.39*b"),
        (sympy.sqrt(A**2) * B, "a*b"),
        (A * sympy.log(B) + B * sympy.log(C), "a*log(b) + b*log(c)"),
    ],
)
def test_exact_formulas_are_written_in_their_shortest_form(found: sympy.Expr, written: str) -> None:
    y = sympy.lambdify([A, B, C], found, "numpy")(*X[:, :3].T)
    assert str(tidy(found, [A, B, C], X[:, :3], y)) == written


def test_constants_without_effect_go_together() -> None:
    x, y = sympy.symbols("x y")
    square = sympy.Float(5408631.77) * (x - y) ** 2
    idle = sympy.Float(3e-9) * x**4 - sympy.Float(8.6e-9) * x * y + sympy.Float(1.3e-11)
    half = sympy.Float(0.5)
    found = half * (x + y) + sympy.Float(2.149939787e-4) * sympy.sqrt(square.expand() + idle)
    tidied = tidy(found, [x, y], X[:, :2], np.maximum(X[:, 0], X[:, 1]))
    assert sympy.simplify(tidied - (x + y + sympy.sqrt((x - y) ** 2)) / 2) == 0


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_few_samples_and_zeros_are_no_fault_and_few_samples_no_proof() -> None:
    x = np.round(3 * X[:, :3])
    for count in (2, 5, 30):
        options = StackOptions(hidden=(), grid_sizes=(3,), random_state=0)
        found = discover(x[:count], 2 * x[:count, :1], ["a", "b", "c"], options, time_limit=3)
        assert found.formula.rmse_formula < 1e-9
        assert bool(found.formula.doubts) == (count == 2)


def test_a_stand_in_is_said_to_be_one() -> None:
    x = np.random.default_rng(0).uniform(-3, 3, (400, 2))
    y = np.sin(np.exp(np.sin(2 * x[:, 0]) + 0.3 * x[:, 1])) + np.tanh(x[:, 0] * x[:, 1])
    model = kanzoo.KANRegressor(hidden=(2,), steps=3, formula="auto", time_limit=3, random_state=0)
    with pytest.warns(ConvergenceWarning, match="misses the data by"):
        model.fit(x, y)


@pytest.mark.parametrize("stop", ["limit", "interrupt"])
def test_the_best_so_far_is_left_when_the_search_ends(
    stop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    if stop == "interrupt":
        monkeypatch.setattr("kanzoo.interpret.formula.output.search", interrupted)
    x = X[:100, :3]
    y = x[:, 0] + 0.1 * np.sin(9 * x[:, 1] * x[:, 2])
    limit = 1e-3 if stop == "limit" else None
    model = kanzoo.KANRegressor(hidden=(), grid_sizes=(3,), formula="auto", time_limit=limit)
    with pytest.warns(ConvergenceWarning, match="stopped before"):
        model.fit(x, y)
    assert model.score(x, y) > 0.9
    assert model.symbolic() is model.formula_


def test_infinite_constants_are_dropped_and_not_fatal() -> None:
    symbol = sympy.Symbol("x", real=True)
    x = np.linspace(1, 2, 50)[:, None]
    front = Front(x, x[:, 0], [symbol], Clock())
    for bad in (
        sympy.zoo * symbol,
        symbol + sympy.oo,
        sympy.log(symbol - 3),
        1 / (symbol - symbol),
    ):
        assert front.add(bad) == np.inf
    wild = sympy.Float(1.5707963267948966)
    y = np.tan(0.3) * x[:, 0]
    assert tidy(sympy.tan(wild * 0.19098593) * symbol, [symbol], x, y).free_symbols
    a, b = sympy.symbols("a b", real=True)  # of which 1/b may be infinite
    assert canonical(sympy.log(sympy.exp(a / b))) == a / b


def test_outside_of_its_domain_a_formula_says_so() -> None:
    symbol = sympy.Symbol("x", real=True)
    formula = Formula([sympy.sqrt(symbol)], [symbol])
    with pytest.warns(RuntimeWarning, match="not defined for 2 of 3 rows"):
        values = formula(np.array([[-1.0], [-2.0], [4.0]]))
    assert np.isnan(values[:2]).all()


@pytest.mark.slow
def test_a_classifier_with_a_formula_predicts_by_it() -> None:
    x = X[:120, :2]
    y = (x[:, 0] + x[:, 1] > 3.5).astype(int)
    model = kanzoo.KANClassifier(
        hidden=(), grid_sizes=(2,), formula="auto", tolerance=0.5, random_state=0
    ).fit(x, y)
    np.testing.assert_array_equal(model.formula_(x).argmax(1), model.predict(x))
    assert (model.predict_proba(x).argmax(1) == model.predict(x)).all()


def test_units_leave_fewer_columns_and_impossible_ones_are_refused() -> None:
    x = X[:200, :3]
    y = 2 * np.pi * np.sqrt(x[:, 0] / x[:, 1])
    symbols = tuple(make_symbols(["length", "g", "mass"]))
    units = {"length": "m", "g": "m/s**2", "mass": "kg", "y": "s"}
    problem = dimensionless(Problem(x, y, symbols, lambda e: e), units, [s.name for s in symbols])
    assert problem is not None
    np.testing.assert_allclose(problem.y, 2 * np.pi)
    frame = pd.DataFrame(x, columns=[s.name for s in symbols])
    options = {"hidden": (), "grid_sizes": (3,), "formula": "auto", "random_state": 0}
    model = kanzoo.KANRegressor(units=units, **options).fit(frame, y)
    length, g, _ = symbols
    np.testing.assert_allclose(model.predict(frame), y, rtol=1e-9)
    assert model.formula_.expression.free_symbols == {length, g}
    for wrong, text in (
        ({**units, "y": "A"}, "unit 'A' of the target"),
        ({**units, "g": "furlongz"}, "'furlongz'"),
        ({"length": "m", "y": "s"}, "missing for 'g'"),
        ({**units, "lenght": "m"}, "length"),
    ):
        with pytest.raises(ValueError, match=text):
            kanzoo.KANRegressor(units=wrong, **options).fit(frame, y)


@pytest.mark.slow
def test_stability_counts_the_samples_that_give_the_same_formula() -> None:
    x = X[:150, :2]
    y = 2 * x[:, 0] * x[:, 1] + 0.7 + 0.01 * np.random.default_rng(0).normal(size=150)
    a, b = symbols = make_symbols(["a", "b"])
    right = Formula([sympy.Float(2.0) * a * b + sympy.Float(0.7)], symbols, names=["a", "b"])
    wrong = Formula([a**3], symbols, names=["a", "b"])
    assert stability(right, x, y, samples=3, time_limit=None).found == [3]
    assert stability(wrong, x, y, samples=1, time_limit=None).found == [0]


def test_flags_have_no_samples_off_their_ends() -> None:
    random = np.random.default_rng(0)
    x = np.column_stack([random.uniform(1, 3, 300), random.integers(0, 2, (300, 2))]).astype(float)
    y = np.sqrt(x[:, 0]) * 2 + 0.5 * x[:, 1] - x[:, 2]
    problem = Problem(x, y, tuple(sympy.symbols("a b c", real=True)), lambda e: e)
    found = list(separations(problem, fit_polynomial(x, y)))
    assert ((0,), (1,), (2,)) in [s.groups for s in found if not s.is_product]
    flags = Problem(x[:, 1:], y, problem.columns[1:], lambda e: e)
    list(separations(flags, fit_polynomial(x[:, 1:], y)))


def test_quotients_of_noisy_data_have_few_terms() -> None:
    x = X[:, :3]
    a, b, c = symbols = tuple(make_symbols("abc"))
    truth = (x[:, 0] * x[:, 1] + 2 * x[:, 2]) / (x[:, 0] + x[:, 2])
    y = truth + 0.03 * truth.std() * np.random.default_rng(0).normal(size=len(x))
    front = Front(x, y, symbols, Clock())
    for quotient in noisy_quotients(Problem(x, y, symbols, lambda e: e)):
        front.add(quotient)
        front.shorten(quotient)
    chosen = front.choose().expression
    assert skeleton(sympy.numer(chosen)) == a * b + c
    assert skeleton(sympy.denom(chosen)) == a + c


@pytest.mark.parametrize(
    "text", ["-a*b**4/(8*c**2*d**2)", "a*exp(-b*c/d)", "2*a*b/c**5*sqrt(1 + d**2/a**2)"]
)
def test_products_of_noisy_data_have_simple_exponents(text: str) -> None:
    symbols = tuple(make_symbols("abcd"))
    x = np.random.default_rng(0).uniform(1, 5, (1000, 4))
    truth = sympy.sympify(text, locals={str(s): s for s in symbols})
    clean = sympy.lambdify(symbols, truth, "numpy")(*x.T)
    noise = 0.1 * clean.std() * np.random.default_rng(1).normal(size=len(x))
    front = Front(x, clean + noise, symbols, Clock())
    for expression in products(Problem(x, clean + noise, symbols, lambda e: e), is_noisy=True):
        front.add(expression)
    found = sympy.lambdify(symbols, front.choose().expression, "numpy")(*x.T)
    assert np.sqrt(np.square(found - clean).mean()) < 0.01 * clean.std()
    wide = np.random.default_rng(2).lognormal(0, 40, (30, 35))  # too few rows, and wild ones
    names = tuple(make_symbols([f"w{k}" for k in range(35)]))
    for columns in (slice(0, 35), slice(0, 3)):
        problem = Problem(wide[:, columns], wide[:, 5], names[columns], lambda e: e)
        list(products(problem, is_noisy=True))


def test_noise_that_may_hide_another_formula_is_said() -> None:
    """A thousand samples with 8 % noise do not tell formulas that differ by 2 %; 20,000 do."""
    for count, said in ((1000, True), (20_000, False)):
        random = np.random.default_rng(0)
        x = random.uniform(1, 3, (count, 2))
        y = x[:, 0] * x[:, 1]
        y += 0.08 * y.std() * random.normal(size=count)
        formula = formula_of(x, y)
        assert any("another may be right" in doubt for doubt in formula.doubts) == said


def test_terms_of_a_function_of_noisy_data_are_chosen_by_what_noise_leaves_of_it() -> None:
    x = np.random.default_rng(0).uniform(-3, 3, (600, 2))
    truth = 1 / (0.5 + x[:, 0] ** 2 + x[:, 1] ** 2)
    y = truth + 0.01 * truth.std() * np.random.default_rng(1).normal(size=600)
    terms = library(x, polynomial_terms(2, 4))
    found = thinned(terms, 1 / y, weights=y**2)
    assert {str(terms.terms[k].symbol(sympy.symbols("a b"))) for k in found.support} == {
        "a**2",
        "b**2",
    }
    np.testing.assert_allclose(found.coefficients, [1, 1, 0.5], rtol=0.05)


def test_what_a_formula_misses_is_noise_or_structure() -> None:
    random = np.random.default_rng(0)
    x = X[:, :3]
    noise = x[:, 0] * random.standard_t(3, size=len(x))  # of other sizes elsewhere, with tails
    assert not is_structured(x, noise)
    assert is_structured(x, noise + 0.7 * noise.std() * x[:, 1])
    # A wrong function of one of eight columns is seen only beside the others it comes with.
    a, b, c, d, t, *rest = random.uniform(1, 3, (8, 1000))
    x = np.column_stack([a, b, c, d, t, *rest])
    symbols = sympy.symbols("a b c d t q r s")
    addends = addends_of(sympy.sympify("a*(1 + b*c*t/d)"), symbols, x)
    np.testing.assert_allclose(np.sort(addends, axis=1), np.sort([a, a * b * c * t / d], axis=0).T)
    stand_in = a * b * c / d * np.polynomial.Legendre.basis(5, domain=[1, 3])(t)
    assert not is_structured(x, stand_in)
    assert is_structured(x, stand_in, addends)
    sure = [is_structured(x, a * random.normal(size=1000), addends, seed) for seed in range(20)]
    assert not any(sure)


def test_intervals_hold_the_true_constants_at_about_their_level() -> None:
    (a,) = symbols = make_symbols("a")
    x = np.linspace(0, 3, 60)[:, None]
    truth = 1.713 * np.exp(-0.832 * x[:, 0])
    shown = sympy.Float(1.7) * sympy.exp(sympy.Float(-0.8) * a)
    held = []
    for seed in range(40):
        y = truth + 0.1 * np.random.default_rng(seed).normal(size=60)
        fitted = Constants(shown, symbols, x, y)
        fitted.refit()
        for value, low, high in intervals(fitted.expression(), symbols, x, y):
            held.append(low <= (1.713 if value > 0 else -0.832) <= high)
    assert len(held) == 80
    assert 0.88 < np.mean(held) < 1.0


def test_a_symmetry_of_noisy_data_that_leaves_no_column_ends_no_search() -> None:
    x, random = X[:140, :1], np.random.default_rng(1)
    y = 3 * x[:, 0] + 1 + 0.1 * random.normal(size=140)
    search = OutputSearch(x, y, make_symbols("a"), ["a"], StackOptions(), Clock(60))

    def found(*_: object) -> list[tuple[str, Problem]]:
        return [("y: scale of a", Problem(x[:, :0], y / x[:, 0], (), lambda e: e))]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kanzoo.interpret.formula.output.simpler", found)
        left = search._by_symmetry(search.problem, fit_polynomial, fit_polynomial(x, y))
    assert left.x.shape[1] == 1
