"""Threads that sleep while they wait for each other, as long as other processes need the cores.

Between two parallel loops the threads of OpenMP spin, which costs nothing on an idle machine. On a
busy one they take the cores from the thread that they wait for. GNU's OpenMP, which PyTorch brings
on Linux, spins a thousandth as long while it has more threads than there are cores (see
`GOMP_SPINCOUNT` in its manual), so that a second team, which does nothing, lets them sleep. What is
computed, and by how many threads, stays the same. With any other OpenMP nothing changes.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

STAT = Path("/proc/stat")
FIRST, LOOK = 0.2, 1.0  # seconds before the first look, and between two others
BUSY, IDLE = 0.3, 0.15  # share of the cores that others take: from the first to below the second
TEAM = 2**16  # numbers that PyTorch fills by two threads
BUSY_COLUMNS = (0, 1, 2, 5, 6, 7)  # of a line of STAT: all but idle, waiting for disks, and guests


@contextmanager
def sleeping_while_busy(path: Path = STAT) -> Iterator[None]:
    """Let waiting threads sleep inside, whenever others keep this process' cores busy."""
    if torch.get_num_threads() == 1 or _ticks(path) is None:
        yield
        return
    end = threading.Event()
    watcher = threading.Thread(target=_watch, args=[path, end], daemon=True)
    watcher.start()
    try:
        yield
    finally:
        end.set()
        watcher.join()


@contextmanager
def sharing_cores(path: Path = STAT) -> Iterator[None]:
    """The same, with one thread for NumPy's BLAS inside: its threads spin whatever others do.

    For many small problems of least squares, which a second thread hardly makes faster.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"), sleeping_while_busy(path):
        yield


@contextmanager
def second_team() -> Iterator[None]:
    """Hold a second team of OpenMP's threads, which do nothing."""
    ready, end = threading.Event(), threading.Event()

    def hold() -> None:
        torch.empty(TEAM).fill_(0.0)  # the team is that of the thread, and ends with it
        ready.set()
        end.wait()

    holder = threading.Thread(target=hold, daemon=True)
    holder.start()
    ready.wait()
    try:
        yield
    finally:
        end.set()
        holder.join()


def _watch(path: Path, end: threading.Event) -> None:
    share = others(path, end, FIRST)
    while share is not None:
        if share < BUSY:
            share = others(path, end, LOOK)
            continue
        with second_team():
            while share is not None and share >= IDLE:
                share = others(path, end, LOOK)


def others(path: Path, end: threading.Event, seconds: float) -> float | None:
    """The share of this process' cores that others take in the next seconds, None at the end."""
    before, mine, began = _ticks(path), time.process_time(), time.monotonic()
    if end.wait(seconds):
        return None
    after, elapsed = _ticks(path), time.monotonic() - began
    if before is None or after is None:
        return None
    taken = (after - before) / os.sysconf("SC_CLK_TCK") - (time.process_time() - mine)
    return taken / elapsed / len(os.sched_getaffinity(0))


def _ticks(path: Path) -> int | None:
    """For how long the cores that this process may use have been busy, None where nobody counts."""
    try:
        cores = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        rows = [line.split() for line in path.read_text(encoding="ascii").splitlines()]
        counts = [row[1:] for row in rows if row and row[0] in cores]
        return sum(int(row[i]) for row in counts for i in BUSY_COLUMNS) if counts else None
    except (AttributeError, OSError, ValueError, IndexError):
        return None
