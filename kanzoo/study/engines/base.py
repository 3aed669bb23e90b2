"""What an engine is: it opens a session, and a session runs cells until each has ended.

Adding an engine is one class here and one file in `conf/engine`. The session is told which cells to
start and says which have ended and how; retries, failures and cells that another driver is running
are dealt with once, in `Session.run`.
"""

import os
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from kanzoo.checks import Positive, check_value, check_whole
from kanzoo.study.engines.cell import BUSY, FAILED, FINISHED, UNTRIED, Outcome, Train
from kanzoo.study.plan import Cell

OnEnd = Callable[[Cell, str], None]
LOOK_AGAIN = 1.0  # seconds between two looks at cells that another driver is running


class Session(ABC):
    """Workers that are ready for cells, while its context lasts."""

    def __init__(self, max_retries: int) -> None:
        self.max_retries = max_retries

    @abstractmethod
    def start(self, cells: Sequence[Cell]) -> None:
        """Start these cells as soon as there is room for them; returns at once."""

    @abstractmethod
    def ended(self) -> Iterable[tuple[Cell, Outcome]]:
        """Started cells that have ended, each once; waits about a second if there is none."""

    def run(self, cells: Iterable[Cell], on_end: OnEnd) -> None:
        """Run all cells and report each to `on_end(cell, reason)`, without a reason if it worked.

        Results are in the folders of the runs. A cell that fails is tried `max_retries` times more,
        one that diverged is not: it would again. Cells that are the same run are run once, and
        those that another process is running are waited for. On an interrupt all stops and the
        exception goes on.
        """
        same: dict[Path, list[Cell]] = {}
        for cell in cells:
            same.setdefault(cell.folder.path, []).append(cell)
        tries: Counter[Path] = Counter()
        elsewhere: list[Cell] = []
        looked = time.monotonic()
        self.start([group[0] for group in same.values()])
        while same:
            again: list[Cell] = []
            for cell, outcome in self.ended():
                path = cell.folder.path
                if outcome.status == BUSY:
                    elsewhere.append(cell)
                    continue
                if outcome.status == UNTRIED:
                    again.append(cell)
                    continue
                tries[path] += 1
                if outcome.status == FAILED and tries[path] <= self.max_retries:
                    again.append(cell)
                    continue
                if outcome.status != FINISHED:
                    cell.folder.write_failure(outcome.reason)
                for twin in same.pop(path):
                    on_end(twin, outcome.reason)
            if elsewhere and time.monotonic() - looked > LOOK_AGAIN:
                # A free cell is started again: if the other driver has finished it, it is skipped.
                free = [cell for cell in elsewhere if not cell.folder.is_locked()]
                elsewhere = [cell for cell in elsewhere if cell not in free]
                again += free
                looked = time.monotonic()
            self.start(again)


class Engine(ABC):
    """Where cells run. Options common to all engines:

    - `cell_timeout`: seconds until a cell counts as hung, None for never.
    - `max_retries`: further attempts at a cell that failed.
    - `memory_limit_gb`: memory that the worker of a cell may allocate on the host (Linux), None
      for as much as there is.
    """

    def __init__(
        self,
        *,
        cell_timeout: float | None = None,
        max_retries: int = 1,
        memory_limit_gb: float | None = None,
    ) -> None:
        check_value("engine.cell_timeout", cell_timeout, Positive | None)
        check_value("engine.memory_limit_gb", memory_limit_gb, Positive | None)
        check_whole("engine.max_retries", max_retries, 0)
        self.cell_timeout = cell_timeout
        self.max_retries = max_retries
        self.memory_limit_gb = memory_limit_gb

    @property
    def is_local(self) -> bool:
        """Whether cells run on this machine, so that it must have what they need."""
        return False

    @abstractmethod
    def check(self, cells: Sequence[Cell]) -> None:
        """Raise a `ValueError` of one line where these cells cannot run; starts nothing."""

    @abstractmethod
    def session(self, count: int, folder: Path, train: Train) -> AbstractContextManager[Session]:
        """Workers for at most `count` cells at once, which call `train(config)`.

        An engine that needs files of its own puts them into `folder`.
        """

    @abstractmethod
    def describe(self, count: int) -> str:
        """A few words on where `count` cells will run."""


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
