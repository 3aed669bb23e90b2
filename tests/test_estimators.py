"""The scikit-learn estimators: scikit-learn's own checks, and the way from data to formula."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sympy
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import kanzoo
from kanzoo.interpret.formula.search import FormulaError

QUICK: dict[str, Any] = {"grid_sizes": (3,), "restarts": 1, "steps": 3, "time_budget": None}
# Folds are drawn by the number of samples, so that one of weight 2 is not the same as two.
WEIGHTS = dict.fromkeys(
    (
        "check_sample_weight_equivalence_on_dense_data",
        "check_sample_weight_equivalence_on_sparse_data",
    ),
    "held-out samples are drawn",
)


@pytest.mark.slow
@parametrize_with_checks(
    [kanzoo.KANRegressor(**QUICK), kanzoo.KANClassifier(**QUICK)],
    expected_failed_checks=lambda _: WEIGHTS,
)
def test_scikit_learns_own_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def table(count: int = 150) -> tuple[pd.DataFrame, np.ndarray]:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"mass": random.uniform(1, 3, count), "speed": random.normal(0, 2, count)})
    return frame, (2 * frame.mass + frame.speed**2).to_numpy()


def test_data_become_a_formula_in_the_columns_names() -> None:
    frame, y = table()
    model = kanzoo.KANRegressor(hidden=(), formula="auto", random_state=0).fit(frame, y)
    mass, speed = sympy.symbols("mass speed", real=True)
    assert sympy.simplify(model.formula_.expression - (2 * mass + speed**2)) == 0
    np.testing.assert_allclose(model.predict(frame), y, atol=1e-8)
    assert model.score(frame, y) > 1 - 1e-12


@pytest.mark.slow
def test_a_formula_far_from_the_data_is_said_to_be() -> None:
    random = np.random.default_rng(0)
    x = random.uniform(-1, 1, (300, 1))
    y = x[:, 0] + 0.5 * random.normal(size=300)
    model = kanzoo.KANRegressor(hidden=(), formula="auto", random_state=0)
    with pytest.warns(ConvergenceWarning, match=r"misses the data by 0\.[67]"):
        model.fit(x, y)
    assert model.formula_ is not None


def test_pruning_drops_the_column_that_does_not_matter() -> None:
    frame, y = table()
    frame["junk"] = np.random.default_rng(1).uniform(size=len(frame))
    model = kanzoo.KANRegressor(hidden=(), random_state=0).fit(frame, y)
    result = model.prune()
    assert result.inputs == 1
    assert model.score(frame, y) > 0.999
    assert "junk" not in str(model.symbolic().expression)


def test_the_seed_decides_everything_and_the_global_generators_nothing() -> None:
    frame, y = table(60)

    def predicted(seed: int) -> np.ndarray:
        options: dict[str, Any] = {"hidden": (2,), "grid_sizes": (2,), "restarts": 1, "steps": 2}
        model = kanzoo.KANRegressor(**options, random_state=seed).fit(frame, y)
        return model.predict(frame)

    first = predicted(1)
    np.random.seed(5)  # noqa: NPY002
    again, other = predicted(1), predicted(2)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0


def test_odd_tables_are_fitted_all_the_same() -> None:
    random = np.random.default_rng(0)
    x = random.uniform(size=(30, 2))
    constant = np.column_stack([x, np.ones(30)])
    options: dict[str, Any] = {"hidden": (), "grid_sizes": (3,), "random_state": 0}
    model = kanzoo.KANRegressor(**options).fit(constant, x[:, 0])
    assert np.isfinite(model.predict(constant)).all()
    flat = kanzoo.KANRegressor(**options).fit(x, np.full(30, 2.0))
    np.testing.assert_allclose(flat.predict(x), 2.0, atol=1e-6)
    few = kanzoo.KANRegressor(**options).fit(x[:4], x[:4, 0])
    assert np.isfinite(few.predict(x)).all()
    two = kanzoo.KANRegressor(**{**options, "hidden": (2,)}, restarts=1, steps=2).fit(x, x)
    assert two.predict(x).shape == (30, 2)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"formula": "yes"}, "formula"),
        ({"hidden": (0,)}, "hidden"),
        ({"grid_sizes": ()}, "grid"),
        ({"lamb": -1.0}, "lamb"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], text: str) -> None:
    frame, y = table(20)
    with pytest.raises(ValueError, match=text):
        kanzoo.KANRegressor(**options).fit(frame, y)


def test_a_classifier_in_a_pipeline_and_a_search() -> None:
    x, y = load_iris(return_X_y=True)
    model = kanzoo.KANClassifier(hidden=(), grid_sizes=(3,), steps=10, random_state=0)
    pipeline = make_pipeline(StandardScaler(), model)
    search = GridSearchCV(pipeline, {"kanclassifier__grid_sizes": [(2,), (3,)]}, cv=2).fit(x, y)
    assert search.best_score_ > 0.9
    fitted = search.best_estimator_[-1]
    np.testing.assert_allclose(search.predict_proba(x).sum(1), 1)
    result = fitted.prune(0.2)
    assert result.left < result.total
    with pytest.raises(ValueError, match="one class"):
        kanzoo.KANClassifier().fit(x[:10], y[:10])
    for labels, text in ((["a", None] * 75, "missing"), (["a", 1] * 75, "one kind")):
        with pytest.raises(ValueError, match=text):
            kanzoo.KANClassifier().fit(x, np.array(labels, dtype=object))


def test_a_prior_formula_is_taken_off_and_added_again() -> None:
    frame, y = table()
    y = y + np.sin(3 * frame.mass.to_numpy()) * frame.speed.to_numpy()
    prior = "sin(3*mass)*speed"
    model = kanzoo.KANRegressor(hidden=(), prior=prior, random_state=0).fit(frame, y)
    assert model.score(frame, y) > 0.9999  # without the prior no sum of functions comes near
    plain = kanzoo.KANRegressor(hidden=(), random_state=0).fit(frame, y)
    assert plain.score(frame, y) < 0.98
    formula = model.symbolic()
    mass, speed = sympy.symbols("mass speed", real=True)
    whole = 2 * mass + speed**2 + sympy.sin(3 * mass) * speed
    assert sympy.simplify(formula.expression - whole) == 0
    assert formula.relative_error < 1e-6
    np.testing.assert_allclose(formula(frame.to_numpy()), y, atol=1e-8)
    auto = kanzoo.KANRegressor(hidden=(), prior=prior, formula="auto", random_state=0)
    np.testing.assert_allclose(auto.fit(frame, y).predict(frame), y, atol=1e-8)


@pytest.mark.slow
def test_a_prior_is_taken_off_once_where_symmetries_are_looked_for() -> None:
    x = np.random.default_rng(0).uniform(1, 2, (300, 2))
    y = x[:, 0] * x[:, 1] + np.sin(3 * x[:, 0])
    model = kanzoo.KANRegressor(formula="auto", prior="sin(3*x0)", random_state=0).fit(x, y)
    assert sympy.sin(3 * model.formula_.symbols[0]) in model.formula_.expression.args
    np.testing.assert_allclose(model.predict(x), y, atol=1e-6)


def test_a_prior_that_is_right_leaves_nothing_to_learn() -> None:
    frame, y = table(60)
    prior = "2*mass + speed**2"
    model = kanzoo.KANRegressor(hidden=(), grid_sizes=(2,), prior=prior, random_state=0).fit(
        frame, y
    )
    np.testing.assert_allclose(model.predict(frame), y, atol=1e-9)
    both = np.stack([y, frame.mass], axis=1)
    two = kanzoo.KANRegressor(hidden=(), prior=[prior, "mass"], random_state=0).fit(frame, both)
    np.testing.assert_allclose(two.predict(frame), both, atol=1e-9)
    assert str(two.symbolic().expressions[1]) == "mass"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"prior": "weight"}, "mass"),
        ({"prior": "log(speed)"}, "not a finite real number at mass="),
        ({"prior": "__import__('os')"}, "known|unknown"),
        ({"prior": ["mass", "speed"]}, "one an output"),
        ({"monotone": {"mas": "increasing"}}, "mass"),
        ({"monotone": {"mass": "up"}}, "increasing"),
    ],
)
def test_bad_knowledge_is_refused(options: dict[str, Any], text: str) -> None:
    frame, y = table(30)
    with pytest.raises(ValueError, match=text):
        kanzoo.KANRegressor(hidden=(), **options).fit(frame, y)
    labels = y > y.mean()
    with pytest.raises(ValueError, match="regression"):
        kanzoo.KANClassifier(hidden=(), **options).fit(frame, labels)


def test_a_monotone_regressor_is_so_everywhere() -> None:
    frame, _ = table(200)
    noise = np.random.default_rng(2).normal(0, 1.0, len(frame))
    y = np.exp(frame.mass) - frame.speed.abs() + noise
    model = kanzoo.KANRegressor(
        hidden=(3,), monotone={"mass": "increasing", 1: "even"}, steps=8, random_state=0
    ).fit(frame, y)
    far = np.random.default_rng(1).uniform(-4, 8, (300, 2))
    higher = far + np.array([0.05, 0.0])
    columns = list(frame.columns)
    low, high = (model.predict(pd.DataFrame(x, columns=columns)) for x in (far, higher))
    assert (high >= low - 1e-9).all()
    assert model.score(frame, y) > 0.8


@pytest.mark.slow
def test_a_classifier_goes_all_the_way_to_formulas_of_its_scores() -> None:
    frame, _ = table(300)
    score = frame.mass - frame.speed / 2
    y = np.digitize(score, np.quantile(score, [1 / 3, 2 / 3])).astype(str)
    model = kanzoo.KANClassifier(formula="auto", random_state=0, tolerance=0.05).fit(frame, y)
    assert model.score(frame, y) > 0.95
    formula = model.formula_
    assert len(formula.expressions) == 3
    scores = formula(frame.to_numpy())
    assert (model.classes_[scores.argmax(1)] == model.predict(frame)).mean() > 0.97
    assert {str(s) for e in formula.expressions for s in e.free_symbols} <= {"mass", "speed"}


@pytest.mark.parametrize("classes", [2, 3])
def test_a_classifier_whose_network_cannot_be_read_has_the_nearest_formula(
    classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unread(*_: object, **__: object) -> None:
        raise FormulaError("no function fits")

    monkeypatch.setattr(kanzoo.KANClassifier, "symbolic", unread)
    frame, _ = table(150)
    score = frame.mass + frame.speed**2
    y = np.digitize(score, np.quantile(score, np.arange(1, classes) / classes))
    model = kanzoo.KANClassifier(formula="auto", steps=3, time_limit=30, random_state=0)
    with pytest.warns(ConvergenceWarning, match="no function fits; this one misses the scores by"):
        model.fit(frame, y)
    formula = model.formula_
    assert len(formula.expressions) == len(formula.intervals) == classes
    scores = formula(frame.to_numpy())
    np.testing.assert_array_equal(scores.argmax(1), model.predict(frame))
    assert (scores.argmax(1) == model._stack.predict(frame.to_numpy()).argmax(1)).mean() > 0.8
    for expression, ranges in zip(formula.expressions, formula.intervals, strict=True):
        numbers = [float(number) for number in expression.atoms(sympy.Float)]
        assert all(min(abs(value - n) for n in numbers) < 1e-9 for value, _, _ in ranges)


def test_a_classifier_has_a_formula_of_every_class() -> None:
    frame, y = table(80)
    labels = np.array(["low", "high"])[(y > np.median(y)).astype(int)]
    model = kanzoo.KANClassifier(hidden=(), grid_sizes=(2,), spline_order=2, random_state=0)
    formula = model.fit(frame, labels).symbolic(functions=["x", "x^2"], tolerance=0.5)
    assert formula is model.formula_
    scores = formula(frame.to_numpy())
    assert (model.classes_[scores.argmax(1)] == labels).mean() > 0.85
    with pytest.raises(ValueError, match="2 outputs"):
        _ = formula.expression


def test_estimators_draw_their_networks_with_the_columns_names(tmp_path: Path) -> None:
    frame, y = table(60)
    model = kanzoo.KANRegressor(
        hidden=(2,), grid_sizes=(2,), restarts=1, steps=2, random_state=0
    ).fit(frame, y)
    figure = model.plot(path=tmp_path / "graph")
    texts = {text.get_text() for text in figure.axes[0].texts}
    assert texts >= {"mass", "speed", "y"}
    assert (tmp_path / "graph.svg").stat().st_size > 1000
    labels = np.array(["low", "high"])[(y > y.mean()).astype(int)]
    classifier = kanzoo.KANClassifier(
        hidden=(2,), grid_sizes=(2,), restarts=1, steps=2, random_state=0
    ).fit(frame, labels)
    texts = {text.get_text() for text in classifier.plot().axes[0].texts}
    assert texts >= {"mass", "speed", "high", "low"}
    assert "mass" not in {t.get_text() for t in model.plot(names=["a", "b"]).axes[0].texts}


@pytest.mark.parametrize("hidden", [2, np.array([2]), [np.int64(2)]])
def test_hidden_is_a_number_or_any_sequence(hidden: Any) -> None:
    frame, y = table(60)
    model = kanzoo.KANRegressor(hidden=hidden, steps=2, restarts=1, random_state=0).fit(frame, y)
    assert model.hidden_ == (2,)


def test_more_parameters_than_normal_equations_can_hold_are_fitted() -> None:
    x = np.random.default_rng(0).normal(size=(30, 300))
    model = kanzoo.KANRegressor(steps=2, random_state=0).fit(x, x[:, 0])
    assert np.isfinite(model.predict(x)).all()
