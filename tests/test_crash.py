"""Commands that are killed as they write: the same command then ends as if it had been left alone.

`KANZOO_CRASH_POINTS` times as many points are tried (1 by default, 200 in all).
"""

import os
import subprocess
import sys

import pytest
from conftest import ROOT, environment

TIMES = int(os.environ.get("KANZOO_CRASH_POINTS", "1"))
POINTS = {"train": 130, "sweep": 15, "seeds": 15, "explain": 10, "study": 15, "tune": 15}
FULL = {"train": 8, "study": 4}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]


def crash(name: str, points: int, *options: str) -> str:
    words = [sys.executable, str(ROOT / "tests" / "crash.py"), name, "--points", str(points)]
    words += options
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", POINTS)
def test_a_kill_at_any_write_changes_nothing(name: str) -> None:
    said = crash(name, POINTS[name] * TIMES)
    assert said.startswith(f"{name}: ")


@pytest.mark.parametrize("name", FULL)
def test_a_disk_that_is_full_from_any_write_on_loses_nothing(name: str) -> None:
    said = crash(name, FULL[name] * TIMES, "--full")
    assert said.startswith(f"{name}: full from {FULL[name] * TIMES} of ")


def test_twenty_random_kills_over_eight_architectures_change_nothing() -> None:
    assert "20 kills of 8 architectures" in crash("random", 20)
