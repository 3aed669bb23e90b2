"""What happens around a training step: logging, divergence, timing, and the bare loop beside it."""

import csv
import math
import re
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import SMALL, Run, compose, folder_of
from torch import Tensor
from torch.utils._pytree import tree_map_only

from kanzoo.benchmark import loop
from kanzoo.errors import DivergedError
from kanzoo.rundir import RunDir
from kanzoo.training import progress
from kanzoo.training.loop import is_direct
from kanzoo.training.measure import StepTimer
from kanzoo.training.task import Task

WORDS = ["data.batch_size=32", "trainer.max_epochs=3"]  # four batches an epoch


def rows_of(folder: Path, column: str) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row[column]]


@pytest.mark.parametrize("accumulated", [1, 2])
def test_every_logged_step_is_written_once(
    train_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulated: int
) -> None:
    losses: dict[int, float] = {}  # of the last batch of every step
    plain = Task.training_step

    def recorded(self: Task, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        loss = plain(self, batch, index)
        losses[self.global_step + 1] = float(loss.detach())
        return loss

    monkeypatch.setattr(Task, "training_step", recorded)
    words = [*WORDS, "trainer.log_every_n_steps=3"]
    words.append(f"trainer.accumulate_grad_batches={accumulated}")
    train_run(*words)
    rows = rows_of(folder_of(*SMALL, *words, f"runs={tmp_path}"), "train/loss")
    logged = [step for step in losses if step % 3 == 0]
    assert len(losses) == 12 // accumulated
    assert [int(row["step"]) + 1 for row in rows] == logged
    for row in rows:
        assert float(row["train/loss"]) == pytest.approx(losses[int(row["step"]) + 1], rel=1e-6)


def state_and_rows(folder: Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """The last checkpoint as plain values, without the callbacks' paths and times, and all rows."""
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    del state["callbacks"]
    state = tree_map_only(Tensor, Tensor.tolist, state)
    with (folder / "metrics.csv").open(newline="") as file:
        return state, list(csv.DictReader(file))


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["trainer.precision=64-true", "trainer.gradient_clip_val=null", "model.dropout=0.2"],
        ["callbacks=grid", "callbacks.grid.update_every=3", "callbacks.regularise.lamb=0.01"],
    ],
    ids=["plain", "double", "grid"],
)
def test_steps_of_its_own_change_nothing(
    train_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    words = [*WORDS, "trainer.log_every_n_steps=3", "layers=kan", *words]
    states = []
    for name, direct in (("fast", True), ("slow", False)):
        asked: list[bool] = []

        def decide(trainer: Any, direct: bool = direct, asked: list[bool] = asked) -> bool:
            asked.append(is_direct(trainer))
            return direct and asked[-1]

        monkeypatch.setattr("kanzoo.training.loop.is_direct", decide)
        train_run(*words, f"name={name}")
        assert asked == [True] * 3
        states.append(state_and_rows(folder_of(*SMALL, *words, f"name={name}", f"runs={tmp_path}")))
    assert states[0] == states[1]


@pytest.mark.parametrize(
    "words",
    [
        ["trainer.accumulate_grad_batches=2", "data.batch_size=32"],
        ["optim=lbfgs", "data.batch_size=128", "trainer.max_epochs=1"],
    ],
)
def test_steps_that_are_more_than_one_pass_are_lightnings(
    train_run: Run, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(
        "kanzoo.training.loop.is_direct", lambda t: asked.append(is_direct(t)) or asked[-1]
    )
    train_run(*words)
    assert asked
    assert not any(asked)


def test_a_hook_inside_the_step_is_called(train_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(StepTimer, "on_after_backward", lambda *_: calls.append(1), raising=False)
    train_run(*WORDS)
    assert len(calls) == 12


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_one_bad_loss_stops_training_before_its_epoch_is_kept(
    train_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    plain = Task.training_step

    def bad_once(self: Task, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        loss = plain(self, batch, index)
        return loss.detach() * value + 0 * loss if self.global_step == 5 else loss  # no gradient

    monkeypatch.setattr(Task, "training_step", bad_once)
    with pytest.raises(DivergedError, match=f"became {value} in epoch 1, by step 8"):
        train_run(*WORDS)
    folder = folder_of(*SMALL, *WORDS, f"runs={tmp_path}")
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 0
    assert [int(row["epoch"]) for row in rows_of(folder, "val/accuracy")] == [0]


def test_the_timer_takes_a_sample_of_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10**6))
    monkeypatch.setattr("kanzoo.training.measure.time.perf_counter", lambda: float(next(clock)))
    timer, module = StepTimer(), SimpleNamespace(device=torch.device("cpu"))
    trainer: Any = None
    for index in range(200):
        timer.on_train_batch_start(trainer, module, None, index)  # type: ignore[arg-type]
        timer.on_train_batch_end(trainer, module, None, None, index)  # type: ignore[arg-type]
    assert timer.steps == [1.0] * (50 + 15)
    assert timer.step_ms() == 1000.0


def test_the_bar_is_drawn_ten_times_a_second_and_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = []
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    base = progress.RichProgressBar
    monkeypatch.setattr(base, "on_train_batch_end", lambda self, *args: drawn.append(args[-1]))
    bar = progress.ProgressBar()
    for index in range(100):
        now[0] += 0.01
        trainer: Any = SimpleNamespace(is_last_batch=index == 97)
        bar.on_train_batch_end(trainer, None, None, None, index)
    assert 10 <= len(drawn) <= 12
    assert 97 in drawn


@pytest.mark.parametrize(("seconds", "epochs"), [(0.0, [1, 2]), (30.0, [])])
def test_a_log_has_a_line_an_epoch_and_few_of_quick_ones(
    train_run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    seconds: float, epochs: list[int],
) -> None:  # fmt: skip
    monkeypatch.setattr(progress.ProgressLines, "SECONDS", seconds)
    monkeypatch.setattr(progress.ProgressLines, "on_train_batch_end", lambda *_: None)
    caplog.set_level("INFO", "kanzoo")
    train_run("callbacks.progress=true")
    lines = [line for line in caplog.messages if line.startswith("epoch ")]
    assert [int(line[6]) for line in lines] == epochs
    for line in lines:
        assert re.fullmatch(
            r"epoch \d/2, step [\d,]+(, \S+ [-\d.e]+)*, val/accuracy [\d.]+(, .*)?"
            r", 0:00:\d\d left", line
        ), line  # fmt: skip


def small(folder: Path) -> dict[str, Any]:
    return compose("train", [*SMALL, *WORDS, f"runs={folder}", "evaluation.test=false"])


def test_the_bare_loop_trains_the_same_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loops: list[loop.BareLoop] = []
    plain = loop.BareLoop.run_epoch

    def recorded(self: loop.BareLoop, epoch: int) -> loop.Epoch:
        loops.append(self)
        return plain(self, epoch)

    monkeypatch.setattr(loop.BareLoop, "run_epoch", recorded)
    config = small(tmp_path)
    row = asdict(loop.compare(config))
    assert (row["data"], row["logger"]) == ("digits", "csv")
    for name, value in row.items():
        assert isinstance(value, str) or (math.isfinite(value) and value > 0), name
    assert row["epoch_s"] > 4 * row["step_ms"] / 1e3  # validation comes on top
    *_, last = rows_of(RunDir.of(config).path, "val/accuracy")
    assert len(loops) == 3
    for name, value in loops[0].scores.items():
        assert float(last[f"val/{name}"]) == pytest.approx(value, rel=1e-5)


def test_lightning_alone_trains_the_same_network(tmp_path: Path) -> None:
    row = loop.compare_lightning(small(tmp_path))  # which refuses other weights
    assert (row.data, row.logger) == ("digits", "lightning")
    assert row.epoch_ratio > 0


def test_other_training_beside_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = loop.BareLoop.__init__

    def unclipped(self: loop.BareLoop, *args: Any) -> None:
        plain(self, *args)
        self.max_norm = 1e6

    monkeypatch.setattr(loop.BareLoop, "__init__", unclipped)
    with pytest.raises(RuntimeError, match="ended with other weights"):
        loop.compare(small(tmp_path))
