"""Where the numbers of training go: `metrics.csv`, and Weights & Biases and others beside it.

All keep rows for `DELAY` seconds and write them at once: to write takes as long as a small network
needs for a step, or for several. Nothing is lost by that: before a checkpoint all rows are written,
and a run that was killed trains anew, and logs anew, from its last one.
"""

import csv
import io
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.types import STEP_OUTPUT

from kanzoo.data.loader import Batch
from kanzoo.files import write_atomic

log = logging.getLogger("kanzoo")

DELAY = 2.0


class RowLogger(Logger, ABC):
    """A logger that keeps rows and writes them at the latest `DELAY` seconds after the last ones.

    A row is metrics and the step that they belong to, `"step"`.
    """

    _written_at = 0.0

    @abstractmethod
    def write(self) -> None:
        """Write what was logged since."""

    @rank_zero_only
    def flush(self) -> None:
        """Write now."""
        self.write()
        self._written_at = time.monotonic()

    def save(self) -> None:
        """Write, if it is time; Lightning asks for it after every row."""
        if time.monotonic() - self._written_at >= DELAY:
            self.flush()

    def finalize(self, status: str) -> None:
        """Write at the end, whatever it was."""
        self.flush()


class MetricsCSV(RowLogger):
    """Writes one row a logged step into `FOLDER/metrics.csv` and keeps the rows of earlier parts.

    Lightning's own CSV logger deletes the file when a run goes on. `resume_step` is the first step
    that will be taken again: rows from there on are dropped, since they come anew, and so is a last
    one that is not whole.
    """

    def __init__(self, folder: Path, resume_step: int = 0) -> None:
        super().__init__()
        self.path = folder / "metrics.csv"
        self.rows: list[dict[str, Any]] = []
        self.columns = ["epoch", "step"]
        self._written = 0
        if resume_step and self.path.is_file():
            try:
                self._read(resume_step)
            except (ValueError, KeyError, csv.Error) as error:
                log.warning("%s is damaged (%s): what was logged before is lost", self.path, error)

    def _read(self, resume_step: int) -> None:
        complete, _, _ = self.path.read_text(encoding="utf-8").rpartition("\n")
        reader = csv.DictReader(complete.splitlines())
        rows = [row for row in reader if int(row["step"] or 0) < resume_step]
        if any(None in row for row in rows):
            raise ValueError("a row is longer than the first")
        self.rows, self.columns = rows, list(reader.fieldnames or self.columns)

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing to do: `config.yaml` holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        new = [name for name in metrics if name not in self.columns]
        if new:
            self.columns += sorted(new)
            self._written = 0  # the header changes: write the file anew
        self.rows.append({**metrics, "step": step})

    def write(self) -> None:
        if self._written == len(self.rows):
            return
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns, restval="")
        if self._written == 0:
            writer.writeheader()
            writer.writerows(self.rows)
            write_atomic(self.path, text.getvalue())
        else:
            writer.writerows(self.rows[self._written :])
            with self.path.open("a", newline="", encoding="utf-8") as file:
                file.write(text.getvalue())
        self._written = len(self.rows)


class LogSteps(Callback):
    """Logs `train/loss` after every `log_every_n_steps`-th step of the optimiser.

    Where gradients add up it is the loss of the last batch of the step. Lightning's `log` would
    take as long for it as a small layer needs.
    """

    def __init__(self) -> None:
        self._last_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last_step = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        step = trainer.global_step
        if step == self._last_step or step % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        self._last_step = step
        loss = float(pl_module.step_loss)  # type: ignore[arg-type]
        trainer.progress_bar_metrics["train/loss"] = loss
        for logger in trainer.loggers:
            logger.log_metrics({"train/loss": loss, "epoch": trainer.current_epoch}, step - 1)
            logger.save()
