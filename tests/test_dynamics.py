"""Right-hand sides from time series: derivatives by three methods, systems, and formulas."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import compose

from kanzoo.data.dynamics import METHODS, SYSTEMS, derivatives, field_of, integrate, trajectories
from kanzoo.estimators.dynamics import KANDynamics
from kanzoo.estimators.weak import weak_formulas
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
