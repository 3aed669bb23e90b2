"""Right-hand sides from time series: derivatives by three methods, systems, and formulas."""

import warnings
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sympy
from conftest import compose
from scipy.optimize import least_squares
from sklearn.exceptions import ConvergenceWarning

from kanzoo.data.dynamics import METHODS, SYSTEMS, derivatives, field_of, integrate, trajectories
from kanzoo.estimators.dynamics import KANDynamics
from kanzoo.estimators.weak import weak_formulas
from kanzoo.interpret.formula.expression import Formula, make_symbols
from kanzoo.run.fit import train


@pytest.mark.parametrize("method", METHODS)
def test_derivatives_are_those_of_a_known_path(method: str) -> None:
    t = np.linspace(0, 3, 301)
    x, slope = derivatives(t, np.stack([np.sin(t), np.cos(t)], 1), method)
    tolerance = {"difference": 2e-4, "smooth": 1e-8, "weak": 1e-4}[method]
    exact = np.stack([x[:, 1], -x[:, 0]], 1)  # also of averages, since it is linear
    assert np.abs(slope - exact).max() < tolerance


def test_the_weak_form_bears_noise_better_than_differences() -> None:
    t = np.linspace(0, 3, 301)
    noisy = np.sin(t) + 1e-3 * np.random.default_rng(0).standard_normal(301)
    errors = {}
    for method in ("difference", "weak"):
        _, slope = derivatives(t, noisy, method)
        drop = (len(t) - len(slope)) // 2
        errors[method] = np.std(slope[:, 0] - np.cos(t[drop : drop + len(slope)]))
    assert errors["weak"] < 0.8 * errors["difference"]


@pytest.mark.parametrize("name", SYSTEMS)
def test_trajectories_obey_their_equations(name: str) -> None:
    for t, x in trajectories(name, 1, seed=1, num_times=401):
        states, slopes = derivatives(t, x, "smooth")
        exact = field_of(name)(states)
        assert np.abs(slopes - exact).max() < 1e-2 * (1 + np.abs(exact).max())


def test_what_is_no_trajectory_is_refused_in_one_line() -> None:
    t, x = np.linspace(0, 1, 20), np.zeros((20, 2))
    gap = x.copy()
    gap[3, 1] = np.nan
    uneven = np.concatenate([t[:-1], [1.5]])
    cases = [
        (t, gap, "gaps"),
        (t[::-1], x, "increase"),
        (t[:5], x[:5], "at least"),
        (uneven, x, "even"),
    ]
    for times, states, words in cases:
        with pytest.raises(ValueError, match=rf"^[^\n]*{words}[^\n]*$"):
            derivatives(times, states, "smooth")


@pytest.mark.parametrize(
    ("system", "wanted"),
    [
        ("competition", [{"x0": 3, "x0**2": -1, "x0*x1": -2}, {"x1": 2, "x1**2": -1, "x0*x1": -1}]),
        ("vanderpol", [{"x1": 10, "x0": 10 / 3, "x0**3": -10 / 3}, {"x0": -0.1}]),
    ],
)
def test_polynomials_are_found_to_the_coefficient(system: str, wanted: list[Any]) -> None:
    paths = trajectories(system, 3, seed=0, num_times=101)
    model = KANDynamics().fit(*zip(*paths, strict=True))
    for formula, terms in zip(model.formulas_, wanted, strict=True):
        assert formula is not None
        found = formula.expression.as_coefficients_dict()
        assert {str(term): float(c) for term, c in found.items()} == pytest.approx(terms, rel=1e-4)
    points = np.random.default_rng(1).uniform(0.5, 2, (9, 2))
    assert model.predict(points) == pytest.approx(field_of(system)(points), abs=1e-3)


@pytest.mark.parametrize("name", sorted({*SYSTEMS} - {"competition", "vanderpol"}))
def test_systems_that_are_no_polynomials_are_found(name: str) -> None:
    found = weak_formulas(trajectories(name, 4, seed=0), 3)
    points = np.concatenate([x for _, x in trajectories(name, 2, seed=9)])
    for formula, truth in zip(found, field_of(name)(points).T, strict=True):
        assert formula is not None
        assert formula.doubts == []
        assert np.abs(formula(points) - truth).max() < 1e-5 * truth.std()


def test_what_other_terms_may_do_as_well_is_said() -> None:
    t = np.linspace(0, 3, 101)
    paths = [(t, integrate(lambda x: -(np.tanh(x) ** 3), [a], t)) for a in (0.5, 1.0, 2.0)]
    (found,) = weak_formulas(paths, 3)
    assert found is None or found.doubts
    random = np.random.default_rng(0)
    noisy = [(t, x + 1e-3 * random.standard_normal(x.shape)) for t, x in trajectories("glider", 4)]
    for formula, wanted in zip(weak_formulas(noisy, 3), ("sin(x1)", "cos(x1)/x0"), strict=True):
        assert formula is not None
        assert "other terms" in formula.doubts[0]
        assert wanted in str(formula.expression)


@pytest.mark.slow
def test_an_oscillator_is_found_by_networks_and_runs_from_another_start() -> None:
    t = np.linspace(0, 3, 101)
    paths = [a * np.stack([np.sin(t + b), np.cos(t + b)], 1) for a, b in ((1, 0), (2, 1), (0.5, 4))]
    model = KANDynamics(degree=0).fit([t] * 3, paths)
    points = np.random.default_rng(0).uniform(-1, 1, (20, 2))
    wanted = np.stack([points[:, 1], -points[:, 0]], 1)
    assert np.abs(model.predict(points) - wanted).max() < 1e-2
    exact = 1.5 * np.stack([np.sin(t + 2), np.cos(t + 2)], 1)
    assert np.abs(model.simulate(exact[0], t) - exact).max() < 1e-2


def test_a_run_on_a_system(tmp_path: Path) -> None:
    words = ["data=strogatz", "data.system=predator_prey", "trainer.max_epochs=1", "logger=csv"]
    small = ["data.n_train=1", "data.num_times=101", "model.width=8", "callbacks.progress=false"]
    result = train(compose("train", [*words, *small, "layers=mlp", f"runs={tmp_path}"]))
    assert np.isfinite(result["test"]["rmse"])
    assert result["split"]["test"] == 2 * 101


def test_noise_is_told_from_missing_terms_by_what_it_does_to_the_sum() -> None:
    random = np.random.default_rng(100)
    paths = trajectories("bar_magnets", 4, seed=0)
    deviation = 0.01 * np.concatenate([x for _, x in paths]).std(0)
    noisy = [(t, x + deviation * random.standard_normal(x.shape)) for t, x in paths]
    points = np.concatenate([x for _, x in paths])
    for formula, truth in zip(
        weak_formulas(noisy, 3), field_of("bar_magnets")(points).T, strict=True
    ):
        assert formula is not None
        assert formula.doubts
        assert len(formula.expression.args) == 2
        assert np.abs(formula(points) - truth).max() < 0.05 * truth.std()


def test_a_sum_that_leaves_the_trajectories_is_said() -> None:
    t = np.linspace(0, 3, 101)
    paths = [a * np.stack([np.sin(t + b), np.cos(t + b)], 1) for a, b in ((1, 0), (2, 1), (0.5, 4))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = KANDynamics().fit([t] * 3, paths)
    assert model.misses_.max() < 1e-5
    wrong = Formula(
        [1.2 * make_symbols(["x0", "x1"])[1]], make_symbols(["x0", "x1"]), names=["x0", "x1"]
    )
    with pytest.MonkeyPatch.context() as patch:
        found = [wrong, model.formulas_[1]]
        patch.setattr("kanzoo.estimators.dynamics.weak_formulas", lambda *_: found)
        with pytest.warns(ConvergenceWarning, match="leaves the trajectories"):
            model = KANDynamics().fit([t] * 3, paths)
    omega = np.sqrt(1.2)  # of x'' = -1.2 x
    exact = [
        np.stack([x[0, 0] * np.cos(omega * t) + 1.2 * x[0, 1] / omega * np.sin(omega * t),
                  x[0, 1] * np.cos(omega * t) - x[0, 0] / omega * np.sin(omega * t)], 1)
        for x in paths
    ]  # fmt: skip
    spread = np.concatenate(paths).std(0)
    gaps = [np.sqrt(np.square((e - x) / spread).mean(0)) for e, x in zip(exact, paths, strict=True)]
    assert model.misses_ == pytest.approx(np.max(gaps, 0), rel=1e-4)


TERMS = {
    "bacterial_respiration": (3, 2), "bar_magnets": (2, 2), "glider": (2, 2),
    "competition": (3, 3), "predator_prey": (3, 2), "shear_flow": (1, 2), "vanderpol": (3, 1),
}  # fmt: skip


def holds(formula: Formula | None, points: np.ndarray, truth: np.ndarray, count: int) -> bool:
    """Whether a formula of at most so many terms equals the truth with constants fitted anew."""
    if formula is None or len(sympy.Add.make_args(formula.expression)) > count:
        return False
    numbers = sorted(formula.expression.atoms(sympy.Float), key=str)
    symbols = sympy.symbols(f"p:{len(numbers)}", real=True)
    renamed = formula.expression.xreplace(dict(zip(numbers, symbols, strict=True)))
    call = sympy.lambdify([formula.symbols, symbols], renamed, "numpy")
    start = np.array(numbers, float)
    with np.errstate(all="ignore"):
        found = least_squares(
            lambda p: call(points.T, p) - truth, start, xtol=1e-14, ftol=1e-14, gtol=1e-14
        )
    return bool(np.sqrt(np.square(found.fun).mean()) < 1e-5 * truth.std())


@pytest.mark.slow
@pytest.mark.parametrize(("noise", "least"), [(0.001, 58), (0.01, 45)])
def test_terms_are_found_under_noise(noise: float, least: int) -> None:
    right: dict[str, int] = {}
    for name, seed in product(SYSTEMS, range(5)):
        paths = trajectories(name, 4, seed=seed)
        random = np.random.default_rng(100 + seed)
        deviation = noise * np.concatenate([x for _, x in paths]).std(0)
        noisy = [(t, x + deviation * random.standard_normal(x.shape)) for t, x in paths]
        points = np.concatenate([x for _, x in trajectories(name, 3, seed=1000 + seed)])
        truth = field_of(name)(points).T
        for found, wanted, count in zip(weak_formulas(noisy, 3), truth, TERMS[name], strict=True):
            right[name] = right.get(name, 0) + holds(found, points, wanted, count)
            assert found is None or found.doubts
    print(noise, right)
    assert sum(right.values()) >= least, right
