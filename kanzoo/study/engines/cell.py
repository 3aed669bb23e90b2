"""One cell, as a worker of any engine runs it: trained here, or as processes of its own."""

import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

from kanzoo.errors import (
    BUSY_CODE,
    OUT_OF_MEMORY,
    BusyError,
    DivergedError,
    SeparateError,
    Stopped,
    is_out_of_memory,
)
from kanzoo.study.plan import Cell

FINISHED, FAILED, DIVERGED, BUSY = "finished", "failed", "diverged", "busy"
UNTRIED = "untried"  # lost with others before its turn came
Train = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Outcome:
    """How an attempt at a cell ended, and the reason in one line if it did not work."""

    status: str
    reason: str = ""


def run_cell(cell: Cell, train: Train, cell_timeout: float | None = None) -> Outcome:
    """Train a cell; whatever it raises becomes an outcome.

    The timeout is applied to processes of the cell's own only; of this one, the engine takes care.
    """
    try:
        if is_multi_device(cell):
            return _run_alone(cell, cell_timeout)
        train(cell.config)
    except Stopped as stop:  # this worker was asked to end, and has saved what it was at
        os._exit(stop.code)
    except (Exception, SystemExit) as error:
        return outcome_of(error)
    return Outcome(FINISHED)


def run_seeds(cells: Sequence[Cell]) -> list[Outcome]:
    """Train cells that differ in the seed alone together; those that cannot be are untried."""
    from kanzoo.run.seeds import train_seeds

    try:
        ends = train_seeds([cell.config for cell in cells])
    except Stopped as stop:
        os._exit(stop.code)
    except (Exception, SystemExit) as error:
        return [Outcome(UNTRIED, one_line(error))] * len(cells)
    return [Outcome(FINISHED) if error is None else outcome_of(error) for error in ends]


def outcome_of(error: BaseException) -> Outcome:
    """The outcome of an attempt that raised."""
    if isinstance(error, BusyError):
        return Outcome(BUSY)
    if isinstance(error, DivergedError):
        return Outcome(DIVERGED, one_line(error))
    if isinstance(error, SeparateError):
        return Outcome(UNTRIED, str(error))
    return Outcome(FAILED, one_line(error))


def one_line(error: BaseException) -> str:
    """What went wrong, in one line."""
    text = " ".join(traceback.format_exception_only(error)[-1].split())[:500]
    if is_out_of_memory(error):
        return f"{OUT_OF_MEMORY}: {text}"
    return f"{error}" if isinstance(error, DivergedError) else text


def death(exit_code: int | None) -> str:
    """Why a process is gone, from its exit code as `subprocess` gives it."""
    if exit_code is None or exit_code >= 0:
        return f"the worker process died with exit code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    hint = ", as where memory runs out" if name == "SIGKILL" else ""
    return f"the worker process was killed by {name}{hint}"


def timed_out(cell_timeout: float | None) -> Outcome:
    """The outcome of a cell that hung."""
    return Outcome(FAILED, f"took longer than cell_timeout={cell_timeout or 0:g} s")


def is_multi_device(cell: Cell) -> bool:
    """Whether a cell trains on several devices, which takes processes of its own."""
    trainer = cell.settings.trainer
    return trainer.strategy != "auto" or not trainer.is_one_process


def prepare_worker(
    threads: int, memory_limit_gb: float | None, gpus: str | None = None, *, shared: bool = True
) -> None:
    """Set up a fresh worker process: its threads, its memory, and its end if the parent ends.

    With `gpus`, as in `CUDA_VISIBLE_DEVICES`, it sees these alone; cells of several devices, which
    are processes of their own, see all where GPUs are `shared`.
    """
    import torch

    import kanzoo.training.task
    import kanzoo.training.trainer  # noqa: F401  seconds that the first cell is not to be charged

    torch.set_num_threads(threads)
    logging.getLogger("kanzoo").setLevel(logging.ERROR)  # the rest stands in each cell's result
    if shared:
        _environment.update(os.environ)
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    if memory_limit_gb is not None:
        _limit_memory(memory_limit_gb)
    threading.Thread(target=_end_with_parent, args=[os.getppid()], daemon=True).start()


def _limit_memory(gigabytes: float) -> None:
    # Private writable memory, not address space: that is reserved in amounts beyond any use.
    import resource

    limit = int(gigabytes * 2**30)
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    if most != resource.RLIM_INFINITY:
        limit = min(limit, most)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, most))


_environment: dict[str, str] = {}  # environment of a worker before it was given one GPU
_processes: list["subprocess.Popen[bytes]"] = []


def _end_with_parent(parent: int) -> None:
    """A driver that was killed cannot stop its workers: they look after it."""
    while os.getppid() == parent:
        time.sleep(0.5)
    _end()


def _end(*_: Any) -> None:
    """End this worker and the processes that it started."""
    for process in list(_processes):
        _kill_group(process)
    os._exit(1)


def _run_alone(cell: Cell, cell_timeout: float | None) -> Outcome:
    """Train a cell with the command that trains it alone, in a process group of its own."""
    command = [sys.executable, "-m", "kanzoo.train", *cell.overrides]
    environment = {
        **(_environment or os.environ),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    if "SLURM_JOB_ID" not in environment and "OMP_NUM_THREADS" in environment:
        # Its processes share what this one has; under SLURM each has its own.
        share = int(environment["OMP_NUM_THREADS"]) // (cell.settings.trainer.num_devices or 1)
        environment["OMP_NUM_THREADS"] = str(max(1, share))
    with tempfile.TemporaryFile() as output, _on_sigterm(_end):
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
        )
        _processes.append(process)
        try:
            code = process.wait(cell_timeout)
        except subprocess.TimeoutExpired:
            return timed_out(cell_timeout)
        finally:
            _kill_group(process)
            _processes.remove(process)
        if code == 0:
            return Outcome(FINISHED)
        if code == BUSY_CODE:
            return Outcome(BUSY)
        return Outcome(FAILED, death(code) if code < 0 else _last_error(output))


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextlib.contextmanager
def _on_sigterm(handler: Callable[..., None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _last_error(output: IO[bytes]) -> str:
    """The line of a process' output that says why it failed."""
    output.seek(0)
    lines = [line.strip() for line in output.read().decode(errors="replace").splitlines()]
    errors = [
        line for line in lines if re.match(r"kanzoo: |[\w.]*(Error|Exception|Interrupt)\b", line)
    ]
    line = (errors or [line for line in lines if line] or ["it said nothing"])[-1]
    return line.removeprefix("kanzoo: ")[:500]
