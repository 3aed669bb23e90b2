"""Estimators on tables as they are: weights, gaps, categories, wild values, wide and noisy data."""

import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression, Ridge

import kanzoo
from kanzoo.fit.noise import conformal_quantiles, noise_level, poor_fit
from kanzoo.fit.scaling import range_scaling

QUICK: dict[str, Any] = {"hidden": (), "grid_sizes": (3,), "random_state": 0}


def mixed(count: int = 120) -> tuple[pd.DataFrame, np.ndarray]:
    """A frame with a number, a category, a flag, a date, gaps, and what depends on all."""
    random = np.random.default_rng(0)
    kind = random.choice(["red", "green", "blue"], count)
    day = pd.Timestamp("2020-01-01") + pd.to_timedelta(random.integers(0, 300, count), "D")
    mass, flag = random.uniform(0, 1, count), random.integers(0, 2, count) > 0
    y = mass + 2 * (kind == "red") - flag + np.asarray((day - day.min()).days) / 100
    frame = pd.DataFrame({"m (kg)": mass, "kind": pd.Categorical(kind), "flag": flag, "day": day})
    return frame, y


def test_columns_of_every_kind_are_used() -> None:
    frame, y = mixed()
    model = kanzoo.KANRegressor(**QUICK).fit(frame[:100], y[:100])
    assert model.score(frame[100:], y[100:]) > 0.999
    assert set(model._names()) == {"m (kg)", "kind=blue", "kind=green", "kind=red", "flag", "day"}
    assert model.n_features_in_ == 4
    unknown = frame[:5].assign(kind=pd.Categorical(["violet"] * 5))
    with pytest.warns(UserWarning, match="unknown categories"):
        assert np.isfinite(model.predict(unknown)).all()
    with pytest.raises(ValueError, match="'kind' holds no numbers"):
        kanzoo.KANRegressor(**QUICK, enable_categorical=False).fit(frame, y)


def test_what_frames_hold_is_taken_for_what_it_is() -> None:
    count = 60
    steps = np.arange(count) / 10
    frame = pd.DataFrame(
        {
            "span": pd.to_timedelta(steps, "D"),
            "when": pd.period_range("2020-01-01", periods=count, freq="D"),
            "far": pd.Series(["1500-01-01", "3030-06-01"] * 30),
            "code": ["1010", "2020", "3030"] * 20,  # no years
            "code=2020": steps,
        }
    )
    y = steps + 0.1 * (frame.code == "2020").to_numpy()
    model = kanzoo.KANRegressor(**QUICK).fit(frame, y)
    assert model.score(frame, y) > 0.9999
    names = ["span", "code=2020", "when", "far", "code=1010", "code=2020 (2)", "code=3030"]
    assert model._names() == names
    x = model._numbers(frame)
    np.testing.assert_allclose(x[:, 0], steps)
    np.testing.assert_array_equal(np.diff(x[:, 2]), 1)
    np.testing.assert_array_equal(np.unique(x[:, 3]), [-171_664, 387_308])
    many = pd.DataFrame({"a": [f"c{k % 30}" for k in range(count)], "b": steps})
    assert "a=others" in kanzoo.KANRegressor(**QUICK).fit(many, y)._names()


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (pd.DataFrame(np.ones((30, 2)), columns=["a", "a"]), "two columns 'a'"),
        (pd.DataFrame({"a": np.arange(30.0).astype(str)}), "'a' holds numbers as texts, '0.0'"),
        (pd.DataFrame({"a": np.arange(30) * 1j}), "complex"),
    ],
)
def test_frames_that_would_be_misread_are_refused(frame: pd.DataFrame, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        kanzoo.KANRegressor(**QUICK).fit(frame, np.arange(30.0))


def test_texts_where_numbers_were_are_named() -> None:
    frame, y = mixed()
    model = kanzoo.KANRegressor(**QUICK).fit(frame, y)
    with pytest.raises(ValueError, match=r"'m .kg.' holds something else than numbers"):
        model.predict(frame.assign(**{"m (kg)": "heavy"}))


def test_gaps_are_filled_and_marked() -> None:
    random = np.random.default_rng(0)
    x = random.uniform(size=(200, 2))
    y = x[:, 0] + x[:, 1]
    lost = random.uniform(size=200) < 0.2
    x[lost, 0], y[lost] = np.nan, x[lost, 1] + 3
    model = kanzoo.KANRegressor(**QUICK).fit(x, y)
    assert model.score(x, y) > 0.999  # by the feature that marks the gaps
    assert model._names() == ["x0", "x1", "x0 is missing"]


def test_never_below_the_linear_model_by_more_than_noise() -> None:
    x, y = load_diabetes(return_X_y=True)
    train, test = np.arange(442) % 2 == 0, np.arange(442) % 2 == 1
    model = kanzoo.KANRegressor(**QUICK).fit(x[train], y[train])
    linear = LinearRegression().fit(x[train], y[train])
    gain = np.square(linear.predict(x[test]) - y[test]) - np.square(
        model.predict(x[test]) - y[test]
    )
    assert gain.mean() > -gain.std() / np.sqrt(len(gain))


def test_more_columns_than_rows() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(50, 500))
    y = x[:, :3].sum(1)
    model = kanzoo.KANRegressor(random_state=0).fit(x, y)
    new = random.normal(size=(200, 500))
    truth = new[:, :3].sum(1)
    ridge = np.mean(np.square(Ridge(100.0).fit(x, y).predict(new) - truth))
    assert np.mean(np.square(model.predict(new) - truth)) < 1.2 * ridge


def test_one_wild_value_changes_little() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(200, 2))
    y = np.sin(2 * x[:, 0]) + x[:, 1]
    wild = x.copy()
    wild[0, 0] = 1e6
    model = kanzoo.KANRegressor(**QUICK).fit(wild, y)
    assert model.score(x[1:], y[1:]) > 0.99
    z = range_scaling(wild, fence=True)(wild)
    assert z.abs().max() <= 1
    assert z[1:, 0].std() > 0.1


def test_codes_of_gaps_among_numbers_are_suspected(caplog: pytest.LogCaptureFixture) -> None:
    x = np.random.default_rng(0).normal(size=(200, 2))
    kanzoo.KANRegressor(**QUICK).fit(x, x[:, 0])
    assert "code for gaps" not in caplog.text
    x[::8, 1] = -999
    frame = pd.DataFrame(x).assign(kind=["a", "b"] * 100)  # two columns are named by numbers
    kanzoo.KANRegressor(**QUICK).fit(frame, x[:, 0])
    assert "column '1': half" in caplog.text


def test_weights_of_samples_and_classes_decide() -> None:
    random = np.random.default_rng(0)
    x = random.uniform(size=(120, 1))
    first = np.arange(120) < 60
    y = np.where(first, x[:, 0], -x[:, 0])
    model = kanzoo.KANRegressor(**QUICK).fit(x, y, sample_weight=np.where(first, 1.0, 0.0))
    assert model.score(x[first], y[first]) > 0.99
    labels = np.where(random.uniform(size=120) < 0.1, "rare", "usual")
    plain = kanzoo.KANClassifier(**QUICK).fit(x, labels)
    balanced = kanzoo.KANClassifier(**QUICK, class_weight="balanced").fit(x, labels)
    assert plain.predict_proba(x)[:, 0].mean() < 0.2
    assert 0.4 < balanced.predict_proba(x)[:, 0].mean() < 0.6
    with pytest.raises(ValueError, match="lamb=0"):
        kanzoo.KANRegressor(**QUICK, lamb=0.1).fit(x, y, sample_weight=np.ones(120))


def test_intervals_cover_what_they_say() -> None:
    random = np.random.default_rng(0)
    x = random.uniform(-1, 1, (1500, 1))
    y = x[:, 0] ** 2 + random.normal(0, 0.3, 1500)
    model = kanzoo.KANRegressor(**QUICK).fit(x[:500], y[:500])
    for share in (0.5, 0.9):
        values, bounds = model.predict(x[500:], interval=share)
        inside = (bounds[:, 0] <= y[500:]) & (y[500:] <= bounds[:, 1])
        assert abs(inside.mean() - share) < 0.05
        np.testing.assert_allclose(bounds.mean(1), values)
    for share in (90, "half"):
        with pytest.raises(ValueError, match="between 0 and 1"):
            model.predict(x, interval=share)


def test_few_errors_say_nothing_of_wide_intervals() -> None:
    x = np.linspace(0, 1, 9)[:, None]
    y = np.sin(9 * x[:, 0])
    model = kanzoo.KANRegressor(**QUICK).fit(x, y)
    _, bounds = model.predict(x, interval=0.9)  # the ninth of ten ranks, the largest error
    assert (np.diff(bounds) > 0).all()
    with pytest.raises(ValueError, match=r"interval=0.95 needs more samples"):
        model.predict(x, interval=0.95)
    with pytest.raises(ValueError, match="three samples"):
        kanzoo.KANRegressor(**QUICK).fit(x[:2], y[:2]).predict(x, interval=0.5)
    quantiles = conformal_quantiles(np.arange(1.0, 5.0)[:, None])[:, 0]  # ranks of 5
    np.testing.assert_array_equal(quantiles[[200, 201, 800, 801]], [1, 2, 4, np.inf])


def test_pickles_hold_no_training_data() -> None:
    random = np.random.default_rng(0)
    x = random.uniform(size=(5000, 2))
    model = kanzoo.KANRegressor(**QUICK).fit(x, x[:, 0])
    data = pickle.dumps(model)
    assert len(data) < 40_000
    again = pickle.loads(data)
    np.testing.assert_array_equal(again.predict(x), model.predict(x))
    with pytest.raises(ValueError, match="fit it again"):
        again.symbolic()


def test_fits_far_above_the_noise_are_told_from_noise() -> None:
    random = np.random.default_rng(0)
    z = random.uniform(-1, 1, (1000, 2))
    signal = np.sin(4 * z[:, :1]) * z[:, 1:]
    y = (signal + random.normal(0, 0.1 * signal.std(), (1000, 1))) / signal.std()
    level = noise_level(z, y)
    assert level is not None
    assert 0.05 < level < 0.2
    assert poor_fit(z, y, 0.1) is None
    assert "restarts" in str(poor_fit(z, y, 0.6))
