"""The SLURM engine on a real cluster of one node: drivers that end, jobs that are lost."""

import json
import signal
import subprocess
import time
from pathlib import Path

import engine_study
import pytest
from cluster import SABOTAGE, WORDS, cluster, queue, task_of, wait_for

from kanzoo.run.config import compose
from kanzoo.study.comparison import build_engine, plan

pytestmark = [pytest.mark.engines]
__all__ = ["cluster"]  # a fixture


@pytest.mark.usefixtures("cluster")
def test_a_study_equals_the_local_one_over_a_killed_driver(tmp_path: Path) -> None:
    local = tmp_path / "local"
    engine_study.train_here(local, 2)
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
        subprocess.run(["scancel", task_of(hung[-1])], check=True)
    said, _ = driver.communicate(timeout=200)
    assert driver.returncode == 1, said
    rows = engine_study.results(runs)
    reasons = {(row["seed"], row["arm"]): row["reason"] for row in rows}
    assert "SIGSEGV" in reasons.pop(("0", "kan"))
    assert reasons.pop(("1", "kan"))
    assert set(reasons.values()) == {""}
    assert log.read_text().count("segfault") == 2, log.read_text()


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
