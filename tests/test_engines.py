"""Engines: what every session does with its cells, and the local one with cells that misbehave."""

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import engine_study
import pytest
from conftest import command, compose, environment
from rich.progress import Progress

from kanzoo.errors import BusyError, DivergedError
from kanzoo.registry import names, options
from kanzoo.study.comparison import build_engine, plan
from kanzoo.study.engines.base import Session
from kanzoo.study.engines.cell import (
    BUSY,
    DIVERGED,
    FAILED,
    FINISHED,
    UNTRIED,
    Outcome,
    death,
    is_multi_device,
    one_line,
    run_cell,
)
from kanzoo.study.engines.local import LocalEngine
from kanzoo.study.engines.slurm_job import journal_of, outcomes_of_lost
from kanzoo.study.plan import Cell
from kanzoo.study.run import TimeLeft

SABOTAGE = Path(__file__).parent / "sabotage"


def cells_of(tmp_path: Path, **study: Any) -> list[Cell]:
    return plan(engine_study.configured(tmp_path / "runs", **study))


class Scripted(Session):
    """A session whose cells end as they are told to, attempt by attempt."""

    def __init__(self, script: dict[tuple[int, str], list[str]], max_retries: int) -> None:
        super().__init__(max_retries)
        self.script = script
        self.started: list[tuple[int, str]] = []
        self._ending: list[tuple[Cell, Outcome]] = []

    def start(self, cells: Sequence[Cell]) -> None:
        for cell in cells:
            key = (cell.seed, cell.arm)
            status = (self.script.get(key) or [FINISHED]).pop(0)
            self.started.append(key)
            reason = "" if status in (FINISHED, BUSY) else status
            self._ending.append((cell, Outcome(status, reason)))

    def ended(self) -> Iterable[tuple[Cell, Outcome]]:
        ending, self._ending = self._ending, []
        return ending


def run(session: Session, cells: list[Cell]) -> dict[tuple[int, str], str]:
    ends: dict[tuple[int, str], str] = {}

    def on_end(cell: Cell, reason: str) -> None:
        assert (cell.seed, cell.arm) not in ends
        ends[cell.seed, cell.arm] = reason

    session.run(cells, on_end)
    return ends


def test_failures_are_retried_so_often_and_divergence_is_not(tmp_path: Path) -> None:
    cells = cells_of(tmp_path)
    script = {(0, "kan"): [FAILED] * 9, (0, "mlp"): [DIVERGED], (1, "kan"): [FAILED, FINISHED]}
    session = Scripted(script, max_retries=2)
    ends = run(session, cells)
    assert ends == {(0, "kan"): FAILED, (0, "mlp"): DIVERGED, (1, "kan"): "", (1, "mlp"): ""}
    counts = {key: session.started.count(key) for key in ends}
    assert counts == {(0, "kan"): 3, (0, "mlp"): 1, (1, "kan"): 2, (1, "mlp"): 1}
    told = {c.folder.path / "failure.txt" for c in cells if c.seed == 0}
    assert set(tmp_path.rglob("failure.txt")) == told


def test_a_cell_that_was_lost_before_its_turn_is_not_charged_for_it(tmp_path: Path) -> None:
    cells = cells_of(tmp_path)
    session = Scripted({(0, "kan"): [UNTRIED, UNTRIED, FAILED, FINISHED]}, max_retries=1)
    assert set(run(session, cells).values()) == {""}
    assert session.started.count((0, "kan")) == 4


def test_what_a_lost_job_wrote_down_says_whose_turn_it_was(tmp_path: Path) -> None:
    journal = journal_of(tmp_path, "7_0")
    lost, untried = Outcome(FAILED, "lost"), Outcome(UNTRIED, "lost")
    assert outcomes_of_lost(journal, 3, "lost") == [lost] * 3  # it did not begin
    journal.touch()
    assert outcomes_of_lost(journal, 3, "lost") == [lost, untried, untried]
    ended = '{"cell": %d, "status": "diverged", "reason": "nan"}\n'
    journal.write_text(ended % 0 + '{"cell": 1, "status": "fin')
    known = Outcome(DIVERGED, "nan")
    assert outcomes_of_lost(journal, 3, "lost") == [known, lost, untried]
    assert outcomes_of_lost(journal, 1, "lost") == [known]
    journal.write_text(ended % 1)  # of two at once, the second was done first
    assert outcomes_of_lost(journal, 5, "lost", 2) == [lost, known, lost, untried, untried]


def test_a_busy_cell_is_started_again_once_it_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kanzoo.study.engines.base.LOOK_AGAIN", 0.0)
    cells = cells_of(tmp_path)
    session = Scripted({(0, "kan"): [BUSY, BUSY, FINISHED]}, max_retries=0)
    looks = iter([True, True, False, False])
    monkeypatch.setattr("kanzoo.rundir.RunDir.is_locked", lambda _: next(looks))
    assert set(run(session, cells).values()) == {""}
    assert session.started.count((0, "kan")) == 3
    assert next(looks, None) is None


def test_cells_that_are_the_same_run_are_run_once(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, match=["params", "flops"], arms={
        "mlp": ["layers=mlp"], "kan": ["layers=kan"]
    })  # fmt: skip
    session = Scripted({}, max_retries=0)
    ended: list[Cell] = []
    session.run(cells, lambda cell, reason: ended.append(cell))
    assert session.started.count((0, "mlp")) == 1  # an MLP has no budget to match
    assert session.started.count((0, "kan")) == 2
    assert len(ended) == len(cells) == 8


def test_outcomes_of_what_training_raises(tmp_path: Path) -> None:
    (cell, *_) = cells_of(tmp_path)

    def outcome(error: BaseException) -> Outcome:
        def train(config: dict[str, Any]) -> dict[str, Any]:
            raise error

        return run_cell(cell, train)

    assert outcome(BusyError("x")) == Outcome(BUSY)
    reason = "diverged: the loss became nan"
    assert outcome(DivergedError("the loss became nan")) == Outcome(DIVERGED, reason)
    assert outcome(RuntimeError("a\nb")) == Outcome(FAILED, "RuntimeError: a b")
    assert outcome(SystemExit(3)) == Outcome(FAILED, "SystemExit: 3")
    assert outcome(MemoryError()) == Outcome(FAILED, "out of memory: MemoryError")
    with pytest.raises(KeyboardInterrupt):
        outcome(KeyboardInterrupt())
    assert run_cell(cell, lambda config: {}) == Outcome(FINISHED)
    allocator = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")
    assert one_line(allocator).startswith("out of memory: ")
    assert "SIGSEGV" in death(-11)
    assert "memory" in death(-9)
    assert "exit code 3" in death(3)


def test_a_run_is_locked_by_one_process_and_its_end_frees_it(tmp_path: Path) -> None:
    (cell, *_) = cells_of(tmp_path)
    folder = cell.folder
    assert not folder.is_locked()
    assert not folder.path.exists()
    with folder.lock():
        assert folder.is_locked()
        with pytest.raises(BusyError, match="another process"), folder.lock():
            pass
    assert not folder.is_locked()
    # A process that is killed leaves the file, but no lock.
    code = "import os, sys; from filelock import FileLock; FileLock(sys.argv[1]).acquire(); "
    held = [
        command("train")[0],
        "-c",
        code + "os.kill(os.getpid(), 9)",
        str(folder.path / "checkpoints" / ".lock"),
    ]
    assert subprocess.run(held).returncode == -signal.SIGKILL
    assert not folder.is_locked()


@pytest.mark.parametrize(
    ("trainer", "several"),
    [
        ({}, False),
        ({"accelerator": "gpu"}, False),
        ({"strategy": "ddp"}, True),
        ({"devices": 2}, True),
        ({"devices": "auto"}, True),
        ({"accelerator": "gpu", "devices": [3]}, False),
        ({"accelerator": "gpu", "devices": [0, 1]}, True),
        ({"num_nodes": 2}, True),
    ],
)
def test_multi_device_cells_are_told_apart(
    tmp_path: Path, trainer: dict[str, Any], several: bool
) -> None:
    (cell, *_) = cells_of(tmp_path)
    config = {**cell.config, "trainer": {**cell.config["trainer"], **trainer}}
    assert is_multi_device(replace(cell, config=config)) == several


@pytest.mark.parametrize("name", names("engine"))
def test_every_engine_has_the_common_options(name: str) -> None:
    node = options("engine", name)
    assert {"cell_timeout", "max_retries", "memory_limit_gb"} <= set(node)
    assert build_engine(compose("compare", [f"engine={name}"])).is_local == (name == "local")


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["engine.workers=0"], "engine.workers"),
        (["engine.threads=1.5"], "engine.threads"),
        (["engine.cell_timeout=-1"], "engine.cell_timeout"),
        (["engine.cell_timeout=soon"], "engine.cell_timeout"),
        (["engine.memory_limit_gb=0"], "engine.memory_limit_gb"),
        (["engine.max_retries=-1"], "engine.max_retries"),
        (["engine=ray", "engine.cpus_per_cell=0"], "engine.cpus_per_cell"),
        (["engine=ray", "engine.gpus_per_cell=-1"], "engine.gpus_per_cell"),
        (["engine=ray", "engine.address='http://x'"], "engine.address"),
        (["engine=slurm", "engine.time=0"], "engine.time"),
        (["engine=slurm", "engine.poll_seconds=0"], "engine.poll_seconds"),
        (["engine=slrum"], "'slurm'"),
    ],
)
def test_wrong_options_are_refused(words: list[str], hint: str) -> None:
    with pytest.raises(ValueError, match="engine") as refusal:
        build_engine(compose("compare", words))
    assert hint in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_missing_extra_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in ("ray", "slurm"):
        with pytest.raises(ValueError, match=rf"pip install 'kanzoo\[{name}\]'"):
            build_engine(compose("compare", [f"engine={name}"])).check([])


# --- real cells that go wrong --------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of four seeds in which nothing went wrong, trained without an engine."""
    runs = tmp_path_factory.mktemp("undisturbed")
    engine_study.train_here(runs, 4)
    return runs


@pytest.fixture(scope="module")
def undisturbed(alone: Path) -> list[dict[str, str]]:
    return engine_study.results(alone)


@pytest.mark.slow
def test_cells_that_crash_hang_exhaust_memory_or_diverge(
    tmp_path: Path, undisturbed: list[dict[str, str]]
) -> None:
    deeds = {"0 kan": "segfault", "1 kan": "hang", "2 kan": "memory", "3 kan": "nan"}
    words = ("engine.workers=2", "engine.cell_timeout=50", "engine.memory_limit_gb=4")
    words = (*words, "engine.max_retries=0")
    harm = {
        "SABOTAGE": json.dumps(deeds),
        "SABOTAGE_LOG": str(tmp_path / "log"),
        "PYTHONPATH": str(SABOTAGE),
    }
    runs = tmp_path / "runs"
    code, said = engine_study.finish(runs, 4, *words, **harm)
    assert code == 1, said
    assert "Traceback" not in said
    rows = engine_study.results(runs)
    reasons = {row["seed"]: row["reason"] for row in rows if row["status"] != "finished"}
    assert reasons.keys() == {"0", "1", "2", "3"}
    assert [row["seed"] for row in rows if row["status"] == "diverged"] == ["3"]
    assert "SIGSEGV" in reasons["0"]
    assert "cell_timeout=50 s" in reasons["1"]
    assert reasons["2"].startswith("out of memory")
    assert reasons["3"].startswith("diverged: the loss became nan in epoch 0, by step ")
    assert [row["status"] for row in rows if row["arm"] == "mlp"] == ["finished"] * 4
    assert sorted((tmp_path / "log").read_text().split()) == sorted(deeds.values())

    before = {path: path.stat().st_mtime_ns for path in runs.rglob("result.json")}
    assert len(before) == 4
    code, said = engine_study.finish(runs, 4, *words)
    assert code == 0, said
    assert "3 of 8 cells to run" in said  # that which diverged is an outcome
    assert all(path.stat().st_mtime_ns == t for path, t in before.items())
    rows = engine_study.results(runs)
    assert [row["status"] for row in rows].count("diverged") == 1
    others = [row for row in undisturbed if (row["seed"], row["arm"]) != ("3", "kan")]
    assert [row for row in rows if row["status"] == "finished"] == others


@pytest.mark.slow
def test_a_driver_killed_at_any_moment_loses_nothing(tmp_path: Path, alone: Path) -> None:
    runs = tmp_path / "runs"
    moments = random.Random(0)
    done: dict[Path, int] = {}
    for kill in range(int(os.environ.get("KANZOO_TEST_KILLS", "2"))):
        process = engine_study.start(runs, 4, "engine.workers=2")
        while process.poll() is None and len(list(runs.rglob("result.json"))) <= 3 * kill:
            time.sleep(0.1)
        time.sleep(moments.uniform(0, 1))
        process.kill()
        process.communicate()
        now = {path: path.stat().st_mtime_ns for path in runs.rglob("result.json")}
        assert now.items() >= done.items()
        done = now
    code, said = engine_study.finish(runs, 4, "engine.workers=2")
    assert code == 0, said
    assert engine_study.results(runs) == engine_study.results(alone)
    assert engine_study.verdicts(runs) == engine_study.verdicts(alone)


@pytest.mark.slow
def test_a_study_that_a_signal_stops_saves_its_cells_and_goes_on(
    tmp_path: Path, undisturbed: list[dict[str, str]]
) -> None:
    """The worker is within the first of two epochs: what it keeps was saved by the signal."""
    runs, log = tmp_path / "runs", tmp_path / "log"
    harm = {"SABOTAGE_LOG": str(log), "PYTHONPATH": str(SABOTAGE)}
    harm["SABOTAGE"] = json.dumps({"2 kan": "slow"})
    words = ("engine.workers=1", "engine.threads=1")
    for number in (signal.SIGTERM, signal.SIGINT):
        log.unlink(missing_ok=True)
        process = engine_study.start(runs, 4, *words, **harm)
        while not log.is_file() and process.poll() is None:
            time.sleep(0.1)
        process.send_signal(number)
        said, _ = process.communicate(timeout=100)
        assert process.returncode == 128 + number, said
        assert "Traceback" not in said
        done = len(list(runs.rglob("result.json")))
        assert said.splitlines()[-1] == (
            f"kanzoo: stopped by {number.name}; {done} of 8 cells are finished, "
            "the same command goes on from here"
        )
        (unfinished,) = (p.parent for p in runs.rglob("last.ckpt") if not finished(p.parent.parent))
        assert unfinished.parent.name == "seed2"
    code, said = engine_study.finish(runs, 4, *words)
    assert code == 0, said
    assert f"{8 - done} of 8 cells to run" in said
    assert f"{8 - done}/{8 - done}, 0:00:00 left: smoke " in said  # a log has a line a cell
    assert engine_study.results(runs) == undisturbed


def test_the_time_left_is_that_of_the_mean_cell_where_workers_end_together() -> None:
    """Two workers with cells of 200 s: the twelfth pair ends after 40 minutes."""
    clock = {"now": 0.0}
    progress = Progress(get_time=lambda: clock["now"], auto_refresh=False)
    bar = progress.add_task("cells", total=24)
    (task,) = progress.tasks
    assert TimeLeft.of(task) == "-:--:--"
    for now in (199.0, 200.0, 399.0, 400.0):
        clock["now"] = now
        progress.advance(bar)
    assert TimeLeft.of(task) == TimeLeft().render(task).plain == "0:33:20"
    progress.update(bar, completed=24)
    assert TimeLeft.of(task) == "0:00:00"


def finished(folder: Path) -> bool:
    return (folder / "result.json").is_file()


@pytest.mark.slow
def test_two_drivers_run_no_cell_twice(tmp_path: Path, undisturbed: list[dict[str, str]]) -> None:
    runs = tmp_path / "runs"
    harm = {"SABOTAGE_LOG": str(tmp_path / "log"), "PYTHONPATH": str(SABOTAGE)}
    harm["SABOTAGE"] = json.dumps({f"{s} {a}": "note" for s in range(4) for a in ("mlp", "kan")})
    words = ("engine.workers=1", "engine.threads=1")  # sums differ with the number of threads
    pair = [engine_study.start(runs, 4, *words, **harm) for _ in range(2)]
    for process in pair:
        said, _ = process.communicate(timeout=400)
        assert process.returncode == 0, said
    assert len((tmp_path / "log").read_text().split()) == 8
    assert engine_study.results(runs) == undisturbed


def sleeps(config: dict[str, Any]) -> dict[str, Any]:
    from kanzoo.rundir import RunDir

    with RunDir.of(config).lock():
        (RunDir.of(config).path / "pid").write_text(str(os.getpid()))
        time.sleep(600)
    return {}


DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_engines import LocalEngine, cells_of, run, sleeps
if __name__ == "__main__":
    cells = cells_of(Path({folder!r}))
    with LocalEngine(workers=1).session(1, Path(), sleeps) as session:
        run(session, cells[:1])
"""


@pytest.mark.slow
def test_workers_of_a_killed_driver_end_and_free_their_cells(tmp_path: Path) -> None:
    script = tmp_path / "driver.py"
    script.write_text(DRIVER.format(tests=str(Path(__file__).parent), folder=str(tmp_path)))
    driver = subprocess.Popen([command("train")[0], str(script)], env=environment())
    path = cells_of(tmp_path)[0].folder.path / "pid"
    for _ in range(600):
        if path.is_file() and path.read_text():
            break
        time.sleep(0.1)
    worker = int(path.read_text())
    assert cells_of(tmp_path)[0].folder.is_locked()
    driver.kill()
    driver.wait()
    for _ in range(100):
        if not cells_of(tmp_path)[0].folder.is_locked():
            break
        time.sleep(0.1)
    assert not cells_of(tmp_path)[0].folder.is_locked()
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(worker)], capture_output=True, text=True)
    assert state.stdout.strip()[:1] in ("", "Z")  # gone, or dead and not yet collected


@pytest.mark.slow
def test_a_cell_of_several_devices_runs_as_processes_of_its_own(tmp_path: Path) -> None:
    words = [*engine_study.SHORT, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
    cells = cells_of(tmp_path, overrides=words)[:1]

    def never(config: dict[str, Any]) -> dict[str, Any]:
        raise AssertionError("trained in the worker itself")

    assert run_cell(cells[0], never, cell_timeout=120) == Outcome(FINISHED)
    result = cells[0].folder.result()
    assert result is not None
    assert result["epochs"] == 2
    # One that hangs is ended, and frees its run.
    (cells[0].folder.path / "result.json").unlink()
    assert "cell_timeout=1 s" in run_cell(cells[0], never, cell_timeout=1).reason
    assert not cells[0].folder.is_locked()
    with cells[0].folder.lock():
        assert run_cell(cells[0], never, cell_timeout=120) == Outcome(BUSY)


def dies_when_idle(config: dict[str, Any]) -> dict[str, Any]:
    import threading

    if config["seed"] == 0 and not Path(config["runs"], "dead").exists():
        Path(config["runs"]).mkdir(exist_ok=True)
        Path(config["runs"], "dead").touch()
        threading.Timer(0.3, os._exit, [7]).start()
        return {}
    time.sleep(0.2)
    return {}


@pytest.mark.slow
def test_a_worker_that_dies_between_two_cells_is_replaced(tmp_path: Path) -> None:
    cells = cells_of(tmp_path)
    with LocalEngine(workers=1, max_retries=3).session(1, Path(), dies_when_idle) as session:
        assert set(run(session, cells[:1]).values()) == {""}
        time.sleep(2)
        assert set(run(session, cells[1:]).values()) == {""}
