"""The local engine: cells in warm worker processes that survive whatever a cell does."""

import logging
import os
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, TimeoutError, wait
from multiprocessing import get_context
from typing import Any

from pebble import ProcessExpired, ProcessPool

from kanzoo.rundir import write_atomic
from kanzoo.study.plan import Cell

Result = dict[str, Any]
Train = Callable[[dict[str, Any]], Result]


def run_local(
    cells: Iterable[Cell],
    train: Train,
    *,
    workers: int,
    threads: int,
    cell_timeout: float | None,
    max_retries: int,
    on_end: Callable[[Cell, str], None],
) -> None:
    """Train all cells and report each to `on_end(cell, reason)`; the reason is empty if it worked.

    Results are in the folders of the runs. A cell that raises, dies or outlasts `cell_timeout`
    seconds is tried `max_retries` times more; the others go on. On an interrupt the workers stop
    and the exception goes on.
    """
    environment = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)  # read by the spawned workers when they load PyTorch
    pool = ProcessPool(
        workers, context=get_context("spawn"), initializer=_start, initargs=[threads]
    )
    try:
        _drive(pool, list(cells), train, cell_timeout, max_retries, on_end)
        pool.close()
    except BaseException:
        pool.stop()
        raise
    finally:
        pool.join()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _drive(
    pool: ProcessPool,
    cells: list[Cell],
    train: Train,
    cell_timeout: float | None,
    max_retries: int,
    on_end: Callable[[Cell, str], None],
) -> None:
    tries: dict[Future, tuple[Cell, int]] = {}

    def submit(cell: Cell, attempt: int) -> None:
        future = pool.schedule(train, args=[cell.config], timeout=cell_timeout)
        tries[future] = (cell, attempt)

    for cell in cells:
        submit(cell, 0)
    while tries:
        ended, _ = wait(tries, return_when=FIRST_COMPLETED)
        for future in ended:
            cell, attempt = tries.pop(future)
            reason = _reason(future, cell_timeout)
            if reason and attempt < max_retries:
                submit(cell, attempt + 1)
                continue
            if reason:
                record_failure(cell, reason)
            on_end(cell, reason)


def _start(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    logging.getLogger("kanzoo").setLevel(logging.WARNING)


def _reason(future: Future, cell_timeout: float | None) -> str:
    """Why a cell failed, in one line; empty if it did not."""
    error = future.exception()
    if error is None:
        return ""
    if isinstance(error, TimeoutError):
        return f"took longer than cell_timeout={cell_timeout:g} s"
    if isinstance(error, ProcessExpired):
        return f"the worker process died with exit code {error.exitcode}"
    return " ".join(traceback.format_exception_only(error)[-1].split())[:500]


def record_failure(cell: Cell, reason: str) -> None:
    """Leave the reason in the folder of the run, for the report."""
    folder = cell.folder.path
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "failure.txt", reason + "\n")
