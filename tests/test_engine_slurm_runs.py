"""Runs on a real SLURM cluster: at the limit of time, of two devices, on two nodes."""

import json
import subprocess
from pathlib import Path

import engine_study
import pytest
import torch
from cluster import SABOTAGE, WORDS, cluster, started
from conftest import command, environment, run_script

from kanzoo.study.comparison import build_engine, plan

pytestmark = [pytest.mark.engines]
__all__ = ["cluster"]  # a fixture


@pytest.mark.usefixtures("cluster")
def test_a_job_at_its_time_limit_is_queued_again_and_goes_on(tmp_path: Path) -> None:
    local, runs, log = tmp_path / "local", tmp_path / "runs", tmp_path / "log"
    engine_study.train_here(local, 2)
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
