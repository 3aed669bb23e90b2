"""Symmetries of data: which are found, and that what is left is the same function."""

from collections.abc import Callable

import numpy as np
import pytest
import sympy

import kanzoo
from kanzoo.fit.stack import StackOptions
from kanzoo.interpret.formula.discover import discover
from kanzoo.interpret.formula.problem import VIEWS, Problem, one_function
from kanzoo.interpret.formula.symmetry import null_vector, simplify

A, B, C = sympy.symbols("a b c", real=True)
SYMBOLS = (A, B, C)


class Exact:
    """A smooth fit that is the function itself, with its derivatives by SymPy."""

    error = 1e-6

    def __init__(self, expression: sympy.Expr) -> None:
        self.call = sympy.lambdify([SYMBOLS], expression, "numpy")
        self.slopes = [sympy.lambdify([SYMBOLS], expression.diff(s), "numpy") for s in SYMBOLS]

    def gradient(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts = [np.broadcast_to(slope(x.T), len(x)) for slope in self.slopes]
        return self.call(x.T), np.stack(parts, 1)


class Fitted:
    """Of the smaller problem only the error is used here: it is known to be right."""

    error = 1e-6

    def gradient(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(len(x)), np.zeros_like(x)


def problem_of(expression: sympy.Expr) -> tuple[Problem, Exact]:
    x = np.random.default_rng(0).uniform(1, 3, (400, 3))
    exact = Exact(expression)
    return Problem(x, exact.call(x.T), SYMBOLS, lambda e: e), exact


@pytest.mark.parametrize(
    ("expression", "left"),
    [
        (A**2 * sympy.sin(B + C), (A, B + C)),
        (sympy.sqrt(A) / (1 + sympy.exp(B * C)), (A, B * C)),
        (sympy.sin(A / B) + C, (A / B, C)),
        (1 + A * sympy.cos(B + C), (A, B + C)),
        (sympy.cos(B + C**2) / (A + 2), (A,)),
        (sympy.exp(2 * A) * sympy.cos(B * C), (A, B * C)),
        (sympy.log(A) + sympy.cos(B - 2 * C), (A, B - 2 * C)),
        (sympy.asin(A * sympy.cos(B + C) / 4), (A,)),
        (A * sympy.sin(B / A) * sympy.exp(C / A), (A,)),
    ],
    ids=str,
)
def test_one_symmetry_leaves_the_same_function_of_a_column_less(
    expression: sympy.Expr, left: tuple[sympy.Expr, ...]
) -> None:
    problem, exact = problem_of(expression)
    small = simplify(problem, lambda x, y: Fitted(), exact)
    assert small.x.shape[1] == 2
    # What is left depends on its columns alone: on equal columns, equal values.
    values = {str(c): sympy.lambdify([SYMBOLS], c, "numpy") for c in small.columns}
    for column, found in zip(small.x.T, values.values(), strict=True):
        np.testing.assert_allclose(column, found(problem.x.T), rtol=1e-12)
    # And going back gives what was there: y itself, for a stand-in with the values that are left.
    stand_in = sympy.Symbol("F", real=True)
    back = sympy.lambdify([SYMBOLS, stand_in], small.invert(stand_in), "numpy")
    np.testing.assert_allclose(back(problem.x.T, small.y), problem.y, rtol=1e-9)
    assert len(left) in (1, 2)


def test_no_symmetry_is_seen_where_there_is_none() -> None:
    problem, exact = problem_of(sympy.sin(A * B + C**2) + A / (B + C) + sympy.exp(B * C / 9))
    assert simplify(problem, lambda x, y: Fitted(), exact) is problem


def test_a_symmetry_that_does_not_hold_up_is_dropped() -> None:
    class Bad(Fitted):
        error = 0.3

    problem, exact = problem_of(A**2 * sympy.sin(B + C))
    assert simplify(problem, lambda x, y: Bad(), exact) is problem


def test_linear_relations_need_every_column_and_must_be_unique() -> None:
    random = np.random.default_rng(0)
    a, b, c = random.normal(size=(3, 200))
    found = null_vector([a, b, 2 * a - 3 * b])
    assert found is not None
    error, relation = found
    assert error < 1e-12
    np.testing.assert_allclose(relation / relation[2], [-2, 3, 1], rtol=1e-9)
    assert null_vector([a, b, 2 * a]) is None  # b takes no part
    assert null_vector([a, 2 * a, 3 * a]) is None  # two relations
    free = null_vector([a, b, c])
    assert free is None or free[0] > 0.1


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_views_are_undone_and_their_slopes_are_derivatives(view: object) -> None:
    low, high = max(view.low, 0.1), min(view.high, 1.4)  # type: ignore[attr-defined]
    y = np.linspace(low, high, 50)
    symbol = sympy.Symbol("z", real=True)
    z = view.call(y)  # type: ignore[attr-defined]
    back = sympy.lambdify(symbol, view.invert(symbol), "numpy")  # type: ignore[attr-defined]
    np.testing.assert_allclose(back(z), y, rtol=1e-10)
    h = 1e-6
    numeric = (view.call(y + h) - view.call(y - h)) / (2 * h)  # type: ignore[attr-defined]
    inner = slice(1, -1)
    np.testing.assert_allclose(view.slope(y)[inner], numeric[inner], rtol=1e-5, atol=1e-6)  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize(
    "function",
    [
        lambda t: 1 / np.sqrt(1 + t**2),
        lambda t: np.sqrt((2 + t) / (4 - t)),
        lambda t: np.exp(-1 / (2 * t**2)) / t,
        lambda t: np.arcsin(t / 4),
    ],
)
def test_one_column_by_one_function_of_the_library(function: Callable) -> None:
    t = np.random.default_rng(0).uniform(0.5, 3, 300)
    symbol = sympy.Symbol("t", positive=True)
    found = one_function(Problem(t[:, None], function(t), (symbol,), lambda e: e))
    assert found is not None
    values = sympy.lambdify(symbol, found, "numpy")(t)
    np.testing.assert_allclose(values, function(t), rtol=1e-5)


def test_noise_is_no_function() -> None:
    t, y = np.random.default_rng(0).normal(size=(2, 100))
    assert one_function(Problem(t[:, None], y, (A,), lambda e: e)) is None


def test_discovery_is_a_function_of_the_data_and_its_options() -> None:
    x = np.random.default_rng(0).uniform(1, 3, (120, 2))
    y = np.stack([2 * x[:, 0] + x[:, 1] ** 2, x[:, 1] - 1], axis=1)
    options = StackOptions(hidden=(), grid_sizes=(3,), random_state=0)
    first, again = (discover(x, y, ["mass", "speed"], options) for _ in range(2))
    assert first.formula.expressions == again.formula.expressions
    mass, speed = sympy.symbols("mass speed", real=True)
    assert first.formula.expressions == [2 * mass + speed**2, speed - 1]
    np.testing.assert_allclose(first.stack.predict(x), y, atol=1e-4)


@pytest.mark.slow
def test_a_formula_of_three_variables_from_data() -> None:
    x = np.random.default_rng(0).uniform(1, 5, (1000, 3))
    y = x[:, 0] * (1 + x[:, 1] * np.cos(x[:, 2]))
    model = kanzoo.KANRegressor(random_state=0, formula="auto").fit(x, y)
    x0, x1, x2 = sympy.symbols("x0 x1 x2", real=True)
    assert sympy.simplify(model.formula_.expression - x0 * (1 + x1 * sympy.cos(x2))) == 0
    np.testing.assert_allclose(model.predict(x), y, rtol=1e-9)
