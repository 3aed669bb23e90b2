"""Checkpoints that are never half, and training that goes on from them as if nothing had happened.

The reference is always the same run left alone: weights, scores and metrics are equal bit for bit.
"""

import csv
import errno
import io
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run, command, compose, environment
from fuzzing import in_process
from torch import Tensor

from kanzoo.errors import Stopped
from kanzoo.files import seal, unseal, write_atomic
from kanzoo.run.fit import train
from kanzoo.train import main
from kanzoo.training.loggers import MetricsCSV
from kanzoo.training.task import Task

QUIET = ("logger=csv", "callbacks.progress=false", "match=none")
DIGITS = (*QUIET, "data=digits", "data.limit_train=128", "data.batch_size=32", "model=mlp")
EXACT = (
    *(*QUIET, "data=functions", "data.function=exp_sin", "data.n_train=160", "model=mlp"),
    *("data.dtype=float64", "trainer.precision=64-true", "model.width=5", "model.norm=none"),
)
GRIDS = (
    *("callbacks=grid", "callbacks.grid.update_every=3", "callbacks.grid.update_until=5"),
    "callbacks.grid.refine=[[2,7],[3,9]]",
)
RECIPES = {  # of 4 to 8 batches an epoch
    "dropout": (*DIGITS, "model.width=16", "model.dropout=0.2", "data.augment=true"),
    "accumulation": (*DIGITS, "model.width=16", "trainer.accumulate_grad_batches=2"),
    "batchnorm": (*DIGITS, "model=resnet", "model.width=4", "layers=mlp", "data.augment=true"),
    "grids": (*EXACT, *GRIDS, "data.batch_size=40", "optim=adam", "callbacks.patience=1"),
    "remapped": (*EXACT, *GRIDS, "data.batch_size=40", "callbacks.grid.optimizer_state=remap"),
    "phases": (*DIGITS, "model.width=16", "training_set.phases=2", "data.limit_train=256"),
    "pictures": (*DIGITS, "model.width=8", "callbacks.pictures.every=1", "model.dropout=0.2"),
    "lbfgs": (*EXACT, *GRIDS, "data.batch_size=160", "optim=lbfgs", "trainer.max_epochs=5"),
}
Patch = pytest.MonkeyPatch


def run(root: Path, name: str, *words: str) -> tuple[dict[str, Any], Path]:
    epochs = [] if any("max_epochs" in word for word in RECIPES[name]) else ["trainer.max_epochs=4"]
    result = train(compose("train", [*RECIPES[name], *epochs, *words, f"runs={root}"]))
    (folder,) = root.glob("train/*/*/seed0")
    return result, folder


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def tensors(folder: Path, name: str) -> dict[str, Tensor]:
    state = torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
    return dict(state["state_dict"])


def files(folder: Path) -> list[str]:
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(names)


def assert_same(first: tuple[dict[str, Any], Path], second: tuple[dict[str, Any], Path]) -> None:
    for key in ("val", "test", "epochs", "params", "phases"):
        assert first[0].get(key) == second[0].get(key)
    assert rows(first[1]) == rows(second[1])
    assert files(first[1]) == files(second[1])
    for name in ("best", "last"):
        one, other = tensors(first[1], name), tensors(second[1], name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


class Cut(Exception):
    """Stands for a power failure: nothing that could save state is run on purpose."""


def at(patch: Patch, method: str, count: int, action: Callable[[], None]) -> None:
    """Do something in the so-many-th call of a step of the task."""
    plain, calls = getattr(Task, method), iter(range(10**9))

    def step(self: Task, batch: Any, index: int) -> Any:
        if next(calls) == count:
            action()
        return plain(self, batch, index)

    patch.setattr(Task, method, step)


def cut() -> None:
    raise Cut


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """The undisturbed run of a recipe, once."""
    known: dict[str, Any] = {}

    def get(name: str) -> Any:
        if name not in known:
            known[name] = run(tmp_path_factory.mktemp("alone"), name)
        return known[name]

    return get


# --- going on ------------------------------------------------------------------------------------

SIGNALS = {  # the first of each is a fast test
    "dropout": [("training_step", 7), ("training_step", 6), ("validation_step", 1)],
    "accumulation": [("training_step", 9), ("training_step", 4)],
    "batchnorm": [("training_step", 5)],
    "grids": [("validation_step", 2), ("training_step", 5), ("training_step", 9)],
    "remapped": [("training_step", 13)],
    "phases": [("training_step", 6), ("validation_step", 3)],
    "pictures": [("validation_step", 2), ("training_step", 2)],
    "lbfgs": [("training_step", 60), ("validation_step", 2)],
}


@pytest.mark.parametrize(
    ("name", "method", "count"),
    [
        pytest.param(name, *point, marks=pytest.mark.slow if index else ())
        for name, points in SIGNALS.items()
        for index, point in enumerate(points)
    ],
)
def test_a_run_that_a_signal_stops_ends_as_if_left_alone(
    tmp_path: Path, monkeypatch: Patch, alone: Callable[[str], Any],
    name: str, method: str, count: int,
) -> None:  # fmt: skip
    reference = alone(name)
    with monkeypatch.context() as patch:
        at(patch, method, count, lambda: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(Stopped, match=r"stopped by SIGTERM in epoch .* saved") as end:
            run(tmp_path, name)
    assert end.value.code == 128 + signal.SIGTERM
    torch.manual_seed(99)  # the next process starts with another state
    resumed = run(tmp_path, name)
    assert_same(resumed, reference)


@pytest.mark.parametrize(("name", "step"), [("dropout", 9), ("grids", 11), ("accumulation", 11)])
def test_checkpoints_by_time_lose_a_batch_at_most(
    tmp_path: Path, monkeypatch: Patch, alone: Callable[[str], Any], name: str, step: int
) -> None:
    words = ("callbacks.checkpoint_minutes=1e-9",)
    seen: list[int] = []
    with monkeypatch.context() as patch:
        at(patch, "training_step", step, cut)
        with pytest.raises(Cut):
            run(tmp_path, name, *words)
    with monkeypatch.context() as patch:
        plain = Task.training_step

        def counted(self: Task, batch: Any, index: int) -> Tensor:
            seen.append(index)
            return plain(self, batch, index)

        patch.setattr(Task, "training_step", counted)
        resumed = run(tmp_path, name, *words)
    batches = 4
    accumulated = 2 if name == "accumulation" else 1
    assert seen[0] == step % batches // accumulated * accumulated
    assert_same(resumed, alone(name))


def test_slurms_signal_saves_and_queues_the_job_again(
    tmp_path: Path, monkeypatch: Patch, alone: Callable[[str], Any]
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "scontrol").write_text(f"#!/bin/sh\necho $@ >> {tmp_path}/asked\n")
    (tools / "scontrol").chmod(0o755)
    words = [*RECIPES["dropout"], "trainer.max_epochs=4", f"runs={tmp_path / 'runs'}"]
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
        patch.setenv("SLURM_JOB_ID", "17")
        at(patch, "training_step", 5, lambda: signal.raise_signal(signal.SIGUSR1))
        outcome = in_process(main, words, tmp_path)
    assert outcome.code == 128 + signal.SIGUSR1
    assert outcome.error.strip().splitlines() == [
        "kanzoo: stopped by SIGUSR1 in epoch 1, step 6, which is saved; "
        "the same command goes on from here"
    ]
    assert (tmp_path / "asked").read_text() == "requeue 17\n"
    assert_same(run(tmp_path / "runs", "dropout"), alone("dropout"))


# --- what is damaged -----------------------------------------------------------------------------


def damage(path: Path, kind: str) -> None:
    content = bytearray(path.read_bytes())
    if kind == "flipped":
        content[len(content) // 3] ^= 16
    changed = {
        "flipped": bytes(content),
        "cut": bytes(content[: len(content) // 2]),
        "short": bytes(content[:-1]),
        "empty": b"",
        "foreign": b"PK\x03\x04 of something else",
    }
    path.write_bytes(changed[kind])


DAMAGES = {  # every kind once: what is noticed does not depend on which file it is
    "last": ["flipped", "empty"],
    "both": ["short", "foreign"],
    "best": ["cut"],
}


@pytest.mark.parametrize(
    ("which", "kind"), [(which, kind) for which, kinds in DAMAGES.items() for kind in kinds]
)
def test_a_damaged_checkpoint_is_passed_over_with_a_line(
    tmp_path: Path, monkeypatch: Patch, caplog: pytest.LogCaptureFixture,
    alone: Callable[[str], Any], kind: str, which: str,
) -> None:  # fmt: skip
    monkeypatch.setattr("kanzoo.training.checkpoints.SYNC_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        at(patch, "training_step", 13, cut)
        with pytest.raises(Cut):
            run(tmp_path, "dropout")
    (folder,) = tmp_path.glob("train/*/*/seed0")
    names = {"last": ["last"], "both": ["last", "previous"], "best": ["best"]}[which]
    for name in names:
        damage(folder / "checkpoints" / f"{name}.ckpt", kind)
    resumed = run(tmp_path, "dropout")
    (line,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert f"{names[0]}.ckpt is damaged" in line
    assert line.endswith("the checkpoint before it" if which == "last" else "starts anew")
    assert_same(resumed, alone("dropout"))


def test_the_checkpoint_of_another_run_is_not_gone_on_from(
    tmp_path: Path, monkeypatch: Patch, caplog: pytest.LogCaptureFixture,
    alone: Callable[[str], Any],
) -> None:  # fmt: skip
    with monkeypatch.context() as patch:
        at(patch, "training_step", 1, cut)
        with pytest.raises(Cut):
            run(tmp_path, "dropout")
    (folder,) = tmp_path.glob("train/*/*/seed0")
    other = alone("accumulation")[1]
    for name in ("best", "last"):
        content = (other / "checkpoints" / f"{name}.ckpt").read_bytes()
        (folder / "checkpoints" / f"{name}.ckpt").write_bytes(content)
    resumed = run(tmp_path, "dropout")
    assert "belongs to another run; training starts anew" in caplog.text
    assert_same(resumed, alone("dropout"))


def test_a_run_goes_on_in_another_folder(
    tmp_path: Path, monkeypatch: Patch, alone: Callable[[str], Any]
) -> None:
    with monkeypatch.context() as patch:
        at(patch, "training_step", 13, cut)
        with pytest.raises(Cut):
            run(tmp_path / "here", "dropout")
    (tmp_path / "here").rename(tmp_path / "there")
    assert_same(run(tmp_path / "there", "dropout"), alone("dropout"))


def test_every_bit_of_a_sealed_file_counts() -> None:
    buffer = io.BytesIO()
    torch.save({"a": torch.arange(3)}, buffer)
    archive, sealed = buffer.getvalue(), seal(buffer.getvalue())
    assert unseal(sealed) == archive
    assert torch.load(io.BytesIO(sealed), weights_only=True)["a"].tolist() == [0, 1, 2]
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1 << place % 8
        with pytest.raises(ValueError, match=r"checksum differs|was cut"):
            unseal(bytes(changed))
    for length in range(len(sealed)):
        with pytest.raises(ValueError, match=r"checksum differs|was cut|is empty"):
            unseal(sealed[:length])


def test_damaged_metrics_are_said_and_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = "epoch,step,train/loss\n0,3,1.5\n1,8,0.5\n"
    for number, text in enumerate((good, good.replace("3,", "x,"), good.replace("1.5", "1,2,3"))):
        (tmp_path / "metrics.csv").write_text(text)
        rows = MetricsCSV(tmp_path, resume_step=5).rows
        assert rows == [{"epoch": "0", "step": "3", "train/loss": "1.5"}][: number == 0]
        assert len(caplog.records) == number


# --- disks ---------------------------------------------------------------------------------------


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    path = tmp_path / "a.txt"
    write_atomic(path, "old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            with pytest.raises(OSError, match="No space left"):
                write_atomic(path, "new")
        assert path.read_text() == "old"
        assert os.listdir(tmp_path) == ["a.txt"]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom kanzoo.files import write_atomic\n"
        "os.fsync = lambda _: os._exit(9)\nwrite_atomic(Path(sys.argv[1]), 'new')"
    )
    path = tmp_path / "a.txt"
    done = subprocess.run([sys.executable, "-c", code, str(path)], env=environment(), check=False)
    assert done.returncode == 9
    assert len(os.listdir(tmp_path)) == 1
    write_atomic(path, "new")
    assert os.listdir(tmp_path) == ["a.txt"]


def test_files_are_written_beside_their_place(
    train_run: Run, tmp_path: Path, monkeypatch: Patch
) -> None:
    """No other file system takes part, whatever $TMPDIR says."""
    moves: list[tuple[str, str]] = []
    plain = os.replace

    def replace(source: Any, target: Any, **options: Any) -> None:
        moves.append((os.path.dirname(source), os.path.dirname(target)))
        plain(source, target, **options)

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    train_run()
    assert len(moves) > 6
    assert all(source == target for source, target in moves)


def lines(done: "subprocess.CompletedProcess[str]") -> list[str]:
    return done.stderr.strip().splitlines()


SMALL_RUN = (*RECIPES["accumulation"], "model.width=256", "trainer.max_epochs=3")


@pytest.mark.slow
def test_a_full_disk_ends_in_one_line_and_the_run_goes_on_later(tmp_path: Path) -> None:
    def limited() -> None:  # what is larger cannot be written, as the kernel says it
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    done = subprocess.run(
        command("train", *SMALL_RUN), cwd=tmp_path, env=environment(), capture_output=True,
        text=True, preexec_fn=limited, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert lines(done)[-1].startswith("kanzoo: File too large")
    assert lines(done)[-1].endswith("the same command goes on")
    assert "Traceback" not in done.stderr
    (folder,) = (tmp_path / "runs").glob("train/*/*/seed0")
    assert not [name for name in files(folder) if name.endswith(".tmp")]
    assert in_process(main, [*SMALL_RUN], tmp_path).code == 0


def test_a_folder_that_cannot_be_written_ends_in_one_line(tmp_path: Path) -> None:
    outcome = in_process(main, [*SMALL_RUN, "runs=/proc/kanzoo"], tmp_path)
    assert outcome.code == 2
    outcome.check()
    assert "/proc/kanzoo" in outcome.error


def test_a_folder_that_is_removed_meanwhile_ends_in_one_line(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    plain, calls = Task.training_step, iter(range(10**9))

    def step(self: Task, *arguments: Any) -> Any:
        if next(calls) == 6:
            shutil.rmtree(tmp_path / "runs")
        return plain(self, *arguments)

    monkeypatch.setattr(Task, "training_step", step)
    outcome = in_process(main, [*SMALL_RUN], tmp_path)
    assert outcome.code == 2
    assert outcome.error.strip().splitlines()[-1].startswith("kanzoo: No such file or directory")
    assert "Traceback" not in outcome.error
    assert not (tmp_path / "runs").exists()
