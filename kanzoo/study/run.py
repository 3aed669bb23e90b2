"""Running the cells of a study, with a progress display."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from kanzoo.run.busy import busy_line
from kanzoo.study.engines.base import Engine, Session
from kanzoo.study.engines.cell import Train
from kanzoo.study.plan import Cell, distinct
from kanzoo.study.wandb_links import link_wandb_runs

log = logging.getLogger("kanzoo")


class TimeLeft(ProgressColumn):
    """How long the cells that are left take if they end as often as those before them.

    Cells of parallel workers end together, so that the time between the last two says little.
    """

    @staticmethod
    def of(task: Task) -> str:
        """The time as H:MM:SS, dashes before a cell has ended."""
        if not task.completed or task.elapsed is None or task.remaining is None:
            return "-:--:--"
        return str(timedelta(seconds=round(task.elapsed / task.completed * task.remaining)))

    def render(self, task: Task) -> Text:
        return Text(self.of(task), style="progress.remaining")


class Runner(ExitStack):
    """Runs cells that have not ended, on workers that stay warm from one call to the next.

    A run that diverged has ended: to repeat it until it does not would be to choose among results.

    `folder` is that of the study. Workers start with the first call that has cells to run, for as
    many as it has and for `count` at least, and end with the context.
    """

    def __init__(
        self, engine: Engine, folder: Path, train: Train, count: int, overwrite: bool = False
    ) -> None:
        super().__init__()
        self.engine = engine
        self.folder = folder
        self.train = train
        self.count = count
        self.overwrite = overwrite
        self.session: Session | None = None

    def __call__(self, cells: list[Cell]) -> None:
        """Run the cells; results and failures are in their folders afterwards."""
        cells = distinct(cells)
        waiting = []
        for cell in cells:
            has_ended = cell.folder.has_ended
            if has_ended:
                cell.folder.tidy()
            if self.overwrite or not has_ended:
                waiting.append(cell)
        if not waiting:
            log.info("all %d cells were finished before", len(cells))
            return
        console = Console(stderr=True)
        console.print(
            f"{len(waiting)} of {len(cells)} cells to run, {self.engine.describe(len(waiting))}",
            highlight=False,
        )
        if line := busy_line():
            console.print(line, highlight=False)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeLeft(),
        )
        with Progress(*columns, console=console) as progress:
            name = self.folder.name
            bar = progress.add_task(name, total=len(waiting))

            def on_end(cell: Cell, reason: str) -> None:
                progress.advance(bar)
                if reason:
                    text = f"failed: {cell.title}: {reason}"
                    progress.console.print(text, style="red", markup=False)
                elif not console.is_terminal:
                    (task,) = progress.tasks
                    text = f"{task.completed:g}/{len(waiting)}, {TimeLeft.of(task)} left"
                    text += f": {name} {cell.title}"
                    console.print(text, markup=False, highlight=False, soft_wrap=True)

            if self.session is None:
                self.session = self.enter_context(
                    self.engine.session(max(self.count, len(waiting)), self.folder, self.train)
                )
            self.session.run(waiting, on_end)
        link_wandb_runs(cells, self.folder)
