"""Test items: what runs keep, what statistics make of them, and which estimate decides."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Run

from kanzoo.study import variance
from kanzoo.study.decomposition import sums
from kanzoo.study.items import item_values
from kanzoo.study.pairs import pair_seeds
from kanzoo.study.results import judged, with_no_skill
from kanzoo.study.rows import estimates
from kanzoo.study.stats import verdicts
from kanzoo.training.evaluation import gather_items

OTHERS = {"ece", "loss", "forgetting", "learned"}  # of no single sample


@pytest.mark.parametrize(
    "words",
    [
        ("data=digits", "evaluation.noise=[0.5]"),
        ("data=diabetes",),
        ("data=functions", "data.n_test=300", "trainer.precision=64-true", "data.dtype=float64"),
        ("data=digits_denoise", "model=unet", "model.width=4", "model.depth=1"),
    ],
)
def test_metrics_are_the_means_of_what_is_kept(train_run: Run, tmp_path: Path, words) -> None:
    result = train_run(*words, "trainer.max_epochs=1", "seed=3")
    (path,) = tmp_path.rglob("items.npz")
    sizes = result["split"]
    assert sizes["train"] == 128
    for metric, score in result["test"].items():
        values = item_values(path, metric, score)
        if values is None:
            assert metric in OTHERS
            continue
        assert len(values) == sizes["test"]
        assert values.mean() == pytest.approx(score, rel=2e-5, abs=1e-6)
    for severity, scores in result.get("corrupted", {}).get("noise", {}).items():
        values = item_values(path, "accuracy", scores["accuracy"], f"noise_{severity}.")
        assert values is not None
        assert values.mean() == pytest.approx(scores["accuracy"], abs=1e-6)
    assert not list(path.parent.glob(".items*"))


def test_first_order_values_are_the_derivative(tmp_path: Path) -> None:
    """Twice the weight on one sample moves a root or an exponential by what its value says."""
    rng = np.random.default_rng(0)
    loss = rng.exponential(size=4000).astype(np.float32)
    np.savez(tmp_path / "items.npz", loss=loss, count=np.full(4000, 7))
    path, mean = tmp_path / "items.npz", float(loss.mean())
    for metric, function in {"rmse": np.sqrt, "perplexity": np.exp}.items():
        values = item_values(path, metric, float(function(mean)))
        more = function((loss.sum() + loss[5]) / 4001)
        assert values is not None
        moved = (values[5] - values.mean()) / 4001
        assert more - function(mean) == pytest.approx(moved, rel=0.01)


def test_shares_of_processes_come_back_in_the_order_of_the_split(monkeypatch) -> None:
    """Process r of 3 has the samples r, r + 3, ... of every batch."""
    batches = [torch.arange(0, 8), torch.arange(8, 13)]
    shares = [[{"loss": b[rank::3].numpy()} for b in batches] for rank in range(3)]

    def gather(every: list, mine: list) -> None:
        every[:] = shares

    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 3)
    monkeypatch.setattr("torch.distributed.all_gather_object", gather)
    found = gather_items([{"loss": b[0::3]} for b in batches])
    assert found["loss"].tolist() == list(range(13))


def test_two_way_variance_is_that_of_an_independent_computation() -> None:
    """Against expected mean squares: components of variance from plain sums."""
    d = np.random.default_rng(1).normal(size=(6, 9)) + np.arange(6)[:, None]
    d = d + 0.5 * np.arange(9)
    rows, columns = d.mean(1), d.mean(0)
    rest = d - rows[:, None] - columns + d.mean()
    residual = (rest**2).sum() / (5 * 8)
    seed = rows.var(ddof=1) - residual / 9
    item = columns.var(ddof=1) - residual / 6
    found = variance.over_seeds_and_items(d)
    assert found.mean == pytest.approx(d.mean())
    assert found.se**2 == pytest.approx(seed / 6 + item / 9 + residual / 54)
    ms = (9 * rows.var(ddof=1), 6 * columns.var(ddof=1), residual)
    df = (ms[0] + ms[1] - ms[2]) ** 2 / (ms[0] ** 2 / 5 + ms[1] ** 2 / 8 + ms[2] ** 2 / 40)
    assert found.df == pytest.approx(df)
    same = variance.over_seeds_and_items(np.repeat(d[:1], 6, axis=0))
    assert same.se == pytest.approx(d[0].std(ddof=1) / 3)  # equal seeds: the items alone
    blocks = variance.in_blocks(d[0], 4)
    assert (len(blocks), blocks.mean()) == (4, pytest.approx(d[0].mean()))


def runs(root: Path, test_set: str, *, seeds: int = 6, items: int = 80, gain: float = 0.0):
    """Runs whose scores are means over stored items, the same items for all seeds."""
    rng = np.random.default_rng(3)
    hard = rng.random(items)
    rows = []
    for arm, more in (("mlp", 0.0), ("kan", gain)):
        for seed in range(seeds):
            correct = rng.random(items) > 0.6 * hard - more
            path = root / f"{arm}{seed}.npz"
            np.savez(path, correct=correct, loss=np.zeros(items))
            rows.append(
                {"data": "d", "model": "m", "arm": arm, "match": "params", "seed": seed,
                 "status": "finished", "metric": "accuracy", "mode": "max", "no_skill": 0.1,
                 "test": correct.mean(), "test_set": test_set, "n_train": 160, "n_val": 40,
                 "n_test": items, "is_ordered": False, "items": str(path), "domain": "vision"}
            )  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("test_set", "method"),
    [
        ("official", "seeds and items"),
        ("fixed", "seeds and items"),
        ("resampled", "splits"),
        ("independent", "seeds"),
    ],
)
def test_the_origin_of_the_test_set_decides_the_estimate(tmp_path, test_set, method) -> None:
    (p,) = pair_seeds(runs(tmp_path, test_set), "mlp")
    decides, plain, corrected = estimates(p)
    assert decides.method == method
    assert (decides.mean, plain.mean) == (pytest.approx(p.differences.mean()),) * 2
    assert (corrected is not None) == (test_set in ("official", "resampled"))
    if method == "splits":
        assert decides.se == pytest.approx(p.differences.std(ddof=1) * np.sqrt(1 / 6 + 0.5))
    if method == "seeds and items":
        rows = p.item_rows()
        assert rows is not None
        table = np.stack(rows)
        np.testing.assert_allclose(table.mean(1), p.differences)
        assert decides.se**2 >= (table.mean(0).var(ddof=1) / 80) * (1 - 1e-9)
    (v,) = verdicts(runs(tmp_path, test_set), "mlp", margin=0.01, n_resamples=50)
    assert (v.method, v.n_test, v.test_set) == (method, 80, test_set)


def test_missing_items_are_said(tmp_path: Path) -> None:
    frame = runs(tmp_path, "official")
    (tmp_path / "kan2.npz").unlink()
    (v,) = verdicts(frame, "mlp", margin=0.01, n_resamples=50)
    assert v.method == "seeds"
    assert "test items is not in the interval" in v.note


def test_a_run_that_diverged_counts_as_one_without_skill(tmp_path: Path) -> None:
    frame = runs(tmp_path, "fixed", gain=0.3)
    better, _ = (verdicts(frame, "mlp", margin=0.01, n_resamples=200)[0], None)
    assert better.direction == "better"
    lost = (frame["arm"] == "kan") & (frame["seed"] < 3)
    frame.loc[lost, ["status", "test", "items"]] = ["diverged", 0.1, ""]
    (v,) = verdicts(frame, "mlp", margin=0.01, n_resamples=200)
    assert (v.n_seeds, v.n_diverged, v.n_diverged_baseline, v.n_failed) == (6, 3, 0, 0)
    assert v.is_flagged
    assert v.direction == ""
    assert v.mean_difference < 0
    assert "3 runs of kan" in v.note


def test_a_run_that_diverged_has_no_more_skill_than_its_own_data(tmp_path: Path) -> None:
    rows = [
        {"data": "functions", "model": model, "seed": seed, "status": status, "test": test,
         "test_mae": test, "no_skill": no_skill, "no_skill_mae": no_skill}
        for model, seed, status, test, no_skill in (
            ("near", 0, "finished", 0.1, 1.0), ("near", 1, "finished", 0.1, 3.0),
            ("near", 1, "diverged", None, None), ("near", 2, "diverged", None, None),
            ("far", 1, "finished", 0.1, 100.0), ("far", 1, "diverged", None, None),
            ("new", 1, "diverged", None, None),
        )
    ]  # fmt: skip
    table = with_no_skill(pd.DataFrame(rows))
    assert table.loc[table["status"] == "diverged", "test"].tolist() == [3.0, 2.0, 100.0, 3.0]
    assert table["test_mae"].equals(table["test"])


def test_an_arm_against_itself_is_never_better_or_worse(tmp_path: Path) -> None:
    """The same runs under another name, and other runs of the same."""
    frame = runs(tmp_path, "official")
    twin = frame[frame["arm"] == "mlp"]
    frame = pd.concat([frame, twin.assign(arm="twin"), twin.assign(arm="shuffled")])
    shuffled = frame["arm"] == "shuffled"
    order = np.random.default_rng(4).permutation(6)
    for column in ("test", "items"):
        frame.loc[shuffled, column] = twin[column].to_numpy()[order]
    found = {v.arm: v for v in verdicts(frame, "mlp", margin=0.01, n_resamples=200)}
    assert found["twin"].word == "equivalent"
    assert found["twin"].mean_difference == 0.0
    for arm in ("shuffled", "kan"):
        assert found[arm].direction == ""


def test_errors_that_span_decades_are_compared_by_their_ratio(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    rows = [
        {"data": "d", "model": "m", "arm": arm, "match": "params", "seed": seed, "metric": "rmse",
         "status": "finished", "mode": "min", "test": level * np.exp(0.1 * rng.normal())}
        for arm, level in (("mlp", 1e-2), ("kan", 1e-4), ("rbf", 9.9e-3))
        for seed in range(6)
    ]  # fmt: skip
    found = {v.arm: v for v in verdicts(pd.DataFrame(rows), "mlp", margin=0.1, n_resamples=200)}
    assert {v.scale for v in found.values()} == {"log ratio"}
    assert found["kan"].mean_difference == pytest.approx(np.log(100), abs=0.2)
    assert (found["kan"].direction, found["kan"].word) == ("better", "beyond the margin")
    assert found["kan"].margin == pytest.approx(np.log(1.1))
    assert found["kan"].mean_arm == pytest.approx(1e-4, rel=0.2)


def test_parts_of_a_difference_add_up() -> None:
    """Also where a run of one part is missing: then the seed counts for none."""
    rng = np.random.default_rng(7)
    levels = {"mlp": 0.0, "narrow": -0.3, "bare": -0.25, "kan": -0.1}
    rows = [
        {"data": "d", "model": "m", "arm": arm, "match": "params", "seed": seed, "mode": "max",
         "status": "finished", "metric": "accuracy", "test": level + 0.01 * rng.normal()}
        for arm, level in levels.items()
        for seed in range(7)
        if (arm, seed) != ("bare", 3)
    ]  # fmt: skip
    frame = pd.DataFrame(rows)
    parts = {"width": ("narrow", "mlp"), "place": ("bare", "narrow"), "basis": ("kan", "bare")}
    found = verdicts(frame, "mlp", margin=0.02, n_resamples=100, parts=parts)
    (row,) = sums(found, list(parts))
    assert [v.n_seeds for v in row["parts"]] == [6, 6, 6]
    scores = frame[frame["seed"] != 3].groupby("arm")["test"].mean()
    assert row["total"] == pytest.approx(scores["kan"] - scores["mlp"])
    width, _, basis = row["parts"]
    assert (width.direction, basis.direction) == ("worse", "better")
    assert basis.mean_difference == pytest.approx(scores["kan"] - scores["bare"])
    assert width.ci_low < -0.3 < width.ci_high


def test_contrasts_and_interactions_are_paired_by_seed(tmp_path: Path) -> None:
    """An arm that loses less along an axis, beside levels that favour neither."""
    rng = np.random.default_rng(6)
    rows = []
    for seed in range(8):
        common = rng.normal(scale=0.1)
        for arm, loss in (("mlp", 0.3), ("kan", 0.1), ("rbf", 0.3)):
            clean, noisy = (common + 0.004 * rng.normal() for _ in range(2))
            rows.append(
                {"data": "d", "model": "m", "arm": arm, "match": "params", "seed": seed,
                 "status": "finished", "metric": "accuracy", "mode": "max", "no_skill": -9.0,
                 "is_tuned": True, "test": clean, "test_noise_0.5": noisy - loss}
            )  # fmt: skip
    values, axes = judged(pd.DataFrame(rows), {})
    found = verdicts(
        values, "mlp", margin=0.02, axes=axes, n_resamples=200,
        against=[["kan", "rbf"]], changes={"severity": "0"},
    )  # fmt: skip
    rest = [v for v in found if v.contrast]
    assert {v.family for v in rest} == {"contrasts"}
    changes = {v.arm: v for v in rest if v.contrast == "change from severity 0"}
    assert changes["kan"].mean_difference == pytest.approx(0.2, abs=0.01)
    assert changes["kan"].verdict == "better, beyond the margin"
    assert changes["rbf"].word == "equivalent"
    pair = {v.axes["severity"]: v for v in rest if v.contrast == "against rbf"}
    assert (pair["0"].arm, pair["0"].baseline) == ("kan", "rbf")
    assert pair["0.5"].mean_difference == pytest.approx(0.2, abs=0.01)
    assert {v.family for v in found if not v.contrast} == {"primary", "secondary"}
