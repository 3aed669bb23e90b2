"""The local engine: warm worker processes that survive whatever a cell does."""

import logging
import os
import signal
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, TimeoutError, wait
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pebble import CONSTS, ProcessExpired, ProcessPool

from kanzoo.checks import Count, check_value
from kanzoo.hardware import WORKERS
from kanzoo.study.engines.base import Engine, Session, cores
from kanzoo.study.engines.cell import (
    FAILED,
    UNTRIED,
    Outcome,
    Train,
    death,
    is_multi_device,
    prepare_worker,
    run_cell,
    run_seeds,
    timed_out,
)
from kanzoo.study.engines.gpus import check_share, gpus_of, room, visible_gpus
from kanzoo.study.plan import Cell

log = logging.getLogger("kanzoo")

MAX_SEEDS = 8  # that are trained together: with more, little is gained and more is lost by a crash
GRACE = 10.0  # seconds more that a worker has to end the processes of a hung cell
SECONDS_TO_SAVE = 30.0  # that a worker has, once it was asked to end, before it is killed


class LocalEngine(Engine):
    """Worker processes on this machine.

    `workers` of them, by default one a core, with `threads` each, by default the cores shared out.
    Where there are several GPUs, the workers are spread over them; cells of several devices see
    all of them. With `gpus_per_cell` there are as many workers as have room: 0.25 lets four cells
    share a GPU, 1 is one process a GPU, and with 2 each worker has two for cells of two devices.
    With `vectorise` the seeds of a cell are trained together in one worker, where its
    network and recipe allow it; times of a single run are then not measured.
    """

    is_local = True

    def __init__(
        self,
        *,
        workers: int | None = None,
        threads: int | None = None,
        gpus_per_cell: float | None = None,
        vectorise: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        check_share(gpus_per_cell)
        check_value("engine.vectorise", vectorise, bool)
        check_value("engine.workers", workers, Count | None)
        check_value("engine.threads", threads, Count | None)
        self.workers = workers
        self.threads = threads
        self.gpus_per_cell = gpus_per_cell
        self.vectorise = vectorise

    def check(self, cells: Sequence[Cell]) -> None:
        """Raise `ValueError` where cells cannot have the GPUs that they need."""
        share = self.gpus_per_cell
        if share is None:
            return
        names = visible_gpus()
        if not room(share, names):
            raise ValueError(
                f"engine.gpus_per_cell={share:g}, but this machine has {len(names)} GPUs"
            )
        for trainer in (cell.settings.trainer for cell in cells):
            if (needed := trainer.num_devices or len(names)) > max(1, share):
                raise ValueError(
                    f"trainer.devices={needed}, but engine.gpus_per_cell={share:g} a cell"
                )

    def shares(self, count: int) -> tuple[int, int]:
        """Workers for so many cells, and threads of each."""
        most = self.workers or cores()
        if self.gpus_per_cell is not None:
            fit = room(self.gpus_per_cell, visible_gpus())
            most = min(self.workers or fit, fit)
        workers = min(most, count)
        return workers, self.threads or max(1, cores() // workers)

    def describe(self, count: int) -> str:
        workers, threads = self.shares(count)
        return f"{workers} workers of {threads} threads"

    @contextmanager
    def session(self, count: int, folder: Path, train: Train) -> Iterator[Session]:
        workers, threads = self.shares(count)
        with _environment(threads, workers), tempfile.TemporaryDirectory() as slots:
            session = _LocalSession(
                self, workers, (threads, self.memory_limit_gb, slots, self.gpus_per_cell), train
            )
            try:
                yield session
                session.pool.close()
            except BaseException:
                CONSTS.term_timeout = SECONDS_TO_SAVE
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
        self._vectorise = engine.vectorise
        self._waiting: deque[list[Cell]] = deque()
        self._running: dict[Future[Any], list[Cell]] = {}
        self._grouped: set[Path] = set()
        self._refused: set[str] = set()
        self.pool = self._new_pool()

    def _new_pool(self) -> ProcessPool:
        context = get_context("spawn")  # after a fork, OpenMP hangs in the child
        return ProcessPool(
            self._workers, context=context, initializer=_start_worker, initargs=self._start
        )

    def start(self, cells: Sequence[Cell]) -> None:
        # What comes again is trained by itself.
        fresh: list[Cell] = []
        alone: list[Cell] = []
        for cell in cells:
            is_fresh = self._vectorise and cell.folder.path not in self._grouped
            (fresh if is_fresh else alone).append(cell)
        self._grouped |= {cell.folder.path for cell in fresh}
        self._waiting.extend(groups_of_seeds(fresh, self._workers))
        self._waiting.extend([cell] for cell in alone)
        while self._waiting and len(self._running) < 2 * self._workers and self.pool.active:
            group = self._waiting.popleft()
            timeout = self._cell_timeout
            if timeout is not None:  # a cell of several devices is ended by `run_cell`
                timeout = timeout * len(group) + (GRACE if is_multi_device(group[0]) else 0)
            call: Callable[..., Any] = run_cell
            arguments = [group[0], self._train, self._cell_timeout]
            if len(group) > 1:
                call, arguments = run_seeds, [group]
            future = self.pool.schedule(call, args=arguments, timeout=timeout)
            self._running[future] = group

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
        ends = [(self._running.pop(future), future) for future in done]
        return [pair for cells, future in ends for pair in self._pairs(cells, future)]

    def _pairs(self, cells: list[Cell], future: Future[Any]) -> list[tuple[Cell, Outcome]]:
        outcome = self._outcome(future)
        if len(cells) == 1:
            return [(cells[0], outcome)]
        if isinstance(outcome, Outcome):  # a crash: nobody knows by which of them
            outcome = [Outcome(UNTRIED, outcome.reason)] * len(cells)
        for cell, end in zip(cells, outcome, strict=True):
            kind = " ".join(filter(None, cell.kind))
            if end.status == UNTRIED and kind not in self._refused:
                self._refused.add(kind)
                log.warning("%s: seeds are not trained together: %s", kind, end.reason)
        return list(zip(cells, outcome, strict=True))

    def _outcome(self, future: Future[Any]) -> Any:
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


def groups_of_seeds(cells: Sequence[Cell], workers: int) -> list[list[Cell]]:
    """Cells that differ in the seed alone, at most `MAX_SEEDS` together, and some for each worker.

    Cells of several devices stay alone.
    """
    kinds: dict[object, list[Cell]] = {}
    for cell in cells:
        path = cell.folder.path
        kinds.setdefault(path if is_multi_device(cell) else path.parent, []).append(cell)
    shares = -(-workers // max(1, len(kinds)))  # of a kind, so that no worker has nothing to do
    groups = []
    for group in kinds.values():
        count = max(min(shares, len(group)), -(-len(group) // MAX_SEEDS))
        groups += [group[i::count] for i in range(count)]
    return groups


@contextmanager
def _environment(threads: int, workers: int) -> Iterator[None]:
    """Variables that the spawned workers read when they load PyTorch, and their number."""
    ours = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    ours[WORKERS] = str(workers)
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


def _start_worker(
    threads: int, memory_limit_gb: float | None, slots: str, gpus_per_cell: float | None
) -> None:
    gpus = gpus_of(_slot(Path(slots)), gpus_per_cell, visible_gpus())
    prepare_worker(threads, memory_limit_gb, gpus, shared=gpus_per_cell is None)
    # The pool ends workers by it: one that trains then saves first, see `stopping_between_batches`.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


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
