"""The one clock of a search, and its progress on a terminal."""

import copy
import logging
import time
from types import TracebackType

from rich.console import Console
from rich.progress import Progress, TextColumn

log = logging.getLogger("kanzoo")

QUIET = 15.0  # seconds between lines of progress where there is no terminal


class TimeOver(Exception):
    """The time for a search is over."""


class Clock:
    """The time left for a search, and its progress on a terminal, where there is one.

    As a context it shows a line that says what is tried and what is best so far.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.seconds = seconds
        self._end = None if seconds is None else time.monotonic() + seconds
        self._parent: Clock | None = None
        self._reported = time.monotonic()
        console = Console(stderr=True)
        self._bar = Progress(
            *Progress.get_default_columns(),
            TextColumn("{task.fields[best]}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_interactive,
        )
        self._task = self._bar.add_task("formula", total=None, best="")

    def __enter__(self) -> "Clock":
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    @property
    def is_over(self) -> bool:
        """Whether the time is over."""
        return self._end is not None and time.monotonic() > self._end

    def stop(self) -> None:
        """End the time now."""
        self._end = time.monotonic() - 1.0
        if self._parent is not None:
            self._parent.stop()

    def part(self, count: int) -> "Clock":
        """A clock of the time that is left, shared by so many, with the same progress."""
        other = copy.copy(self)
        other._parent = self
        if self._end is not None:
            now = time.monotonic()
            other._end = now + (self._end - now) / count
        return other

    def check(self) -> None:
        """Raise `TimeOver` if the time is over."""
        if self.is_over:
            raise TimeOver

    def show(self, what: str, done: int | None = None, total: int | None = None) -> None:
        """Show what is tried, and how far it is."""
        self._bar.update(self._task, description=what, completed=done or 0, total=total)
        now = time.monotonic()
        if self._bar.disable and now > self._reported + QUIET:
            self._reported = now
            log.info("looking for a formula: %s; %s", what, self._bar.tasks[0].fields["best"])

    def best(self, text: str) -> None:
        """Show the best so far."""
        self._bar.update(self._task, best=text[:80])
