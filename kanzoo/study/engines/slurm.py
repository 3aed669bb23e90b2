"""The SLURM engine: cells as the tasks of job arrays, which outlive the driver.

The driver submits and polls. What it submitted stands in files of the study's folder, each under a
name that SLURM knows too, so that a driver that comes after one that was killed finds the jobs.
"""

import importlib.util
import json
import logging
import math
import os
import pickle
import shutil
import subprocess
import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from kanzoo.checks import Positive, check_name, check_value, check_whole
from kanzoo.errors import EngineError
from kanzoo.files import write_atomic
from kanzoo.study.engines.base import Engine, Session
from kanzoo.study.engines.cell import (
    FAILED,
    FINISHED,
    Outcome,
    Train,
    is_multi_device,
)
from kanzoo.study.engines.gpus import cells_per_gpu, check_share
from kanzoo.study.engines.slurm_commands import check_request, last_state, partitions, queued
from kanzoo.study.engines.slurm_job import (
    Batch,
    Chunk,
    Job,
    RequeuedChunk,
    journal_of,
    outcomes_of_lost,
)
from kanzoo.study.plan import Cell

log = logging.getLogger("kanzoo")

MAX_ARRAY = 1000  # tasks of an array; SLURM allows 1001 where nothing else is configured
GRACE = 30.0  # seconds that the result of a job that has left the queue may take to be seen
LOST = "left no result"


class SlurmEngine(Engine):
    """Job arrays on a SLURM cluster, by submitit.

    `time` is the limit of a job in minutes, `max_parallel` how many jobs of an array run at once,
    `cells_per_job` how many cells a job trains one after the other in a warm worker, or with a part
    of a GPU for `gpus_per_cell` as many at once as share it. A job asks for `cpus_per_cell`,
    `gpus_per_cell` and `memory_limit_gb`; a cell of several devices for as many tasks, and GPUs, as
    it has devices. With `requeue`, jobs that are preempted, lose their node or reach their time
    limit are queued again and go on from the last epoch. The folder of the runs
    must be one that all nodes see. `poll_seconds` pass between two looks at the queue.
    """

    def __init__(
        self,
        *,
        partition: str | None = None,
        account: str | None = None,
        time: int = 60,
        max_parallel: int = 256,
        cells_per_job: int = 1,
        cpus_per_cell: int = 1,
        gpus_per_cell: float = 0,
        requeue: bool = True,
        poll_seconds: float = 5.0,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        for name, value in (
            ("time", time),
            ("max_parallel", max_parallel),
            ("cells_per_job", cells_per_job),
            ("cpus_per_cell", cpus_per_cell),
        ):
            check_whole(f"engine.{name}", value, 1)
        if gpus_per_cell:
            check_share(gpus_per_cell)
        if 0 < gpus_per_cell < 1 and cells_per_job < cells_per_gpu(gpus_per_cell):
            raise ValueError(
                f"engine.gpus_per_cell={gpus_per_cell:g}: the cells of a job share its GPU, so "
                f"engine.cells_per_job must be at least {cells_per_gpu(gpus_per_cell)}"
            )
        check_value("engine.poll_seconds", poll_seconds, Positive)
        self.partition = partition
        self.account = account
        self.time = time
        self.max_parallel = max_parallel
        self.cells_per_job = cells_per_job
        self.cpus_per_cell = cpus_per_cell
        self.gpus_per_cell = gpus_per_cell
        self.requeue = requeue
        self.poll_seconds = poll_seconds

    def check(self, cells: Sequence[Cell]) -> None:
        if importlib.util.find_spec("submitit") is None:
            raise ValueError("engine=slurm needs the extra: pip install 'kanzoo[slurm]'")
        for command in ("sbatch", "squeue", "sinfo", "srun", "scancel"):
            if shutil.which(command) is None:
                raise ValueError(f"engine=slurm needs SLURM, and there is no command {command!r}")
        for cell in cells:
            trainer = cell.settings.trainer
            if trainer.num_devices is None:
                raise ValueError("engine=slurm needs trainer.devices to be a number, not auto")
            if self.at_once > 1 and is_multi_device(cell):
                raise ValueError(
                    f"engine.gpus_per_cell={self.gpus_per_cell:g}, but a cell has several devices"
                )
            if trainer.accelerator == "gpu" and not self.gpus_per_cell:
                raise ValueError("trainer.accelerator=gpu, but engine.gpus_per_cell=0")
        try:
            known = partitions()
            if self.partition is not None:
                check_name("SLURM partition", self.partition, known)
            requests = {json.dumps(self.request(cell)): cell for cell in cells}
            for cell in requests.values():
                check_request(self.request(cell))
        except EngineError as error:
            raise ValueError(f"engine=slurm: {error}") from None

    def describe(self, count: int) -> str:
        return f"SLURM partition {self.partition or '(default)'}, {self.cells_per_job} cells a job"

    @contextmanager
    def session(self, count: int, folder: Path, train: Train) -> Iterator[Session]:
        session = _SlurmSession(self, folder.resolve() / "slurm", train)
        try:
            yield session
        except BaseException:
            session.cancel()
            raise

    @property
    def at_once(self) -> int:
        """How many cells of a job are trained at the same time."""
        return cells_per_gpu(self.gpus_per_cell) if 0 < self.gpus_per_cell < 1 else 1

    def request(self, cell: Cell) -> dict[str, Any]:
        """What a job of cells like this one asks SLURM for, as options of `sbatch`."""
        trainer = cell.settings.trainer
        tasks = (trainer.num_devices or 1) if is_multi_device(cell) else 1
        gpus = max(math.ceil(self.gpus_per_cell), tasks) if self.gpus_per_cell else None
        memory = None if self.memory_limit_gb is None else self.memory_limit_gb * self.at_once
        wanted = {
            "partition": self.partition,
            "account": self.account,
            "time": self.time,
            "nodes": trainer.num_nodes,
            "ntasks_per_node": tasks,
            "cpus_per_task": self.cpus_per_cell * self.at_once,
            "gpus_per_node": gpus,
            "mem": f"{int(memory * 1024)}M" if memory is not None else None,
        }
        return {name: value for name, value in wanted.items() if value is not None}

    def parameters(self, cell: Cell) -> dict[str, Any]:
        """The same for submitit, and how it is to run the job."""
        return {
            **self.request(cell),
            "array_parallelism": self.max_parallel,
            "signal_delay_s": min(90, 15 * self.time),
            "srun_args": [
                "--kill-on-bad-exit=1",
                f"--cpus-per-task={self.cpus_per_cell * self.at_once}",
            ],
            "additional_parameters": {"requeue" if self.requeue else "no-requeue": True},
        }


class _SlurmSession(Session):
    def __init__(self, engine: SlurmEngine, folder: Path, train: Train) -> None:
        super().__init__(engine.max_retries)
        self._engine, self._folder, self._train = engine, folder, train
        self._waiting: deque[Cell] = deque()
        self._batches: list[Batch] = []
        self._was_seen = False

    def start(self, cells: Sequence[Cell]) -> None:
        """Submit cells; the first time, those that an earlier driver submitted are left out."""
        if not cells:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self._folder / ".lock"):  # one driver at a time looks and submits
            if not self._was_seen:
                cells = self._find_submitted(cells)
                self._was_seen = True
            groups: dict[str, list[Cell]] = {}
            for cell in cells:
                groups.setdefault(json.dumps(self._engine.parameters(cell)), []).append(cell)
            for group in groups.values():
                size = self._engine.cells_per_job
                chunks = [group[i : i + size] for i in range(0, len(group), size)]
                for i in range(0, len(chunks), MAX_ARRAY):
                    self._submit(chunks[i : i + MAX_ARRAY])

    def ended(self) -> Iterable[tuple[Cell, Outcome]]:
        outcomes: list[tuple[Cell, Outcome]] = []
        if any(batch.jobs for batch in self._batches):
            queue = self._queue()
            for batch in self._batches:
                for job in list(batch.jobs):
                    ended = self._outcomes(job, queue)
                    if ended is not None:
                        batch.jobs.remove(job)
                        outcomes += zip(job.cells, ended, strict=True)
                if not batch.jobs:
                    self._record(batch).unlink(missing_ok=True)
            self._batches = [batch for batch in self._batches if batch.jobs]
        if not outcomes:
            time.sleep(self._engine.poll_seconds)
        return outcomes

    def cancel(self) -> None:
        """End all jobs of this session."""
        ids = [job.id for batch in self._batches for job in batch.jobs]
        if ids:
            subprocess.run(["scancel", *ids], capture_output=True)

    def _submit(self, chunks: list[list[Cell]]) -> None:
        import submitit

        batch = Batch(f"kanzoo-{uuid.uuid4().hex[:12]}", [[_key(c) for c in k] for k in chunks])
        # Written before, so that a driver killed in between leaves nothing that cannot be found.
        write_atomic(self._record(batch), json.dumps(batch.chunks))
        self._batches.append(batch)
        requeue = self._engine.requeue
        executor = submitit.SlurmExecutor(
            self._folder / "logs", max_num_timeout=max(1, self.max_retries) if requeue else 0
        )
        executor.update_parameters(job_name=batch.name, **self._engine.parameters(chunks[0][0]))
        job = (RequeuedChunk if requeue else Chunk)(
            self._train,
            os.getcwd(),
            str(self._folder / "logs"),
            workers=self._engine.at_once,
            threads=self._engine.cpus_per_cell,
            cell_timeout=self._engine.cell_timeout,
            memory_limit_gb=self._engine.memory_limit_gb,
        )
        try:
            jobs = executor.map_array(job, chunks)
        except submitit.core.utils.FailedJobError as error:
            answer = " ".join(str(error).split())
            raise EngineError(f"SLURM refused the job: {answer[-300:]}") from error
        batch.jobs = [Job(job.job_id, chunk) for job, chunk in zip(jobs, chunks, strict=True)]

    def _find_submitted(self, cells: Sequence[Cell]) -> list[Cell]:
        """Take over the queued and running jobs of earlier drivers; returns the other cells."""
        waiting = {_key(cell): cell for cell in cells}
        for path in self._folder.glob("kanzoo-*.json"):
            batch = Batch(path.stem, json.loads(path.read_text(encoding="utf-8")))
            alive = queued(batch.name)
            for job_id in alive:
                _, _, index = job_id.partition("_")
                keys = batch.chunks[int(index or 0)]
                if all(key in waiting for key in keys):
                    batch.jobs.append(Job(job_id, [waiting.pop(key) for key in keys]))
            if batch.jobs:
                self._batches.append(batch)
                log.info("found %d jobs that were submitted before", len(batch.jobs))
            elif not alive:
                path.unlink(missing_ok=True)
        return list(waiting.values())

    def _queue(self) -> set[str] | None:
        """Ids of our jobs that are queued or running; None if SLURM does not answer."""
        try:
            return set(queued(*(batch.name for batch in self._batches)))
        except EngineError as error:
            log.warning("%s; trying again", error)
            return None

    def _outcomes(self, job: Job, queue: set[str] | None) -> list[Outcome] | None:
        """How the cells of a job ended, None while it has not."""
        result = self._folder / "logs" / f"{job.id}_0_result.pkl"
        if result.is_file():
            status, answer = pickle.loads(result.read_bytes())
            if status == "success":
                return list(answer)
            reason = str(answer).strip().splitlines()[-1]
            return [Outcome(FAILED, f"the job failed: {reason}")] * len(job.cells)
        if queue is None or job.id in queue:
            job.missing_since = None
            return None
        state = last_state(job.id)
        job.missing_since = job.missing_since or time.monotonic()
        if state in ("", "COMPLETED") and time.monotonic() - job.missing_since < GRACE:
            return None
        reason = f"the SLURM job {job.id} " + (f"ended as {state}" if state else LOST)
        journal = journal_of(self._folder / "logs", job.id)
        ended = outcomes_of_lost(journal, len(job.cells), reason, self._engine.at_once)
        # One that was done when the job was lost is no failure.
        return [
            Outcome(FINISHED) if cell.folder.result() else outcome
            for cell, outcome in zip(job.cells, ended, strict=True)
        ]

    def _record(self, batch: Batch) -> Path:
        return self._folder / f"{batch.name}.json"


def _key(cell: Cell) -> str:
    return str(cell.folder.path.resolve())
