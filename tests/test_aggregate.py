"""Over tasks: published worked examples, invariants, and the command over several studies."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from engine_study import declared
from scipy import optimize, stats

from kanzoo import aggregate as command
from kanzoo.study import aggregate
from kanzoo.study.pool import aggregate_effects, effects_of
from kanzoo.study.record import write_record
from kanzoo.study.stats import verdicts

# Thirteen trials of the BCG vaccine: cases and others, vaccinated and not (Colditz et al. 1994).
BCG = np.array([
    [4, 119, 11, 128], [6, 300, 29, 274], [3, 228, 11, 209], [62, 13536, 248, 12619],
    [33, 5036, 47, 5761], [180, 1361, 372, 1079], [8, 2537, 10, 619], [505, 87886, 499, 87892],
    [29, 7470, 45, 7232], [17, 1699, 65, 1600], [186, 50448, 141, 27197], [5, 2493, 3, 2338],
    [27, 16886, 29, 17825],
], dtype=float)  # fmt: skip


def bcg() -> tuple[np.ndarray, np.ndarray]:
    a, b, c, d = BCG.T
    return np.log(a / (a + b)) - np.log(c / (c + d)), 1 / a - 1 / (a + b) + 1 / c - 1 / (c + d)


def test_random_effects_are_those_of_metafor() -> None:
    """What rma(yi, vi, test="knha") of metafor (Viechtbauer 2010) gives for its dat.bcg.

    Its vignettes print Q and I^2; the other values are its results to all digits.
    """
    found = aggregate.random_effects(*bcg())
    assert found.tau is not None
    assert found.tau**2 == pytest.approx(0.313243258137, rel=1e-5)
    assert found.q == pytest.approx(152.2330, abs=5e-5)
    assert found.i2 == pytest.approx(0.9222, abs=5e-5)
    values = (found.mean, found.low, found.high)
    expected = (-0.714532342158, -1.108443713686, -0.320620970631)
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    se = (expected[2] - expected[1]) / (2 * stats.t.ppf(0.975, 12))
    assert found.se == pytest.approx(se, rel=1e-5)
    assert found.p_value == pytest.approx(2 * stats.t.cdf(expected[0] / se, 12), rel=1e-4)
    wide = np.sqrt(found.tau**2 + se**2)
    assert found.p_new == pytest.approx(stats.t.cdf(expected[0] / wide, 11), rel=1e-4)


def test_reml_solves_its_score_equation() -> None:
    """The derivative of the restricted likelihood is zero there: a root instead of a minimum."""
    rng = np.random.default_rng(3)
    v = rng.uniform(0.05, 0.5, 9)
    y = rng.normal(0.3, np.sqrt(1 + v))

    def score(tau2: float) -> float:
        w = 1 / (v + tau2)
        return float(w**2 @ (y - w @ y / w.sum()) ** 2 - w.sum() + (w**2).sum() / w.sum())

    root = optimize.brentq(score, 1e-6, 20.0, xtol=1e-12)
    assert aggregate.reml(y, v) == pytest.approx(root, rel=1e-5)


def test_random_effects_agree_with_statsmodels() -> None:
    """Hartung-Knapp is weighted least squares with a scale; the weights are those of REML."""
    api = pytest.importorskip("statsmodels.api", reason="a check beside the published values")
    y, v = bcg()
    found = aggregate.random_effects(y, v)
    fit = api.WLS(y, np.ones(len(y)), weights=1 / (v + found.tau**2)).fit()
    assert found.mean == pytest.approx(fit.params[0])
    assert found.se == pytest.approx(fit.bse[0])
    assert (found.low, found.high) == pytest.approx(tuple(fit.conf_int()[0]))


def test_equal_effects_have_no_variance_between_tasks() -> None:
    found = aggregate.random_effects(np.array([1.0, 1.01, 0.99, 1.0]), np.full(4, 0.5))
    assert found.tau == 0.0
    assert found.mean == pytest.approx(1.0)
    few = aggregate.random_effects(np.array([1.0, 2.0]), np.full(2, 0.5))
    assert (few.mean, few.low, few.p_new) == (1.5, None, None)


@pytest.mark.slow
@pytest.mark.parametrize("tau", [0.0, 1.0])
def test_intervals_and_predictions_cover(tau: float) -> None:
    rng = np.random.default_rng(0)
    inside, new = [], []
    for _ in range(800):
        v = rng.uniform(0.05, 0.5, 12)
        y = 0.3 + tau * rng.normal(size=12) + np.sqrt(v) * rng.normal(size=12)
        found = aggregate.random_effects(y, v)
        inside.append(found.low <= 0.3 <= found.high)
        new.append(found.new_low <= 0.3 + tau * rng.normal() <= found.new_high)
    assert np.mean(inside) == pytest.approx(0.95, abs=0.025)
    assert np.mean(new) >= 0.92


def test_ranks_are_those_of_demsar() -> None:
    """Table 6 of Demsar (2006): four classifiers on 14 data sets, critical difference 1.25.

    The paper prints 0.975 for both of the last two on the data set voting, and ranks them 2 and 3:
    they differ in digits that are not printed, so that one is raised by 1e-4 here.
    """
    auc = np.array([
        [0.763, 0.768, 0.771, 0.798], [0.599, 0.591, 0.590, 0.569], [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657], [0.882, 0.888, 0.886, 0.898], [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685], [0.583, 0.583, 0.563, 0.625], [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000], [0.940, 0.962, 0.965, 0.962], [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.9751, 0.975], [0.957, 0.978, 0.946, 0.970],
    ])  # fmt: skip
    names = ("C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf")
    found = aggregate.average_ranks(dict(zip(names, auc.T, strict=True)))
    np.testing.assert_allclose(list(found.ranks.values()), [3.143, 2.0, 2.893, 1.964], atol=5e-4)
    assert found.critical == pytest.approx(2.569 * np.sqrt(4 * 5 / (6 * 14)), abs=1e-3)
    assert found.p_value == pytest.approx(stats.f.sf(3.69, 3, 39), abs=2e-4)
    looser = aggregate.average_ranks(dict(zip(names, auc.T, strict=True)), alpha=0.1)
    assert looser.critical == pytest.approx(1.12, abs=5e-3)


def test_nemenyi_bounds_are_those_of_scikit_posthocs() -> None:
    """Two arms differ by the critical difference where posthoc_nemenyi_friedman gives p = alpha."""
    posthocs = pytest.importorskip("scikit_posthocs", reason="a check beside the published values")
    scores = np.random.default_rng(0).normal(size=(9, 4))
    p = posthocs.posthoc_nemenyi_friedman(scores).to_numpy()[0, 1]
    ranks = stats.rankdata(-scores, axis=1).mean(0)
    found = aggregate.average_ranks(dict(zip("abcd", scores.T, strict=True)), alpha=p)
    assert found.critical == pytest.approx(abs(ranks[0] - ranks[1]), rel=1e-3)


def test_scores_over_runs() -> None:
    rng = np.random.default_rng(1)
    scores = [rng.normal(task, 1.0, 5) for task in (0.0, 1.0, 2.0)]
    assert aggregate.iqm(scores) == pytest.approx(stats.trim_mean(np.concatenate(scores), 0.25))
    low, high = aggregate.stratified_bootstrap(scores)
    assert low < aggregate.iqm(scores) < high
    levels = np.array([-np.inf, 1.0, np.inf])
    profile = aggregate.performance_profile(scores, levels)
    assert profile[0] == 1.0
    assert profile[2] == 0.0
    assert profile[1] == pytest.approx(np.mean([(s > 1).mean() for s in scores]))
    assert aggregate.improvement(scores, scores) == pytest.approx(0.5)
    assert aggregate.improvement([s + 100 for s in scores], scores) == 1.0
    ends = np.array([[0.2, 0.4], [-0.05, 0.05], [-0.4, -0.2], [-0.4, 0.4]])
    counts = aggregate.count_wins(ends.mean(1), *ends.T, np.full(4, 0.1))
    assert list(counts.values()) == [1, 1, 1, 1]


def runs_of(tasks: dict[str, tuple[str, float]], seeds: int = 5, mode: str = "max") -> pd.DataFrame:
    """Runs of a baseline and an arm that is better by some of the baseline's deviations a task."""
    rng = np.random.default_rng(2)
    sign = 1.0 if mode == "max" else -1.0
    rows = []
    for data, (domain, effect) in tasks.items():
        level = rng.normal(size=seeds)
        for arm, gain in (("mlp", 0.0), ("kan", effect)):
            noise = 0.2 * rng.normal(size=seeds)
            rows += [
                {"data": data, "model": "mlp", "arm": arm, "match": "params", "seed": s,
                 "status": "finished", "metric": "score", "mode": mode, "domain": domain,
                 "test": 10 + sign * (level[s] + gain + noise[s])}
                for s in range(seeds)
            ]  # fmt: skip
    return pd.DataFrame(rows)


TASKS = {"a": ("vision", 1.0), "b": ("vision", 1.2), "c": ("vision", 0.8), "d": ("tables", -2.0)}


@pytest.mark.parametrize("mode", ["max", "min"])
def test_a_study_is_aggregated_by_domain(mode: str) -> None:
    results = runs_of(TASKS, mode=mode)
    found = verdicts(results, "mlp", margin=0.1, n_resamples=50)
    record = aggregate_effects(effects_of([v.to_dict() for v in found], results, declared()), 0.05)
    rows = {row["group"]: row for row in record["arms"]}
    assert {g: row["num_tasks"] for g, row in rows.items()} == {"all": 4, "vision": 3, "tables": 1}
    assert rows["vision"]["mean"] > 0.5 > 0 > rows["tables"]["mean"]
    assert rows["vision"]["p_new"] > 0.8 > rows["all"]["p_new"]
    assert rows["all"]["tau"] > rows["vision"]["tau"]
    assert rows["all"]["wins"] == rows["vision"]["wins"] + rows["tables"]["wins"]
    assert record["ranks"]["vision"]["ranks"] == {"mlp": 2.0, "kan": 1.0}
    json.dumps(record, allow_nan=False)


def test_the_command_pools_several_studies(tmp_path: Path, capsys) -> None:
    for name, tasks in (("one", ("a", "b")), ("two", ("c", "d"))):
        results = runs_of({task: TASKS[task] for task in tasks})
        found = verdicts(results, "mlp", margin=0.1, n_resamples=50)
        report = tmp_path / name / "report"
        report.mkdir(parents=True)
        write_record(declared(), tmp_path / name)
        (report / "verdicts.json").write_text(json.dumps([v.to_dict() for v in found]))
        results.to_csv(report / "results.csv", index=False)
    out = tmp_path / "aggregate.json"
    words = [str(tmp_path / "one"), str(tmp_path / "two"), "--out", str(out)]
    command.main([*words, "--picture", str(tmp_path / "effects.svg")])
    record = json.loads(out.read_text())
    assert record["arms"][0]["num_tasks"] == 4
    assert [t["task"] for t in record["arms"][0]["tasks"]] == [
        "one/a/mlp", "one/b/mlp", "two/c/mlp", "two/d/mlp",
    ]  # fmt: skip
    assert "vision" in capsys.readouterr().out
    tips = re.findall(r"<title>(.*?)</title>", (tmp_path / "effects.svg").read_text())
    for row in record["arms"]:  # what is drawn is what was pooled
        for task in row["tasks"] if row["group"] == "all" else ():
            name = " ".join(task["task"].split("/")[1:])
            assert any(t.startswith(f"{name}, {row['arm']}: {task['effect']:+.2f} [") for t in tips)
    assert f"mean over 4 tasks: {record['arms'][0]['mean']:+.2f} [" in " ".join(tips)
    with pytest.raises(SystemExit):
        command.main([*words, "--picture", str(tmp_path / "effects.bmp")])
    assert "must end in .svg" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        command.main([str(tmp_path), "--out", str(out)])
    assert end.value.code == 2
    assert "not the folder of a finished study" in capsys.readouterr().err
