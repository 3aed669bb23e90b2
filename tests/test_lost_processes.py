"""Processes that train together and are killed: the others end soon, with one line."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import ROOT, command, compose, environment

from kanzoo.run.fit import train
from kanzoo.rundir import RunDir
from kanzoo.training.watch import GOES_ON, LOST_CODE, is_lost_contact

LONG = [
    *("model=mlp", "model.width=16", "match=none", "logger=csv", "callbacks.progress=false"),
    *("data.batch_size=64", "data.limit_train=256", "trainer=ddp", "trainer.accelerator=cpu"),
]
ENDLESS, SHORT = "trainer.max_epochs=1000000", "trainer.max_epochs=2"


def start(words: list[str], folder: Path, **variables: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        words,
        cwd=folder,
        env={**environment(), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.2)


def children(process: "subprocess.Popen[str]") -> list[int]:
    words = ["ps", "--ppid", str(process.pid), "-o", "pid="]
    return [
        int(pid) for pid in subprocess.run(words, capture_output=True, text=True).stdout.split()
    ]


def lines(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith("kanzoo: ")]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_others(tmp_path: Path, rank: int) -> None:
    process = start(command("train", *LONG, ENDLESS, "trainer.devices=2"), tmp_path)
    wait_for(lambda: list(tmp_path.rglob("last.ckpt")))
    (child,) = children(process)
    os.kill(process.pid if rank == 0 else child, signal.SIGKILL)
    began = time.monotonic()
    said, _ = process.communicate(timeout=30)  # until nobody holds the pipe any more
    assert time.monotonic() - began < 30
    (line,) = lines(said)
    assert line.endswith(GOES_ON)
    assert "Traceback" not in said
    if rank == 1:
        assert process.returncode == LOST_CODE
        assert "process 1 of 2 was killed by SIGKILL" in line
    # The run is free, and one process can go on with it.
    alone = ["trainer.devices=1", "trainer.strategy=auto", f"runs={tmp_path / 'runs'}"]
    folder = RunDir.of(compose("train", [*LONG, ENDLESS, *alone]))
    assert folder.last_checkpoint.is_file()
    assert not folder.is_locked()


LEAVES = """
import subprocess, sys, time
from kanzoo.training.watch import end_watch, watch_children
watch_children([subprocess.Popen([sys.executable, "-c", ""]) for _ in range(2)])
if sys.argv[1] == "done":
    end_watch()
    time.sleep(5)
    sys.exit(3)
time.sleep(60)
"""


@pytest.mark.slow
def test_a_process_that_leaves_early_ends_the_others(tmp_path: Path) -> None:
    """Also one that says that all is well; at the end all may go, the first one last."""
    for word, code, said in (("early", LOST_CODE, 1), ("done", 3, 0)):
        process = start([sys.executable, "-c", LEAVES, word], tmp_path)
        output, _ = process.communicate(timeout=30)
        assert process.returncode == code, output
        assert len(lines(output)) == said
        assert not said or "process 1 of 3 ended early with exit code 0" in output


@pytest.mark.slow
def test_a_signal_to_one_of_several_stops_all(tmp_path: Path) -> None:
    """Also where an epoch ends before its losses are logged: of 2 batches, every tenth is."""
    words = [*LONG, "trainer.devices=2"]
    process = start(command("train", *words, ENDLESS), tmp_path)
    wait_for(lambda: list(tmp_path.rglob("last.ckpt")))
    process.terminate()
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM, said
    (line,) = lines(said)
    assert "stopped by SIGTERM in epoch" in line
    assert "which is saved" in line
    assert not list(tmp_path.rglob("result.json"))


@pytest.mark.slow
def test_two_jobs_on_one_machine_do_not_meet(tmp_path: Path) -> None:
    words = [*LONG, SHORT, "trainer.devices=2"]
    jobs = [start(command("train", *words, f"seed={seed}"), tmp_path) for seed in (0, 1)]
    for job in jobs:
        said, _ = job.communicate(timeout=200)
        assert job.returncode == 0, said
    assert len(list(tmp_path.rglob("result.json"))) == 2


@pytest.mark.slow
def test_a_node_says_what_it_waits_for(tmp_path: Path) -> None:
    process = start(command("train", *LONG, SHORT, "trainer.num_nodes=2"), tmp_path)
    try:
        said = ""
        assert process.stdout is not None
        for line in process.stdout:
            said += line
            if "NODE_RANK" in line:
                break
        assert "node 0 of 2 waits for the others at 127.0.0.1:" in said
        assert "MASTER_ADDR=127.0.0.1 MASTER_PORT=" in said
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def agents(folder: Path, *words: str) -> list["subprocess.Popen[str]"]:
    """Two agents of torchrun, as on two nodes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torchrun = [
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"),
        *("--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=test"),
        str(ROOT / "scripts" / "train.py"),
    ]
    options = ["trainer.devices=1", "trainer.num_nodes=2"]
    return [start([*torchrun, *LONG, *options, *words], folder) for _ in range(2)]


@pytest.mark.slow
def test_two_agents_train_one_run(tmp_path: Path) -> None:
    for agent in agents(tmp_path, SHORT):
        said, _ = agent.communicate(timeout=200)
        assert agent.returncode == 0, said
    assert len(list(tmp_path.rglob("result.json"))) == 1
    (path,) = tmp_path.rglob("last.ckpt")
    words = [
        *LONG,
        SHORT,
        "trainer.devices=1",
        "trainer.strategy=auto",
        f"runs={tmp_path / 'alone'}",
    ]
    train(compose("train", words))
    (other,) = (tmp_path / "alone").rglob("last.ckpt")
    weights = torch.load(other, weights_only=True)["state_dict"]
    for key, value in torch.load(path, weights_only=True)["state_dict"].items():
        torch.testing.assert_close(value, weights[key], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_an_agent_that_is_killed_ends_the_other(tmp_path: Path) -> None:
    one, other = agents(tmp_path, ENDLESS)
    wait_for(lambda: list(tmp_path.rglob("last.ckpt")))
    for child in children(other):
        os.kill(child, signal.SIGKILL)
    other.kill()
    began = time.monotonic()
    said, _ = one.communicate(timeout=60)
    assert time.monotonic() - began < 30
    assert one.returncode != 0
    assert len(lines(said)) == 1, said
    other.communicate(timeout=30)


@pytest.mark.parametrize(
    ("error", "is_lost"),
    [
        (RuntimeError("[../gloo/transport/tcp/pair.cc:547] Connection closed by peer"), True),
        (RuntimeError("NCCL error in: ProcessGroupNCCL.cpp, remote process exited"), True),
        (ConnectionResetError("Connection reset by peer"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("gloo"), False),
    ],
)
def test_lost_contact_is_told_from_other_errors(error: Exception, is_lost: bool) -> None:
    assert is_lost_contact(error) == is_lost
