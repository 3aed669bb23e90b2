"""The local engine: warm worker processes that survive whatever a cell does."""

import os
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, TimeoutError, wait
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pebble import ProcessExpired, ProcessPool

from kanzoo.checks import Count, check_value
from kanzoo.study.engines.base import Engine, Session, cores
from kanzoo.study.engines.cell import (
    FAILED,
    Outcome,
    Train,
    death,
    is_multi_device,
    prepare_worker,
    run_cell,
    timed_out,
)
from kanzoo.study.plan import Cell

GRACE = 10.0  # seconds more that a worker has to end the processes of a hung cell


class LocalEngine(Engine):
    """Worker processes on this machine.

    `workers` of them, by default one a core, with `threads` each, by default the cores shared out.
    Where there are several GPUs, the workers are spread over them; cells of several devices see
    all of them.
    """

    is_local = True

    def __init__(
        self, *, workers: int | None = None, threads: int | None = None, **common: Any
    ) -> None:
        super().__init__(**common)
        check_value("engine.workers", workers, Count | None)
        check_value("engine.threads", threads, Count | None)
        self.workers = workers
        self.threads = threads

    def check(self, cells: Sequence[Cell]) -> None:
        """Nothing can be missing here."""

    def shares(self, count: int) -> tuple[int, int]:
        """Workers for so many cells, and threads of each."""
        workers = min(self.workers or cores(), count)
        return workers, self.threads or max(1, cores() // workers)

    def describe(self, count: int) -> str:
        workers, threads = self.shares(count)
        return f"{workers} workers of {threads} threads"

    @contextmanager
    def session(self, count: int, folder: Path, train: Train) -> Iterator[Session]:
        workers, threads = self.shares(count)
        with _environment(threads), tempfile.TemporaryDirectory() as slots:
            session = _LocalSession(self, workers, (threads, self.memory_limit_gb, slots), train)
            try:
                yield session
                session.pool.close()
            except BaseException:
                session.pool.stop()
                raise
            finally:
                session.pool.join()


class _LocalSession(Session):
    """A pool of processes, fed with few cells at a time, so that it can be stopped at once."""

    def __init__(
        self, engine: LocalEngine, workers: int, start: tuple[Any, ...], train: Train
    ) -> None:
        super().__init__(engine.max_retries)
        self._cell_timeout = engine.cell_timeout
        self._workers, self._start, self._train = workers, start, train
        self._waiting: deque[Cell] = deque()
        self._running: dict[Future[Outcome], Cell] = {}
        self.pool = self._new_pool()

    def _new_pool(self) -> ProcessPool:
        context = get_context("spawn")  # after a fork, OpenMP hangs in the child
        return ProcessPool(
            self._workers, context=context, initializer=_start_worker, initargs=self._start
        )

    def start(self, cells: Sequence[Cell]) -> None:
        self._waiting.extend(cells)
        while self._waiting and len(self._running) < 2 * self._workers and self.pool.active:
            cell = self._waiting.popleft()
            timeout = self._cell_timeout
            if timeout is not None and is_multi_device(cell):
                timeout += GRACE  # it is ended by `run_cell`
            arguments = [cell, self._train, self._cell_timeout]
            future = self.pool.schedule(run_cell, args=arguments, timeout=timeout)
            self._running[future] = cell

    def ended(self) -> Iterable[tuple[Cell, Outcome]]:
        if self._running:
            done, _ = wait(self._running, timeout=1.0, return_when=FIRST_COMPLETED)
        else:
            time.sleep(1.0)
            done = set()
        if not self.pool.active:  # a worker ended while it had no cell
            self.pool.stop()
            self.pool.join()
            self.pool = self._new_pool()
            done = set(self._running)
        return [(self._running.pop(future), self._outcome(future)) for future in done]

    def _outcome(self, future: Future[Outcome]) -> Outcome:
        if not future.done():
            return Outcome(FAILED, "the worker processes broke down")
        error = future.exception()
        if error is None:
            return future.result()
        if isinstance(error, TimeoutError):
            return timed_out(self._cell_timeout)
        if isinstance(error, ProcessExpired):
            return Outcome(FAILED, death(error.exitcode))
        return Outcome(FAILED, f"the worker processes broke down: {error}")


@contextmanager
def _environment(threads: int) -> Iterator[None]:
    """Variables that the spawned workers read when they load PyTorch."""
    ours = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _start_worker(threads: int, memory_limit_gb: float | None, slots: str) -> None:
    import torch

    gpu = None
    if (count := torch.cuda.device_count()) > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else [str(i) for i in range(count)]
        gpu = names[_slot(Path(slots)) % len(names)]
    prepare_worker(threads, memory_limit_gb, gpu)


_held: list[FileLock] = []


def _slot(folder: Path) -> int:
    """The smallest number that no other living worker has."""
    number = 0
    while True:
        lock = FileLock(folder / str(number))
        try:
            lock.acquire(blocking=False)
        except Timeout:
            number += 1
            continue
        _held.append(lock)
        return number
