"""However many processes train a run, and whoever goes on with it: it is the same run."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import processes
import pytest
import torch
from conftest import environment
from torch import Tensor

from kanzoo.run.config import compose
from kanzoo.rundir import RunDir

HERE = Path(__file__).parent


def train_in(count: int, *words: str, script: str = "processes.py") -> None:
    """Run a script of this folder in so many processes of torchrun."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={count}", str(HERE / script), *words]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def outcome(runs: Path, name: str, precision: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    folder = RunDir.of(compose("train", processes.words_of(name, runs, "auto", precision)))
    state = torch.load(folder.last_checkpoint, weights_only=True)
    assert state["global_step"] == 50
    result = folder.result()
    assert result is not None, name
    return state["state_dict"], result


def assert_same(one: Path, other: Path, name: str, precision: str, tolerance: float) -> None:
    weights, result = outcome(one, name, precision)
    reference, expected = outcome(other, name, precision)
    assert weights.keys() == reference.keys()
    for key, value in reference.items():
        torch.testing.assert_close(weights[key], value, rtol=tolerance, atol=tolerance, msg=key)
    for split in ("val", "test"):
        assert result[split] == pytest.approx(expected[split], rel=1e-3, abs=1e-4), (name, split)
    assert result["params"] == expected["params"]
    sizes = [json.dumps(r["split"], sort_keys=True) for r in (result, expected)]
    assert sizes[0] == sizes[1]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_architecture_is_the_same_run_by_two_processes_and_then_one(tmp_path: Path) -> None:
    """50 steps in double precision, so that nothing but the order of sums can differ."""
    names = list(processes.ARCHITECTURES)
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    processes.train_all(alone, "auto", "64-true", 0, names)
    train_in(2, str(shared), "ddp", "64-true", "3")
    assert not list(shared.rglob("result.json"))
    processes.train_all(shared, "auto", "64-true", 0, names)
    for name in names:
        assert_same(shared, alone, name, "64-true", 1e-6)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_shards_of_four_processes_go_on_in_two_that_hold_copies(tmp_path: Path) -> None:
    names = ["resnet", "vit"]  # with two groups of parameters, and norms
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    processes.train_all(alone, "auto", "32-true", 0, names)
    train_in(4, str(shared), "fsdp", "32-true", "2", *names)
    train_in(2, str(shared), "ddp", "32-true", "4", *names)
    train_in(2, str(shared), "fsdp", "32-true", "0", *names)
    for name in names:
        assert_same(shared, alone, name, "32-true", 1e-3)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_process_that_ends_waits_for_threads_that_share_its_tensors(tmp_path: Path) -> None:
    train_in(2, str(tmp_path), "ddp", script="leaving.py")
