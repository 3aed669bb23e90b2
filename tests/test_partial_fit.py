"""Samples that come in parts: what is known of them at the end, and from what memory."""

import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import kanzoo
from kanzoo.fit import parts
from kanzoo.fit.newton import Penalty, fit_newton
from kanzoo.fit.stack import StackOptions, build_stack

QUICK: dict[str, Any] = {"hidden": (), "grid_sizes": (3,), "random_state": 0}


def samples(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    x = random.uniform(-1, 1, (count, 2))
    return x, np.sin(2 * x[:, 0]) + x[:, 1] + random.normal(0, 0.1, count)


def test_parts_say_together_what_they_say_at_once() -> None:
    x, y = samples(600)
    z, targets = torch.as_tensor(x), torch.as_tensor(y)[:, None]
    for hidden, tolerance in (((), 1e-9), ((2,), 0.05)):
        options = StackOptions(hidden=hidden, grid_sizes=(3,))
        nets = [build_stack(2, 1, options, 0, "identity") for _ in range(2)]
        penalty, anchor = Penalty(1.0, 0.1), None
        fit_newton(nets[0], z, targets, penalty, steps=50, least_gain=1e-9)
        for part in torch.arange(600).split(200):
            data: Any = (nets[1], z[part], targets[part], penalty)
            fit_newton(*data, steps=50, least_gain=1e-9, anchor=anchor)
            anchor = parts.anchor_at(*data, None, anchor)
        gap = (nets[0](z) - nets[1](z)).square().mean().sqrt() / targets.std()
        assert float(gap.detach()) < tolerance


def test_a_regressor_learns_from_parts_and_keeps_none() -> None:
    x, y = samples(3000)
    first = kanzoo.KANRegressor(**QUICK).fit(x[:100], y[:100])
    model = kanzoo.KANRegressor(**QUICK)
    for rows in np.split(np.arange(3000), 30):
        model.partial_fit(x[rows], y[rows])
    new, truth = samples(1000, 1)
    better = [np.mean((m.predict(new) - truth) ** 2) for m in (model, first)]
    assert better[0] < better[1]
    assert len(model._stack.z) == 100
    again = pickle.loads(pickle.dumps(model)).partial_fit(x[:50], y[:50])
    assert np.isfinite(again.predict(new)).all()
    with pytest.raises(ValueError, match="3 features"):
        model.partial_fit(np.ones((5, 3)), y[:5])
    with pytest.raises(ValueError, match="2 targets"):
        model.partial_fit(x[:5], x[:5])
    with pytest.raises(ValueError, match="formula=None"):
        kanzoo.KANRegressor(formula="auto").partial_fit(x, y)
    lost = pickle.loads(pickle.dumps(first))
    with pytest.raises(ValueError, match="no training data"):
        lost.partial_fit(x, y)


def test_a_classifier_learns_classes_that_come_later() -> None:
    x, y = samples(400)
    labels = np.digitize(y, [-0.7, 0.7])
    frame = pd.DataFrame(x, columns=["a", "b"])
    early = (labels < 2) & (np.arange(400) < 40)
    model = kanzoo.KANClassifier(**QUICK)
    with pytest.raises(ValueError, match="first call"):
        model.partial_fit(frame, labels)
    model.partial_fit(frame[early], labels[early], classes=[0, 1, 2])
    assert model.predict_proba(frame).shape == (400, 3)
    for _ in range(3):
        model.partial_fit(frame, labels)
    assert model.score(frame, labels) > 0.85
    with pytest.raises(ValueError, match="not one of the classes"):
        model.partial_fit(frame, labels + 1)


def test_many_samples_are_fitted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = samples(2000)
    usual = kanzoo.KANRegressor(**QUICK).fit(x, y)
    sizes: list[int] = []
    monkeypatch.setattr(parts, "MAX_ROWS", 300)
    fit = parts.fit_newton
    monkeypatch.setattr(
        parts, "fit_newton", lambda net, z, *a, **k: sizes.append(len(z)) or fit(net, z, *a, **k)
    )
    model = kanzoo.KANRegressor(**QUICK).fit(x, y)
    assert max(sizes) <= 300
    assert sum(sizes) == 2000
    np.testing.assert_allclose(model.predict(x), usual.predict(x), atol=1e-6)
