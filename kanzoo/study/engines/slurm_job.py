"""What a SLURM job of a study does: its cells one after the other, in warm workers."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kanzoo.study.engines.cell import FAILED, UNTRIED, Outcome, Train
from kanzoo.study.plan import Cell


@dataclass
class Job:
    """One task of an array, and the cells that it trains one after the other."""

    id: str
    cells: list[Cell]
    missing_since: float | None = None


@dataclass
class Batch:
    """An array as it was or is to be submitted, kept in a file until its jobs have ended."""

    name: str
    chunks: list[list[str]]  # for every task the folders of its runs
    jobs: list[Job] = field(default_factory=list)


class Chunk:
    """Trains the cells that it is given and returns how each ended, whatever they do.

    The local engine runs them, without retries: those are the driver's. How each ended is also
    written down at once, for a driver whose job is lost.
    """

    def __init__(
        self, train: Train, folder: str, logs: str, *, workers: int, threads: int, **common: Any
    ) -> None:
        self.train = train
        self.folder = folder
        self.logs = logs
        self.workers = workers
        self.threads = threads
        self.common = common

    def __call__(self, cells: Sequence[Cell]) -> list[Outcome]:
        import submitit

        from kanzoo.study.engines.local import LocalEngine

        journal = journal_of(self.logs, submitit.JobEnvironment().job_id)
        journal.write_text("", encoding="utf-8")
        os.chdir(self.folder)
        engine = LocalEngine(
            workers=self.workers, threads=self.threads, max_retries=0, **self.common
        )
        outcomes: dict[int, Outcome] = {}
        left = {id(cell): index for index, cell in enumerate(cells)}
        with engine.session(self.workers, Path(self.folder), self.train) as session:
            session.start(cells)
            while left:
                for cell, outcome in session.ended():
                    index = left.pop(id(cell))
                    outcomes[index] = outcome
                    with journal.open("a", encoding="utf-8") as file:
                        file.write(json.dumps({"cell": index, **asdict(outcome)}) + "\n")
                session.start([])
        return [outcomes[index] for index in range(len(cells))]


class RequeuedChunk(Chunk):
    """The same, which queues itself again when its job is preempted or reaches its time limit.

    Cells that are finished are skipped then, and the others go on from their last epoch.
    """

    def checkpoint(self, cells: Sequence[Cell]) -> Any:
        import submitit

        return submitit.helpers.DelayedSubmission(self, cells)


def journal_of(logs: str | Path, job_id: str) -> Path:
    """Where a job writes down how its cells ended, one after the other; made when it begins."""
    return Path(logs).resolve() / f"{job_id}_cells.jsonl"


def outcomes_of_lost(journal: Path, count: int, reason: str, at_once: int = 1) -> list[Outcome]:
    """How the cells of a job ended that was lost, by its journal.

    The cells that it was at, `at_once` of them, have failed, for the given reason; those after them
    were not tried. All have failed if the job did not even begin.
    """
    if not journal.is_file():
        return [Outcome(FAILED, reason)] * count
    lines = journal.read_text(encoding="utf-8").splitlines(keepends=True)
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    known = {row.pop("cell"): Outcome(**row) for row in rows}
    rest = iter([*[Outcome(FAILED, reason)] * at_once, *[Outcome(UNTRIED, reason)] * count])
    return [known[index] if index in known else next(rest) for index in range(count)]
