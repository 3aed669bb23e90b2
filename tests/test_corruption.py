"""Corruption of test inputs, and the scores that a run keeps of it."""

import json
from pathlib import Path

import pytest
import torch
from conftest import Run, compose

from kanzoo.data.corruption import CORRUPTIONS, IMAGES, check_corruptions, make_corruption
from kanzoo.run.prepare import prepare
from kanzoo.training.evaluation import forgetting

LEVELS = {"noise": 0.5, "contrast": 0.5, "blur": 0.8, "occlusion": 0.4}


def images(channels: int = 2) -> torch.Tensor:
    return torch.randn(6, channels, 8, 10, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_corruption_is_fixed_and_grows_with_its_severity(kind: str) -> None:
    x = images()
    before = torch.random.get_rng_state()
    once, again = (make_corruption(kind, LEVELS[kind])(x, 3) for _ in range(2))
    assert torch.equal(once, again)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(x, images()), "the input must stay"
    small, large = (make_corruption(kind, s * LEVELS[kind])(x, 0) for s in (0.3, 1.6))
    assert 0 < (small - x).norm() < (large - x).norm()


def test_severities_mean_what_they_say() -> None:
    x = images()
    assert (make_corruption("noise", 2.0)(torch.zeros(400, 1, 8, 8), 0)).std() == pytest.approx(
        2.0, rel=0.02
    )
    flat = make_corruption("contrast", 1.0)(x, 0)
    torch.testing.assert_close(flat, x.flatten(1).mean(1).view(-1, 1, 1, 1).expand_as(x))
    hidden = make_corruption("occlusion", 0.5)(x, 0) == 0
    assert (hidden.sum((1, 2, 3)) == 2 * 4 * 5).all()
    rows = hidden.any(dim=(1, 3)).sum(1), hidden.any(dim=(1, 2)).sum(1)
    assert set(rows[0].tolist()) == {4}
    assert set(rows[1].tolist()) == {5}
    constant = torch.full((2, 3, 8, 8), 1.7)
    torch.testing.assert_close(make_corruption("blur", 1.0)(constant, 0), constant)
    point = torch.zeros(1, 1, 21, 21)
    point[..., 10, 10] = 1.0
    spread = make_corruption("blur", 2.0)(point, 0)
    assert spread.sum() == pytest.approx(1.0, abs=1e-5)
    distance = (torch.arange(21.0) - 10).square()
    assert (spread.sum((0, 1, 3)) * distance).sum() == pytest.approx(4.0, rel=0.05)


@pytest.mark.parametrize("kind", [k for k in CORRUPTIONS if k not in IMAGES])
@pytest.mark.parametrize("shape", [(4, 7), (4, 5, 3)])
def test_tables_and_sequences_can_be_corrupted(kind: str, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    assert make_corruption(kind, 0.5)(x, 0).shape == x.shape


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["evaluation.noise=[0]"], "evaluation.noise"),
        (["evaluation.noise=[x]"], "evaluation.noise"),
        (["evaluation.contrast=[1.5]"], "at most 1"),
        (["evaluation.noise=[1.0,1.0]"], "twice"),
        (["evaluation.noise=[1.0]", "evaluation.test=false"], "needs the test set"),
        (["training_set.phases=2", "evaluation.test=false"], "needs the test set"),
        (["training_set.phases=3", "trainer.max_epochs=4"], "multiple of training_set.phases"),
        (["training_set.phases=2", "callbacks.patience=2"], "callbacks.patience"),
        (["training_set.fraction=0.0"], "training_set.fraction"),
        (["budget=0"], "budget"),
        (["budget=1000", "match=none"], "match=none"),
    ],
)
def test_impossible_evaluations_are_refused(words: list[str], hint: str) -> None:
    with pytest.raises(ValueError, match=r"\w") as refusal:
        prepare(compose("train", words))
    assert hint in str(refusal.value)


def test_blur_is_for_images() -> None:
    with pytest.raises(ValueError, match=r"evaluation.blur is for images"):
        check_corruptions({"blur": [1.0]}, (7,))


def test_forgetting_is_the_share_of_what_was_learned() -> None:
    scores = [[0.9, 0.1, 0.0], [0.5, 0.8, 0.1], [0.2, 0.6, 0.95]]
    lost, learned = forgetting(scores, [0.3, 0.4, 0.5], "max")
    # Beyond a constant answer 0.6 and 0.4 were learned of the first two; -0.1 and 0.2 are left.
    assert lost == pytest.approx(((1 + 0.1 / 0.6) + (1 - 0.2 / 0.4)) / 2)
    assert learned == 1
    errors = [[1 - s for s in row] for row in scores]
    assert forgetting(errors, [0.7, 0.6, 0.5], "min") == pytest.approx((lost, learned))


def test_what_was_not_learned_is_not_forgotten() -> None:
    errors = [[0.1, 1.0, 1.0], [0.3, 0.45, 1.0], [0.4, 0.6, 0.1]]
    lost, learned = forgetting(errors, [0.5, 0.5, 0.5], "min")  # the second: 0.05 of 0.5
    assert lost == pytest.approx(1 - 0.1 / 0.4)
    assert learned == pytest.approx(2 / 3)
    nothing = [[0.5] * 3] * 3
    assert forgetting(nothing, [0.5] * 3, "min") == (None, 0)
    assert forgetting([[0.9, 0.9], [0.9, 0.1]], [0.5, 0.5], "min") == (None, 0.5)


def test_a_run_keeps_its_scores_on_corrupted_inputs(train_run: Run) -> None:
    plain = train_run("evaluation.test=true")
    result = train_run("evaluation.noise=[0.5,3]", "evaluation.blur=[1.0]")
    assert plain["test"] == result["test"], "the clean test is the same"
    assert {"loss", "accuracy", "ece"} <= set(result["test"])
    assert {k: list(v) for k, v in result["corrupted"].items()} == {
        "noise": ["0.5", "3"],
        "blur": ["1"],
    }
    assert result["corrupted"]["noise"]["3"]["loss"] != result["test"]["loss"]
    assert "corrupted" not in plain


def test_a_run_without_a_test_never_sees_it(
    train_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kanzoo.training.data import DataModule

    def refuse(self: DataModule) -> None:
        raise AssertionError("the test set was asked for")

    monkeypatch.setattr(DataModule, "test_dataloader", refuse)
    result = train_run("evaluation.test=false")
    assert result["test"] is None
    assert result["val"]["accuracy"] > 0


def test_phases_are_scored_by_part_also_over_an_interruption(
    train_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kanzoo.training.evaluation import PhaseScores

    words = ("training_set.phases=2", "trainer.max_epochs=4", "sched=constant")
    words += ("data.batch_size=8", "data.limit_train=512", "optim.lr=0.005")
    whole = train_run(*words)
    assert [len(row) for row in whole["phases"]] == [2, 2]
    first, last = whole["phases"]
    assert first[0] > first[1], "only the first half of the classes was shown"
    assert last[1] > last[0]
    constant = whole["phases_constant"][0]
    assert constant == pytest.approx(0.2, abs=0.05), "of five classes that are equally frequent"
    share = 1 - (last[0] - constant) / (first[0] - constant)
    assert whole["test"]["forgetting"] == pytest.approx(share)
    assert whole["test"]["learned"] == 1

    (path,) = tmp_path.rglob("result.json")
    calls: list[int] = []
    score = PhaseScores.on_validation_epoch_end

    def stop(self: PhaseScores, trainer: object, module: object) -> None:
        calls.append(trainer.current_epoch)  # type: ignore[attr-defined]
        if len(calls) == 3:
            raise RuntimeError("power cut")
        score(self, trainer, module)  # type: ignore[arg-type]

    monkeypatch.setattr(PhaseScores, "on_validation_epoch_end", stop)
    with pytest.raises(RuntimeError, match="power cut"):
        train_run(*words, "name=cut")
    result = train_run(*words, "name=cut")
    assert calls[2:4] == [2, 2], "it went on where it was"
    assert result["phases"] == json.loads(path.read_text())["phases"]
