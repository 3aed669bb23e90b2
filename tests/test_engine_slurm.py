"""The SLURM engine on a real cluster of one node, and two nodes, started here."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import engine_study
import pytest
import torch
from conftest import command, environment, run_script

from kanzoo.run.config import compose
from kanzoo.study.comparison import build_engine, plan

HERE = Path(__file__).parent
CLUSTER = HERE / "slurm_cluster.sh"
SABOTAGE = HERE / "sabotage"
WORDS = ("engine=slurm", "engine.poll_seconds=0.5")

pytestmark = [pytest.mark.engines]


def missing() -> str:
    """What keeps a cluster from being started here."""
    wanted = [name for name in ("slurmctld", "slurmd", "munged") if shutil.which(name) is None]
    if wanted:
        return f"no {', '.join(wanted)}: apt-get install slurm-wlm munge"
    return "" if os.geteuid() == 0 else "a SLURM cluster of one's own needs root"


@contextmanager
def started(nodes: int) -> Iterator[None]:
    """A cluster of so many nodes, found by all commands."""
    if missing():
        pytest.skip(missing())
    # Outside of pytest's own folders, which are private: munged runs as another user.
    folder = Path(tempfile.mkdtemp(prefix="kanzoo-slurm-"))
    if subprocess.run([CLUSTER, "start", folder, str(nodes)]).returncode:
        subprocess.run([CLUSTER, "stop", folder])
        pytest.skip("SLURM's daemons cannot be started on this machine")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        yield
        subprocess.run([CLUSTER, "stop", folder], check=True)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    pytest.importorskip("submitit")
    with started(1):
        yield


def queue() -> list[str]:
    command = ["squeue", "--noheader", "--array", "--format=%i %T"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def wait_for(what: Any, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.mark.usefixtures("cluster")
def test_a_study_equals_the_local_one_over_a_killed_driver(tmp_path: Path) -> None:
    local = tmp_path / "local"
    code, said = engine_study.finish(local, 2, "engine.workers=2")
    assert code == 0, said
    runs = tmp_path / "runs"
    driver = engine_study.start(runs, 2, *WORDS)
    wait_for(lambda: len(queue()) == 4)
    ids = {line.split()[0] for line in queue()}
    driver.kill()
    driver.communicate()
    assert queue()  # jobs outlive the driver
    again = engine_study.start(runs, 2, *WORDS)
    seen: set[str] = set()
    while again.poll() is None:
        seen |= {line.split()[0] for line in queue()}
        time.sleep(0.2)
    said, _ = again.communicate()
    assert again.returncode == 0, said
    assert seen <= ids  # nothing was submitted twice
    assert engine_study.results(runs) == engine_study.results(local)
    assert not list((runs / "smoke" / "slurm").glob("kanzoo-*.json"))


@pytest.mark.usefixtures("cluster")
def test_jobs_that_crash_or_are_lost_are_retried_and_told(tmp_path: Path) -> None:
    deeds = {"0 kan": "segfault", "1 kan": "hang"}
    harm = {
        "SABOTAGE": json.dumps(deeds),
        "SABOTAGE_LOG": str(tmp_path / "log"),
        "PYTHONPATH": str(SABOTAGE),
    }
    runs = tmp_path / "runs"
    words = (*WORDS, "engine.requeue=false", "engine.cells_per_job=2")
    driver = engine_study.start(runs, 2, *words, **harm)
    log = tmp_path / "log"
    hung: list[str] = []
    for attempt in (1, 2):  # an operator cancels the job of the cell that hangs

        def again(attempt: int = attempt) -> bool:
            lines = log.read_text().splitlines() if log.is_file() else []
            hung[:] = [line.split()[1] for line in lines if line.startswith("hang")]
            return len(hung) == attempt

        wait_for(again, seconds=150)
        subprocess.run(["scancel", hung[-1]], check=True)
    said, _ = driver.communicate(timeout=200)
    assert driver.returncode == 1, said
    rows = engine_study.results(runs)
    reasons = {(row["seed"], row["arm"]): row["reason"] for row in rows}
    assert "SIGSEGV" in reasons.pop(("0", "kan"))
    assert reasons.pop(("1", "kan"))
    assert set(reasons.values()) == {""}
    assert log.read_text().count("segfault") == 2, log.read_text()


@pytest.mark.usefixtures("cluster")
def test_a_job_at_its_time_limit_is_queued_again_and_goes_on(tmp_path: Path) -> None:
    local, runs, log = tmp_path / "local", tmp_path / "runs", tmp_path / "log"
    code, said = engine_study.finish(local, 2, "engine.workers=2")
    assert code == 0, said
    harm = {
        "SABOTAGE": json.dumps({"0 kan": "stall"}),
        "SABOTAGE_LOG": str(log),
        "PYTHONPATH": str(SABOTAGE),
    }
    words = (*WORDS, "engine.time=1", "engine.cells_per_job=2", "engine.max_retries=0")
    code, said = engine_study.finish(runs, 2, *words, **harm)
    assert code == 0, said
    lines = log.read_text().splitlines()
    assert len(lines) == 2
    assert len(set(lines)) == 1, "the same job, twice"
    assert engine_study.results(runs) == engine_study.results(local)


@pytest.mark.usefixtures("cluster")
def test_ctrl_c_cancels_the_jobs(tmp_path: Path) -> None:
    driver = engine_study.start(tmp_path / "runs", 2, *WORDS)
    wait_for(lambda: len(queue()) == 4)
    driver.send_signal(signal.SIGINT)
    said, _ = driver.communicate(timeout=60)
    assert driver.returncode == 130, said
    assert "the same command goes on from here" in said
    wait_for(lambda: not queue(), seconds=30)


@pytest.mark.usefixtures("cluster")
def test_a_cell_of_two_devices_is_two_tasks(tmp_path: Path) -> None:
    words = [*engine_study.SHORT, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
    config = engine_study.configured(tmp_path / "runs", *WORDS, overrides=words)
    from kanzoo.run.fit import train

    cell = plan(config)[0]
    engine = build_engine(config)
    engine.check([cell])
    ends: list[str] = []
    with engine.session(1, tmp_path, train) as session:
        session.run([cell], lambda _, reason: ends.append(reason))
    assert ends == [""]
    assert cell.folder.result() is not None


def test_two_nodes_train_one_run(tmp_path: Path) -> None:
    """By `srun` from two daemons, as one process does it."""
    words = [
        *("model=mlp", "model.width=16", "match=none", "logger=csv", "callbacks.progress=false"),
        *("trainer.max_epochs=2", "data.limit_train=256", "data.batch_size=64"),
    ]
    two = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=1", "trainer.num_nodes=2"]
    srun = ["srun", "--nodes=2", "--ntasks-per-node=1", "--job-name=train"]
    with started(2):
        done = subprocess.run(
            [*srun, *command("train", *words, *two, "name=two")],
            cwd=tmp_path,
            env={**environment(), "MASTER_ADDR": "127.0.0.1"},  # nodes have names of their own
            capture_output=True,
            text=True,
            timeout=200,
        )
    assert done.returncode == 0, done.stderr
    assert "node 1 of 2 waits" in done.stderr
    alone = run_script("train", *words, "name=one", cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    ends = []
    for name in ("one", "two"):
        (path,) = (tmp_path / "runs" / name).rglob("last.ckpt")
        ends.append(torch.load(path, weights_only=True)["state_dict"])
    for key, value in ends[0].items():
        torch.testing.assert_close(ends[1][key], value, rtol=1e-3, atol=1e-5)


@pytest.mark.usefixtures("cluster")
def test_partitions_are_checked(tmp_path: Path) -> None:
    code, said = engine_study.finish(tmp_path / "runs", 2, *WORDS, "engine.partition=test")
    assert code == 2
    assert said.count("\n") == 1
    assert "'tests'" in said
    assert not list(tmp_path.iterdir())
    config = engine_study.configured(tmp_path / "runs", "engine=slurm")
    gpu = [*engine_study.SHORT, "trainer=gpu"]
    cells = plan(engine_study.configured(tmp_path / "runs", overrides=gpu))
    with pytest.raises(ValueError, match="gpus_per_cell=0"):
        build_engine(config).check(cells)
    # What no node has would wait for ever.
    cells = plan(config)
    for word in ("gpus_per_cell=1", "memory_limit_gb=100000", "cpus_per_cell=1000"):
        with pytest.raises(ValueError, match="engine=slurm: sbatch: ") as refusal:
            build_engine(compose("compare", ["engine=slurm", f"engine.{word}"])).check(cells)
        assert "error:" not in str(refusal.value)


def test_a_machine_without_slurm_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    pytest.importorskip("submitit")
    with pytest.raises(ValueError, match="'sbatch'"):
        build_engine(compose("compare", ["engine=slurm"])).check([])
