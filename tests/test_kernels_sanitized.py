"""The compiled kernels read and write no memory that is not theirs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("sanitized.py")
FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=all"


def library(name: str) -> str:
    """The path of a sanitizer's runtime; empty where the compiler has none."""
    if shutil.which("g++") is None:
        return ""
    command = ["g++", f"-print-file-name={name}"]
    path = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return path if Path(path).is_absolute() else ""


@pytest.mark.slow
def test_sanitizers_find_nothing(tmp_path: Path) -> None:
    runtimes = [library(name) for name in ("libasan.so", "libubsan.so")]
    if not all(runtimes):
        pytest.skip("g++ has no sanitizers here")
    env = {**os.environ, "KANZOO_CACHE": str(tmp_path), "CXX": f"g++ {FLAGS}"}
    command = [sys.executable, str(SCRIPT)]
    subprocess.run([*command, "build"], env=env, check=True, timeout=1200)
    env |= {"LD_PRELOAD": ":".join(runtimes), "ASAN_OPTIONS": "detect_leaks=0"}
    done = subprocess.run(
        [*command, "run"], env=env, capture_output=True, text=True, timeout=1200, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
