"""Seeds trained together: as separate runs, within rounding, whatever happens to one of them."""

import csv
import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import engine_study
import numpy as np
import pytest
import torch
from conftest import SMALL, compose

from kanzoo.errors import BusyError, DivergedError, SeparateError, Stopped
from kanzoo.run import seeds
from kanzoo.run.fit import train
from kanzoo.run.prepare import prepare
from kanzoo.rundir import RunDir
from kanzoo.study.comparison import build_engine, plan
from kanzoo.study.engines.local import groups_of_seeds
from kanzoo.study.results import collect
from kanzoo.training.data import SeedsLoader
from kanzoo.training.seeds import SeedsTask, stacked

WORDS = (*SMALL, "data.batch_size=32", "trainer.log_every_n_steps=3", "trainer.precision=64-true")
KAN = ("layers=kan_activated", "basis=bspline")


def configs(runs: Path, *words: str, count: int = 3) -> list[dict[str, Any]]:
    config = compose("train", [*WORDS, *words, f"runs={runs}"])
    return [{**config, "seed": seed} for seed in range(count)]


def network(config: dict[str, Any], name: str) -> dict[str, torch.Tensor]:
    path = RunDir.of(config).path / "checkpoints" / f"{name}.ckpt"
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


def assert_same_runs(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """What two runs have written is the same within rounding, their times aside."""
    folders = [RunDir.of(config).path for config in (ours, theirs)]
    files = [{p.name for p in folder.rglob("*") if p.is_file()} for folder in folders]
    assert files[0] == files[1]
    for name in ("best", "last"):
        states = [network(config, name) for config in (ours, theirs)]
        assert states[0].keys() == states[1].keys()
        for key, value in states[1].items():
            torch.testing.assert_close(states[0][key], value, rtol=1e-7, atol=1e-9)
    tables = [list(csv.DictReader((f / "metrics.csv").read_text().splitlines())) for f in folders]
    assert [list(row) for row in tables[0]] == [list(row) for row in tables[1]]
    for row, other in zip(*tables, strict=True):
        for name, value in other.items():
            assert row[name] == value or float(row[name]) == pytest.approx(
                float(value), rel=1e-3, abs=1e-4
            )
    items = [np.load(f / "items.npz") for f in folders]
    np.testing.assert_allclose(items[0]["loss"], items[1]["loss"], rtol=1e-3, atol=1e-4)
    results = [json.loads((f / "result.json").read_text()) for f in folders]
    times = {"step_time_ms", "samples_per_second", "train_seconds"}
    assert results[0].keys() - {"vectorised"} == results[1].keys()
    for key, value in results[1].items():
        if key in ("val", "test"):
            assert results[0][key] == pytest.approx(value, rel=1e-3, abs=1e-4)
        elif key == "outside_grid":
            assert results[0][key] == pytest.approx(value, abs=1e-3)
        elif key not in times:
            assert results[0][key] == value, key
    assert all(results[0][key] is None for key in times)


@pytest.mark.parametrize(
    ("words", "is_vmapped"),
    [
        (("layers=mlp",), True),
        (("layers=mlp", "model.norm=batch", "optim=sgd", "training_set.label_noise=0.2"), True),
        (KAN, False),
        (("layers=kan", "basis=random", "trainer.accumulate_grad_batches=2"), False),
    ],
)
def test_seeds_together_are_as_separate_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], is_vmapped: bool
) -> None:
    ways = []
    plain = SeedsTask.on_validation_epoch_end

    def recorded(self: SeedsTask) -> None:
        ways.append(self.is_vmapped)
        plain(self)

    monkeypatch.setattr(SeedsTask, "on_validation_epoch_end", recorded)
    together, alone = configs(tmp_path / "a", *words), configs(tmp_path / "b", *words)
    assert seeds.train_seeds(together) == [None] * 3
    assert ways == [is_vmapped] * 2  # epochs
    for ours, theirs in zip(together, alone, strict=True):
        train(theirs)
        assert_same_runs(ours, theirs)
    before = [RunDir.of(config).path.joinpath("result.json").stat().st_mtime for config in together]
    assert seeds.train_seeds(together) == [None] * 3
    after = [RunDir.of(config).path.joinpath("result.json").stat().st_mtime for config in together]
    assert before == after  # finished before


def test_batches_and_initial_weights_are_those_of_separate_runs(tmp_path: Path) -> None:
    runs = [prepare(config) for config in configs(tmp_path)]

    def loaders() -> list[Any]:
        cpu = torch.device("cpu")
        return [run.dataset.loaders(seed=run.config.seed, device=cpu).train for run in runs]

    together, alone = SeedsLoader(loaders()), loaders()
    for epoch in (0, 3):
        together.set_epoch(epoch)
        for loader in alone:
            loader.sampler.set_epoch(epoch)
        for ours, theirs in zip(together, zip(*alone, strict=True), strict=True):
            for (x, y), (x_alone, y_alone) in zip(ours, theirs, strict=True):
                assert torch.equal(x, x_alone)
                assert torch.equal(y, y_alone)
        assert not torch.equal(ours[0][0], ours[1][0])
    nets = [run.plan.build(run.config.seed) for run in runs]
    weights = [{k: v.clone() for k, v in net.state_dict().items()} for net in nets]
    for name, values in stacked(nets).state_dict().items():
        for value, weight, net in zip(values, weights, nets, strict=True):
            assert torch.equal(value, weight[name])
            assert torch.equal(net.state_dict()[name], weight[name])


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["callbacks=grid", "layers=kan"], "callbacks.grid"),
        (["callbacks.patience=3"], "callbacks.patience"),
        (["trainer.precision=bf16-mixed"], "trainer.precision"),
        (["trainer.devices=2"], "trainer.devices"),
        (["optim=lbfgs", "data.batch_size=128"], "optim"),
        (["training_set.phases=2"], "training_set.phases"),
        (["model.width=2000"], "parameters"),
        (["model.dropout=0.1"], "random numbers"),
    ],
)
def test_what_must_be_trained_separately_is_refused_with_the_reason(
    tmp_path: Path, words: list[str], reason: str
) -> None:
    ends = seeds.train_seeds(configs(tmp_path, "layers=mlp", *words, count=2))
    assert len(ends) == 2
    for end in ends:
        assert isinstance(end, SeparateError)
        assert reason in str(end)
    assert not list(tmp_path.rglob("config.yaml"))


@pytest.mark.parametrize("words", [("layers=mlp",), KAN])
def test_a_seed_that_diverges_leaves_the_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    plain = seeds.make_task

    def broken(prepared: Any) -> Any:
        task = plain(prepared)
        if prepared.config.seed == 1:
            next(task.net.parameters()).data.fill_(math.inf)
        return task

    monkeypatch.setattr(seeds, "make_task", broken)
    together, alone = configs(tmp_path / "a", *words), configs(tmp_path / "b", *words)
    first, diverged, last = seeds.train_seeds(together)
    assert (first, last) == (None, None)
    assert isinstance(diverged, DivergedError)
    assert "epoch 0, by step 3" in str(diverged)
    assert RunDir.of(together[1]).result() is None
    for seed in (0, 2):
        train(alone[seed])
        assert_same_runs(together[seed], alone[seed])


def test_a_group_that_is_killed_as_it_writes_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed, undisturbed = configs(tmp_path / "a"), configs(tmp_path / "b")
    plain = seeds.write_result

    def kill(folder: RunDir, *args: Any, **further: Any) -> Any:
        if folder.path.name == "seed1":
            raise KeyboardInterrupt
        return plain(folder, *args, **further)

    monkeypatch.setattr(seeds, "write_result", kill)
    with pytest.raises(KeyboardInterrupt):
        seeds.train_seeds(killed)
    assert [RunDir.of(config).result() is not None for config in killed] == [False, False, True]
    monkeypatch.undo()
    with RunDir.of(killed[1]).lock():
        first, busy, last = seeds.train_seeds(killed)  # goes on in the company that it had
    assert (first, last) == (None, None)
    assert isinstance(busy, BusyError)
    (alone,) = seeds.train_seeds(killed[1:2])
    assert isinstance(alone, SeparateError)
    train(killed[1])  # anew, from nothing that was left
    assert seeds.train_seeds(undisturbed) == [None] * 3
    for seed in (0, 2):
        assert_identical(killed[seed], undisturbed[seed])
    assert_same_runs(undisturbed[1], killed[1])


def assert_identical(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """What two runs have written is the same, to the last bit."""
    folders = [RunDir.of(config).path for config in (ours, theirs)]
    files = [{p.name for p in folder.rglob("*") if p.is_file()} for folder in folders]
    assert files[0] == files[1]
    one, other = ((folder / "metrics.csv").read_text() for folder in folders)
    assert one == other
    results = [json.loads((folder / "result.json").read_text()) for folder in folders]
    assert results[0] == results[1]
    for name in ("best", "last"):
        for key, value in network(theirs, name).items():
            assert torch.equal(network(ours, name)[key], value)


@pytest.mark.parametrize(
    ("words", "at"), [(("layers=mlp", "model.norm=batch"), 2), (KAN, 6), (("layers=mlp",), -3)]
)
def test_seeds_that_are_stopped_go_on_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], at: int
) -> None:
    stopped, undisturbed = configs(tmp_path / "a", *words), configs(tmp_path / "b", *words)
    plain, seen = SeedsTask.training_step, []

    def step(self: SeedsTask, batches: Any, index: int) -> torch.Tensor:
        seen.append(index)
        if len(seen) == abs(at) + 1:
            if at < 0:  # as if killed
                raise RuntimeError("killed")
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, batches, index)

    monkeypatch.setattr(SeedsTask, "training_step", step)
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_DFL)
    if at < 0:
        stopped = [
            {**c, "callbacks": {**c["callbacks"], "checkpoint_minutes": 1e-9}} for c in stopped
        ]
    with pytest.raises((Stopped, RuntimeError)):
        seeds.train_seeds(stopped)
    assert seeds.train_seeds(stopped) == [None] * 3
    taken = len(seen) - (at < 0)  # none twice but the one that was killed
    assert seeds.train_seeds(undisturbed) == [None] * 3
    assert taken == len(seen) - taken - (at < 0)
    for config, other in zip(stopped, undisturbed, strict=True):
        assert_identical(config, other)


def test_no_worker_is_without_seeds(tmp_path: Path) -> None:
    cells = plan(engine_study.configured(tmp_path, seeds=10))  # two arms
    for workers, sizes in ((1, [5] * 4), (2, [5] * 4), (10, [2] * 10), (50, [1] * 20)):
        groups = groups_of_seeds(cells, workers)
        assert [len(group) for group in groups] == sizes
        assert sorted(c.title for g in groups for c in g) == sorted(c.title for c in cells)
        assert all(len({cell.arm for cell in group}) == 1 for group in groups)


@pytest.mark.slow
def test_an_engine_trains_seeds_together_where_it_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arms = {"mlp": ["layers=mlp"], "kan": ["layers=kan"], "moved": ["layers=kan", "callbacks=grid"]}
    words = ("engine.vectorise=true", "engine.workers=1")
    config = engine_study.configured(tmp_path, *words, arms=arms, seeds=2)
    cells = plan(config)
    ends: dict[str, str] = {}
    with build_engine(config).session(len(cells), tmp_path, train) as session:
        session.run(cells, lambda cell, reason: ends.setdefault(cell.title, reason))
    assert list(ends.values()) == [""] * 6
    table = collect(cells, tmp_path).set_index("arm")
    assert table["step_time_ms"].isna().to_dict() == {"mlp": True, "kan": True, "moved": False}
    (line,) = caplog.messages
    assert "moved" in line
    assert "callbacks.grid" in line
