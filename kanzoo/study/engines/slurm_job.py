"""What a SLURM job of a study does: its cells one after the other, in one warm worker."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kanzoo.study.engines.cell import Outcome, Train
from kanzoo.study.plan import Cell


class Chunk:
    """Trains the cells that it is given and returns how each ended, whatever they do.

    The local engine runs them, without retries: those are the driver's.
    """

    def __init__(self, train: Train, folder: str, *, threads: int, **common: Any) -> None:
        self.train = train
        self.folder = folder
        self.threads = threads
        self.common = common

    def __call__(self, cells: Sequence[Cell]) -> list[Outcome]:
        from kanzoo.study.engines.local import LocalEngine

        os.chdir(self.folder)
        engine = LocalEngine(workers=1, threads=self.threads, max_retries=0, **self.common)
        outcomes: dict[int, Outcome] = {}
        left = {id(cell): index for index, cell in enumerate(cells)}
        with engine.session(1, Path(self.folder), self.train) as session:
            session.start(cells)
            while left:
                for cell, outcome in session.ended():
                    outcomes[left.pop(id(cell))] = outcome
                session.start([])
        return [outcomes[index] for index in range(len(cells))]


class RequeuedChunk(Chunk):
    """The same, which queues itself again when its job is preempted or reaches its time limit.

    Cells that are finished are skipped then, and the others go on from their last epoch.
    """

    def checkpoint(self, cells: Sequence[Cell]) -> Any:
        import submitit

        return submitit.helpers.DelayedSubmission(self, cells)
