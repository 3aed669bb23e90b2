"""The statistics keep their promises: level, power, coverage, and degenerate input."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from kanzoo.study import inference
from kanzoo.study.looks import Looks
from kanzoo.study.report.tables import verdict_rows
from kanzoo.study.stats import verdicts
from kanzoo.study.verdict import Verdict

SEEDS = 5


def study(differences: dict[tuple[str, str], np.ndarray], *, mode: str = "max") -> pd.DataFrame:
    """Runs of a baseline 'mlp' and of arms whose paired differences are given by (model, arm)."""
    sign = 1.0 if mode == "max" else -1.0
    rows = []
    for model in sorted({model for model, _ in differences}):
        arms = {arm: d for (m, arm), d in differences.items() if m == model}
        n = max(len(d) for d in arms.values())
        level = 0.9 + 0.02 * np.sin(np.arange(n))
        for arm, d in {"mlp": np.zeros(n), **arms}.items():
            rows += [
                {
                    "data": "digits", "model": model, "arm": arm, "match": "params", "seed": seed,
                    "status": "finished", "metric": "accuracy", "mode": mode,
                    "test": level[seed] + sign * d[seed], "params": 1000 if arm == "mlp" else 1010,
                    "flops": 2000 if arm == "mlp" else 3000, "step_time_ms": 1.0 + seed,
                    "peak_memory_mb": 10.0,
                }
                for seed in range(len(d))
            ]  # fmt: skip
    return pd.DataFrame(rows)


def estimates_of(d: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n = d.shape[1]
    return d.mean(1), d.std(1, ddof=1) / np.sqrt(n), np.full(len(d), n - 1.0)


def student_of(d: np.ndarray, margin: float = 0.0) -> inference.Tests:
    return inference.student(*estimates_of(d), margin)


def one(
    d: np.ndarray | list[float], tuned: tuple[str, ...] = ("mlp", "kan"), **options: float
) -> Verdict:
    settings = {"margin": 0.01, "n_resamples": 200, **options}
    results = study({("mlp1", "kan"): np.asarray(d, float)})
    results = results.assign(is_tuned=results["arm"].isin(tuned))
    return verdicts(results, "mlp", **settings)[0]


@pytest.mark.parametrize("offset", [-0.01, 0.01])
def test_false_equivalence_stays_at_the_level(offset):
    """A true difference of exactly the margin is called equivalent in at most alpha of cases."""
    d = np.random.default_rng(2).normal(offset, 0.004, (20_000, SEEDS))
    assert np.mean(student_of(d, 0.01).inside <= 0.05) <= 0.05 + 0.005


@pytest.mark.parametrize("offset", [-0.01, 0.01])
def test_beyond_the_margin_is_false_in_half_the_level(offset):
    """At exactly the margin only one of the two sides can err."""
    d = np.random.default_rng(2).normal(offset, 0.004, (20_000, SEEDS))
    assert np.mean(student_of(d, 0.01).beyond <= 0.05) == pytest.approx(0.025, abs=0.004)


@pytest.mark.parametrize(("n", "effect"), [(5, 1.5), (5, 2.5), (10, 1.0)])
def test_power_is_what_theory_says(n, effect):
    d = np.random.default_rng(3).normal(effect, 1.0, (4000, n))
    observed = np.mean(student_of(d).different <= 0.05)
    delta, critical = effect * np.sqrt(n), scipy_stats.t.ppf(0.975, n - 1)
    assert observed == pytest.approx(scipy_stats.nct.sf(critical, n - 1, delta), abs=0.025)


@pytest.mark.parametrize(("n", "level"), [(5, 0.05), (10, 0.01), (20, 0.05)])
def test_what_is_detectable_is_found_with_the_promised_power(n, level):
    se, df = np.array([1 / np.sqrt(n)]), np.array([n - 1.0])
    effect = inference.detectable(se, df, level)[0]
    delta, critical = effect * np.sqrt(n), scipy_stats.t.ppf(1 - level / 2, n - 1)
    power = scipy_stats.nct.sf(critical, n - 1, delta)
    assert power == pytest.approx(inference.POWER, abs=0.03)


def test_a_large_effect_is_found_through_the_whole_path():
    rng = np.random.default_rng(5)
    found = [one(rng.normal(0.05, 0.01, SEEDS)).direction for _ in range(50)]
    assert found.count("better") >= 45
    assert "worse" not in found


@pytest.mark.parametrize("n", [5, 7, 10])
@pytest.mark.parametrize("shape", ["normal", "uniform", "heavy"])
def test_intervals_cover(n, shape):
    rng = np.random.default_rng(6)
    draw = {
        "normal": rng.normal,
        "uniform": lambda size: rng.uniform(-1, 1, size),
        "heavy": lambda size: rng.standard_t(4, size),
    }[shape]
    d = draw(size=(1500, n))
    estimate = estimates_of(d)
    low, high = inference.interval(*estimate, 0.05)
    assert np.mean((low <= 0) & (high >= 0)) >= 0.93
    _, low, high = inference.bootstrap_t(d, *estimate[:2], np.zeros(1500), 0.05, n_resamples=600)
    assert np.mean((low <= 0) & (high >= 0)) >= 0.91


def test_differences_that_rounding_tells_apart_are_the_same():
    """Of scores that are rounded numbers, as accuracies are: no resample of them is a sure one."""
    d = np.array([[0.0, 0.0, 0.0, 0.01, -0.02]])
    rounded = d + 1e-9 * np.array([[1.0, -2.0, 3.0, 0.0, 1.0]])
    ends = [
        inference.bootstrap_t(e, *estimates_of(e)[:2], np.zeros(1), 0.05)[1:] for e in (d, rounded)
    ]
    np.testing.assert_allclose(ends[1], ends[0], atol=1e-6)
    assert np.isinf(ends[1][0])
    assert ends[1][1] < 0.1


def test_the_sign_flip_test_is_the_enumeration():
    d = np.random.default_rng(7).normal(0.5, 1, (3, 6))
    signs = np.array(np.meshgrid(*[[-1, 1]] * 6)).reshape(6, -1)
    flipped = np.abs(d @ signs) / 6
    exact = (flipped >= np.abs(d.mean(1))[:, None] - 1e-12).mean(1)
    np.testing.assert_allclose(inference.sign_flip(d), exact)


def test_holm_is_the_step_down_rule_and_counts_missing_rows():
    p = np.array([0.01, 0.04, 0.03, np.nan])
    np.testing.assert_allclose(inference.holm(p), [0.04, 0.09, 0.09, np.nan])


def test_rows_do_not_depend_on_their_neighbours_or_order():
    rng = np.random.default_rng(8)
    differences = {("a", arm): rng.normal(0, 0.01, SEEDS) for arm in ("kan", "rbf", "cheb")}
    frame = study(differences)
    shuffled = frame.sample(frac=1, random_state=0)
    by_arm = {v.arm: v for v in verdicts(shuffled, "mlp", margin=0.01, n_resamples=300)}
    for v in verdicts(frame, "mlp", margin=0.01, n_resamples=300):
        assert by_arm[v.arm] == v
        alone = one(differences["a", v.arm], n_resamples=300)
        assert (alone.bootstrap_low, alone.p_permutation) == (
            v.bootstrap_low,
            v.p_permutation,
        )


def test_where_smaller_is_better_the_sign_turns():
    d = np.array([0.05, 0.06, 0.055, 0.052, 0.058])
    frame = study({("m", "kan"): d}, mode="min")
    means = frame.groupby("arm")["test"].mean()
    assert means["kan"] < means["mlp"]
    (v,) = verdicts(frame, "mlp", margin=0.01, n_resamples=100)
    assert v.direction == "better"
    assert v.mean_difference == pytest.approx(d.mean())


def test_verdict_words():
    noise = np.array([-2, -1, 0, 1, 2]) * 1e-4
    assert one(0.05 + noise).verdict == "better, beyond the margin"
    assert one(-0.05 + noise).verdict == "worse, beyond the margin"
    assert one(noise).verdict == "equivalent"
    for some in ((), ("mlp",), ("kan",)):
        assert one(noise, tuned=some).verdict == "equivalent (recipe)"
    small = one(0.005 + noise)
    assert small.verdict == "equivalent"
    assert small.p_adjusted < 0.05
    assert "less than the margin" in small.note
    near = one(-0.011 + 10 * noise)
    assert (near.verdict, near.word) == ("worse, possibly negligible", "possibly negligible")
    assert near.ci_high < 0
    assert near.ci_high > -0.01
    open_row = one(noise * 100, tuned=())
    assert open_row.verdict == "undecided"
    assert open_row.detectable > 0.01
    wild = one([0.9, -0.8, 0.7, -0.9, 0.6])  # accuracies: no true difference is that large
    assert wild.word == "undecided"
    assert wild.detectable is None
    assert "no possible difference" in wild.note
    assert verdict_rows([wild])[0]["detectable"] == "none possible"


def test_too_few_seeds_never_decide():
    v = one([0.5, 0.51, 0.52, 0.5])
    assert (v.verdict, v.n_seeds) == ("undecided", 4)
    v = one([0.5])
    assert (v.verdict, v.p_value, v.ci_low) == ("undecided", None, None)


def test_equal_differences_fall_back_to_the_sign_flip_test():
    v = one([0.05] * 5)
    assert (v.method, v.verdict) == ("sign-flip", "undecided")
    assert v.p_value == v.p_permutation == pytest.approx(2 / 2**5)
    assert "do the seeds differ" in v.note
    assert one([0.05] * 6).verdict == "better, beyond the margin"
    same = one([0.0] * 5)
    assert (same.verdict, same.p_value, same.mean_difference) == ("equivalent", 1.0, 0.0)
    json.dumps(same.to_dict(), allow_nan=False)


@pytest.mark.parametrize("n", [5, 6])
def test_ties_among_differences_are_no_reason_to_warn(n):
    """Accuracies are multiples of 1 / items: differences are equal, or equal to their mean."""
    v = one([-0.01, 0.01] + [0.0] * (n - 2), n_resamples=10_000)
    assert v.bootstrap_low == pytest.approx(-v.bootstrap_high, rel=0.1)
    assert v.bootstrap_high > 0
    v = one([0.01] + [0.0] * (n - 1))
    assert (v.is_flagged, v.bootstrap_high, v.ci_high) == (True, None, None)


def test_failed_and_nan_runs_leave_the_pairs_but_stay_in_the_family():
    frame = study({("m", "kan"): np.array([0.05, 0.051, 0.052, 0.049, 0.05, 0.051]),
                   ("m", "dead"): np.zeros(6)})  # fmt: skip
    frame.loc[(frame.arm == "kan") & (frame.seed == 2), "test"] = np.nan
    frame.loc[frame.arm == "dead", "status"] = "failed"
    dead, kan = verdicts(frame, "mlp", margin=0.01, n_resamples=100)
    assert (kan.n_seeds, kan.n_failed, kan.direction) == (5, 1, "better")
    assert "1 finished run without accuracy: diverged" in kan.note
    assert kan.p_adjusted == pytest.approx(2 * kan.p_value)
    assert kan.mean_baseline == pytest.approx(0.9 + 0.02 * np.sin([0, 1, 3, 4, 5]).mean())
    assert (dead.n_seeds, dead.n_failed, dead.verdict) == (0, 6, "undecided")
    assert dead.params_ratio is None
    assert dead.mean_difference is None
    json.dumps([kan.to_dict(), dead.to_dict()], allow_nan=False)


def test_runs_that_wait_have_not_failed():
    frame = study({("m", "kan"): np.linspace(0.04, 0.05, 7)})
    frame.loc[(frame.arm == "kan") & (frame.seed > 4), "status"] = "waiting"
    frame.loc[(frame.arm == "kan") & (frame.seed == 0), "status"] = "failed"
    (v,) = verdicts(frame, "mlp", margin=0.01, n_resamples=50)
    assert (v.n_seeds, v.n_failed) == (4, 1)
    assert "2 seeds not run yet; 1 seed without a finished pair" in v.note


def test_seeds_beyond_the_last_complete_look_wait_for_the_next():
    """Verdicts do not depend on which seeds of the next look are ready."""
    d = np.random.default_rng(9).normal(0.02, 0.01, 10)
    frame = study({("mlp1", "kan"): d}).assign(family="primary")
    looks = Looks((5, 10), 10)
    early = verdicts(frame[frame["seed"] < 5], "mlp", margin=0.01, looks=Looks((5, 10), 5))
    for ready in (range(5), (0, 1, 2, 3, 4, 7, 9), range(9)):
        part = frame.copy()
        part.loc[~part["seed"].isin(ready), ["status", "test"]] = ["waiting", np.nan]
        (v,) = verdicts(part, "mlp", margin=0.01, looks=looks, first_seed=0)
        assert (v.look, v.next_look, v.n_seeds) == (1, 10, 5)
        assert (v.p_sequential, v.verdict) == (early[0].p_sequential, early[0].verdict)
        assert "the first 5 seeds decide" in v.note
        absent = frame[frame["seed"].isin(ready)]
        assert verdicts(absent, "mlp", margin=0.01, looks=looks)[0].n_seeds == 5
    (full,) = verdicts(frame, "mlp", margin=0.01, looks=looks)
    assert (full.look, full.n_seeds) == (2, 10)
    frame.loc[frame["seed"] == 3, ["status", "test"]] = ["failed", np.nan]
    (fewer,) = verdicts(frame, "mlp", margin=0.01, looks=looks)
    assert (fewer.look, fewer.n_seeds, fewer.n_failed) == (2, 9, 1)


def test_an_interval_is_open_where_too_many_resamples_are_equal():
    """Four equal differences and one beyond: nothing is known of that side."""
    v = one([0.01, 0.01, 0.01, 0.01, 0.02], margin=0.005, n_resamples=2000)
    assert v.is_flagged
    assert (v.ci_high, v.direction) == (None, "better")
    assert 0 < v.ci_low < v.ci_plain_low + 1e-12
    assert v.p_value == pytest.approx(scipy_stats.ttest_1samp([1, 1, 1, 1, 2], 0).pvalue)
    flat = one([0.0, 0.0, 0.0, 0.0, 0.001], margin=0.01, n_resamples=2000)
    assert flat.p_equivalence > 0.3, "Student's t alone would call it equivalent"
    assert flat.word == "undecided"


def test_ratios_are_of_medians_over_paired_seeds():
    frame = study({("m", "kan"): np.full(5, 0.01)})
    frame.loc[(frame.arm == "kan") & (frame.seed == 4), "step_time_ms"] = 1000.0
    frame["peak_memory_mb"] = 0.0
    (v,) = verdicts(frame, "mlp", margin=0.01, n_resamples=50)
    assert v.params_ratio == pytest.approx(1.01)
    assert v.flops_ratio == pytest.approx(1.5)
    assert v.step_time_ratio == pytest.approx(1.0)
    assert v.memory_ratio is None


def test_one_baseline_serves_every_budget_mode():
    frame = study({("m", "kan"): np.linspace(0.04, 0.05, 5)})
    more = frame[frame.arm == "kan"].assign(match="flops")
    frame.loc[frame.arm == "mlp", "match"] = "none"
    found = verdicts(pd.concat([frame, more]), "mlp", margin=0.01, n_resamples=50)
    assert [(v.match, v.n_seeds) for v in found] == [("flops", 5), ("params", 5)]


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"baseline": "mpl"}, r"baseline arm 'mpl'.*\['kan', 'mlp'\]"),
        ({"status": "done"}, {}, "status.*done.*finished"),
        ({"mode": "up"}, {}, "mode.*up.*min"),
        ({"seed": 0}, {}, "two runs"),
        ({}, {"alpha": 1.5}, r"alpha is 1\.5"),
        ({}, {"margin": -1.0}, r"margin is -1\.0"),
        ({}, {"n_resamples": 0}, "n_resamples is 0"),
    ],
)
def test_bad_input_is_named(change, options, message):
    frame = study({("m", "kan"): np.linspace(0, 0.01, 5)}).assign(**change)
    options = {"baseline": "mlp", "margin": 0.01, **options}
    with pytest.raises(ValueError, match=message):
        verdicts(frame, options.pop("baseline"), **options)


def test_missing_columns_and_mixed_metrics_are_named():
    frame = study({("m", "kan"): np.linspace(0, 0.01, 5)})
    with pytest.raises(ValueError, match="test"):
        verdicts(frame.drop(columns="test"), "mlp", margin=0.01)
    frame.loc[frame.arm == "kan", "metric"] = "loss"
    with pytest.raises(ValueError, match="digits/m/params/kan mixes metrics"):
        verdicts(frame, "mlp", margin=0.01)
