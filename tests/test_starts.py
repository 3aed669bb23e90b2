"""Several starts of a run, and the line where a fit misses its training data."""

import logging
from pathlib import Path

import pytest

from kanzoo.run import starts
from kanzoo.run.config import compose
from kanzoo.run.fit import make_task, train
from kanzoo.run.prepare import prepare
from kanzoo.rundir import RunDir

WORDS = [
    *("data=functions", "data.n_train=200", "data.n_val=50", "data.n_test=50", "model.widths=[2]"),
    *("data.batch_size=50", "model=mlp", "layers=kan", "model.norm=none", "match=none"),
    *("trainer.max_epochs=2", "logger=csv", "callbacks.progress=false"),
]


def test_the_best_start_is_trained_from_its_beginning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*WORDS, f"runs={tmp_path}", "callbacks.starts=3", "callbacks.start_epochs=1"]
    run = prepare(compose("train", words))
    run.dataset.load()
    with caplog.at_level(logging.INFO, logger="kanzoo"):
        best = starts.best_start(run)
    scores = [starts._score(run, start) for start in range(3)]
    assert best == scores.index(min(scores))
    assert f"number {best} goes on" in caplog.text
    first = [make_task(run, start).net.state_dict() for start in (0, best, 1, 2)]
    assert len({float(state["stem.weight"].sum()) for state in first}) == 3
    monkeypatch.setattr(starts, "best_start", lambda prepared: 2)
    alone = train(compose("train", words))
    monkeypatch.setattr(starts, "best_start", lambda prepared: 0)
    usual = train(compose("train", [*words, "name=other"]))
    plain = train(compose("train", [*WORDS, f"runs={tmp_path}"]))
    assert usual["val"] == plain["val"] != alone["val"]


def test_starts_are_part_of_what_a_run_is_only_where_there_are_several() -> None:
    folders = [
        RunDir.of(compose("train", [*WORDS, *words])).config_hash
        for words in ([], ["callbacks.start_epochs=3"], ["callbacks.starts=2"])
    ]
    assert folders[0] == folders[1] != folders[2]
    with pytest.raises(ValueError, match="one process"):
        prepare(compose("train", [*WORDS, "callbacks.starts=2", "trainer.devices=2"]))


def test_a_fit_far_above_the_noise_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(compose("train", [*WORDS, f"runs={tmp_path}"]))
    assert "misses its training data" in caplog.text
    assert "callbacks.starts" in caplog.text
    caplog.clear()
    noisy = [*WORDS, "data.noise=2.0", "trainer.max_epochs=20", f"runs={tmp_path}"]
    train(compose("train", noisy))
    assert "misses" not in caplog.text
