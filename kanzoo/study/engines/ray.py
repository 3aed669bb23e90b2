"""The Ray engine: cells on the nodes of a cluster, in actors that stay warm."""

import contextlib
import importlib.util
import os
import re
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanzoo.checks import Count, NotNegative, check_value, check_whole
from kanzoo.errors import EngineError
from kanzoo.study.engines.base import Engine, Session, cores
from kanzoo.study.engines.cell import (
    FAILED,
    Outcome,
    Train,
    is_multi_device,
    one_line,
    prepare_worker,
    run_cell,
    timed_out,
)
from kanzoo.study.plan import Cell

GRACE = 10.0  # seconds more that a worker has to end the processes of a hung cell
REACHABLE = 5.0  # seconds within which a cluster must answer
STORE = 100 * 2**20  # bytes for objects in a cluster of our own: cells send next to none


class RayEngine(Engine):
    """Actors on a Ray cluster, one a cell at a time.

    `address` is that of a running cluster (`HOST:PORT`, or `auto` on one of its nodes), None for
    one of this machine that lasts as long as the study. Every actor takes `cpus_per_cell` and
    `gpus_per_cell`, which may be a fraction: 0.25 lets four cells share a GPU. `workers` is how
    many there are, by default as many as the cluster has room for at the start. All nodes must see
    this working directory and the folder of the runs.
    """

    def __init__(
        self,
        *,
        address: str | None = None,
        workers: int | None = None,
        cpus_per_cell: int = 1,
        gpus_per_cell: float = 0,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        check_value("engine.workers", workers, Count | None)
        check_whole("engine.cpus_per_cell", cpus_per_cell, 1)
        check_value("engine.gpus_per_cell", gpus_per_cell, NotNegative)
        if address is not None and not re.fullmatch(r"auto|[\w.-]+:\d{1,5}", str(address)):
            raise ValueError(f"engine.address must be HOST:PORT, auto or null, got {address!r}")
        self.address = address
        self.workers = workers
        self.cpus_per_cell = cpus_per_cell
        self.gpus_per_cell = gpus_per_cell

    def check(self, cells: Sequence[Cell]) -> None:
        if importlib.util.find_spec("ray") is None:
            raise ValueError("engine=ray needs the extra: pip install 'kanzoo[ray]'")
        for cell in cells:
            self._check_cell(cell)
        if self.address is None:
            most = cores()
            if self.cpus_per_cell > most:
                raise ValueError(
                    f"engine.cpus_per_cell={self.cpus_per_cell}, but this machine has {most}"
                )
        else:
            _check_reachable(self.address)

    def _check_cell(self, cell: Cell) -> None:
        trainer = cell.settings.trainer
        if trainer.num_nodes > 1:
            raise ValueError("engine=ray keeps a cell on one node: trainer.num_nodes must be 1")
        if trainer.accelerator != "gpu":
            return
        needed = trainer.num_devices or 1 if is_multi_device(cell) else 0
        if self.gpus_per_cell < max(needed, 1e-9):
            raise ValueError(
                f"trainer.accelerator=gpu, but engine.gpus_per_cell={self.gpus_per_cell:g}"
                + (f" for trainer.devices={needed}" if needed else "")
            )

    def describe(self, count: int) -> str:
        where = f"the Ray cluster at {self.address}" if self.address else "Ray on this machine"
        share = f"{self.cpus_per_cell} CPUs"
        if self.gpus_per_cell:
            share += f" and {self.gpus_per_cell:g} GPUs"
        return f"{where}, {share} a cell"

    @contextmanager
    def session(self, count: int, folder: Path, train: Train) -> Iterator[Session]:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray

        options: dict[str, Any] = {}
        if self.address is None:
            options = {"num_cpus": cores(), "object_store_memory": STORE}
            options["include_dashboard"] = False
        try:
            ray.init(address=self.address, log_to_driver=False, logging_level="ERROR", **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise EngineError(f"Ray does not start: {one_line(error)}") from error
        session = None
        try:
            room = self._room(ray.cluster_resources())
            session = _RaySession(self, min(self.workers or room, count), train)
            yield session
        finally:
            if session is not None:
                session.close()
            ray.shutdown()

    def _room(self, resources: dict[str, float]) -> int:
        room = resources.get("CPU", 0) // self.cpus_per_cell
        if self.gpus_per_cell:
            room = min(room, resources.get("GPU", 0) // self.gpus_per_cell)
        return max(1, int(room))


class _CellActor:
    """Runs in a process of its own on some node."""

    def __init__(
        self, train: Train, folder: str, threads: int, memory_limit_gb: float | None
    ) -> None:
        os.chdir(folder)
        prepare_worker(threads, memory_limit_gb)
        self.train = train

    def ready(self) -> bool:
        return True

    def run(self, cell: Cell, cell_timeout: float | None) -> Outcome:
        return run_cell(cell, self.train, cell_timeout)


@dataclass
class _Worker:
    """An actor and what it is doing: starting (no cell) or running one until `deadline`."""

    actor: Any
    cell: Cell | None = None
    deadline: float = float("inf")


class _RaySession(Session):
    def __init__(self, engine: RayEngine, workers: int, train: Train) -> None:
        import ray

        super().__init__(engine.max_retries)
        self._ray = ray
        self._cell_timeout = engine.cell_timeout
        self._arguments = (train, os.getcwd(), engine.cpus_per_cell, engine.memory_limit_gb)
        self._actor_class = ray.remote(
            num_cpus=engine.cpus_per_cell,
            num_gpus=engine.gpus_per_cell,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=1,
        )(_CellActor)
        self._waiting: deque[Cell] = deque()
        self._idle: list[_Worker] = []
        self._pending: dict[Any, _Worker] = {}  # by the reference of what they were asked
        for _ in range(workers):
            self._hire()

    def start(self, cells: Sequence[Cell]) -> None:
        self._waiting.extend(cells)
        while self._waiting and self._idle:
            worker = self._idle.pop()
            worker.cell = self._waiting.popleft()
            if self._cell_timeout is not None:
                grace = GRACE if is_multi_device(worker.cell) else 0.0
                worker.deadline = time.monotonic() + self._cell_timeout + grace
            reference = worker.actor.run.remote(worker.cell, self._cell_timeout)
            self._pending[reference] = worker

    def ended(self) -> Iterable[tuple[Cell, Outcome]]:
        outcomes: list[tuple[Cell, Outcome]] = []
        if not self._pending:
            time.sleep(1.0)
            return outcomes
        done, _ = self._ray.wait(list(self._pending), num_returns=1, timeout=1.0)
        for reference in done:
            worker = self._pending.pop(reference)
            cell, outcome = worker.cell, self._outcome(reference)
            worker.cell, worker.deadline = None, float("inf")
            if outcome is None:  # the worker, or its node, is gone
                self._hire()
                outcome = Outcome(FAILED, "the worker or its node died")
            else:
                self._idle.append(worker)
            if cell is not None:
                outcomes.append((cell, outcome))
        for reference, worker in list(self._pending.items()):
            if worker.cell is not None and time.monotonic() > worker.deadline:
                del self._pending[reference]
                outcomes.append((worker.cell, timed_out(self._cell_timeout)))
                self._ray.kill(worker.actor)
                self._hire()
        return outcomes

    def close(self) -> None:
        for worker in [*self._idle, *self._pending.values()]:
            with contextlib.suppress(Exception):
                self._ray.kill(worker.actor)

    def _hire(self) -> None:
        """Ask for another actor; cells are given to it once it has a place and is warm."""
        worker = _Worker(self._actor_class.remote(*self._arguments))
        self._pending[worker.actor.ready.remote()] = worker

    def _outcome(self, reference: Any) -> Outcome | None:
        """What the actor said, None if it is no more."""
        try:
            answer = self._ray.get(reference)
        except self._ray.exceptions.RayActorError as error:
            if isinstance(error, self._ray.exceptions.ActorDiedError) and "__init__" in str(error):
                cause = str(error).strip().splitlines()[-1]
                raise EngineError(f"Ray workers cannot start: {cause}") from error
            return None
        except self._ray.exceptions.RayError as error:
            return Outcome(FAILED, one_line(error))
        return answer if isinstance(answer, Outcome) else Outcome("ready")


def _check_reachable(address: str) -> None:
    """Raise `ValueError` unless a Ray cluster answers at an address."""
    refusal = ValueError(f"engine.address={address}: no Ray cluster answers there")
    words = [sys.executable, "-m", "ray.scripts.scripts", "health-check"]
    if address != "auto":
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=REACHABLE).close()
        except (OSError, OverflowError):
            raise refusal from None
        words += ["--address", address]
    if subprocess.run(words, capture_output=True, timeout=60).returncode:
        raise refusal
