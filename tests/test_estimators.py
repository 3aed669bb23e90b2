"""The scikit-learn estimators: scikit-learn's own checks, and the way from data to formula."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import sympy
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import kanzoo


@pytest.mark.slow
@parametrize_with_checks([kanzoo.KANRegressor(), kanzoo.KANClassifier()])
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
    first = kanzoo.KANRegressor(hidden=(2,), steps=3, random_state=1).fit(frame, y).predict(frame)
    np.random.seed(5)  # noqa: NPY002
    again = kanzoo.KANRegressor(hidden=(2,), steps=3, random_state=1).fit(frame, y).predict(frame)
    other = kanzoo.KANRegressor(hidden=(2,), steps=3, random_state=2).fit(frame, y).predict(frame)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0


def test_odd_tables_are_fitted_all_the_same() -> None:
    random = np.random.default_rng(0)
    x = random.uniform(size=(30, 2))
    constant = np.column_stack([x, np.ones(30)])
    model = kanzoo.KANRegressor(hidden=(2,), steps=5, random_state=0).fit(constant, x[:, 0])
    assert np.isfinite(model.predict(constant)).all()
    flat = kanzoo.KANRegressor(hidden=(2,), steps=5, random_state=0).fit(x, np.full(30, 2.0))
    np.testing.assert_allclose(flat.predict(x), 2.0, atol=1e-6)
    few = kanzoo.KANRegressor(steps=5, random_state=0).fit(x[:4], x[:4, 0])
    assert np.isfinite(few.predict(x)).all()
    two = kanzoo.KANRegressor(hidden=(2,), steps=5, random_state=0).fit(x, x)
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
