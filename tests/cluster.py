"""SLURM clusters of one or two nodes, started here."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CLUSTER = Path(__file__).with_name("slurm_cluster.sh")
SABOTAGE = Path(__file__).with_name("sabotage")
WORDS = ("engine=slurm", "engine.poll_seconds=0.5")


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


def queue(form: str = "%i %T") -> list[str]:
    command = ["squeue", "--noheader", "--array", f"--format={form}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def task_of(job: str) -> str:
    """A job as ARRAY_TASK: one task's own number is that of the whole array."""
    return dict(line.split() for line in queue("%A %i"))[job]


def wait_for(what: Any, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.2)
