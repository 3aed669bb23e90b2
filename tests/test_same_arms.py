"""An arm against itself, and arms whose names were drawn: nobody is better or worse."""

import json
from pathlib import Path

import engine_study
import numpy as np
import pandas as pd
import pytest

from kanzoo.compare import _job
from kanzoo.study.comparison import plan
from kanzoo.study.stats import verdicts

ALPHA = 0.05
STUDIES, MODELS, SEEDS = 200, 4, 5
ITEMS = 360  # of a test set, so that accuracies are multiples of 1 / 360
TWIN = ["layers=mlp"]


def test_the_twin_cannot_be_an_arm_beside_itself(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"study.arms.again is the same as the baseline 'mlp'"):
        plan(engine_study.configured(tmp_path, arms={"mlp": TWIN, "again": TWIN}))


@pytest.mark.slow
@pytest.mark.usefixtures("inline")
def test_the_twin_in_other_words_is_neither_better_nor_worse(tmp_path: Path) -> None:
    """The same network, declared by another key: runs of their own with the same scores."""
    arms = {"mlp": TWIN, "again": [*TWIN, "model.hidden_width=8"]}
    options = {"data": ["digits", "diabetes"], "seeds": SEEDS, "looks": [SEEDS]}
    margin = {"accuracy": 0.01, "rmse": 0.1}
    config = engine_study.configured(tmp_path, arms=arms, margin=margin, **options)
    _job(config)
    report = tmp_path / "smoke" / "report"
    runs = pd.read_csv(report / "results.csv")
    assert runs["run_dir"].nunique() == 2 * 2 * SEEDS
    found = json.loads((report / "verdicts.json").read_text())
    assert [v["data"] for v in found] == ["diabetes", "digits"]
    for v in found:
        assert v["n_seeds"] == SEEDS
        assert v["mean_arm"] == v["mean_baseline"]
        assert (v["mean_difference"], v["std_difference"], v["standard_error"]) == (0, 0, 0)
        assert (v["ci_low"], v["ci_high"], v["p_value"]) == (0, 0, 1)
        assert (v["params_ratio"], v["flops_ratio"]) == (1, 1)
        assert v["word"] in ("equivalent", "undecided")
        assert v["direction"] == ""


def table_of(scores: np.ndarray) -> pd.DataFrame:
    """A table of runs with the scores (2, models, seeds) of the arms `mlp` and `kan`."""
    rows = [
        {"data": "digits", "model": f"model{m}", "arm": arm, "match": "params", "seed": seed,
         "status": "finished", "metric": "accuracy", "mode": "max", "test": scores[a, m, seed]}
        for a, arm in enumerate(("mlp", "kan")) for m in range(MODELS) for seed in range(SEEDS)
    ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.slow
def test_arms_whose_names_were_drawn_differ_at_most_at_the_level() -> None:
    """Arms of one mean, one of them skewed; a coin names them for every seed and model."""
    rng = np.random.default_rng(0)
    false = 0
    for _ in range(STUDIES):
        noise = np.stack(
            [rng.normal(size=(MODELS, SEEDS)), rng.exponential(size=(MODELS, SEEDS)) - 1]
        )
        scores = rng.normal(0.9, 0.02, (MODELS, SEEDS)) + 0.01 * noise  # a seed moves both arms
        scores = np.round(scores * ITEMS) / ITEMS
        scores = np.where(rng.random((MODELS, SEEDS)) < 0.5, scores, scores[::-1])
        found = verdicts(table_of(scores), "mlp", margin=0.001, alpha=ALPHA, n_resamples=200)
        assert len(found) == MODELS
        false += any(v.direction for v in found)
    assert 0.01 < false / STUDIES <= ALPHA + 3 * np.sqrt(ALPHA * (1 - ALPHA) / STUDIES)
