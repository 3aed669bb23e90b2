"""How far training is: a bar on a terminal, a line now and then in a log."""

import logging
import time
from datetime import timedelta
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import RichProgressBar

log = logging.getLogger("kanzoo")


class ProgressBar(RichProgressBar):
    """Lightning's, at most `RATE` times a second and not a hundred; the last batch always shows."""

    RATE = 10

    def __init__(self) -> None:
        super().__init__(refresh_rate=self.RATE)
        self._shown = 0.0

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if self._is_due(trainer):
            super().on_train_batch_end(trainer, *args)

    def on_validation_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if self._is_due(trainer):
            super().on_validation_batch_end(trainer, *args)

    def _is_due(self, trainer: Trainer) -> bool:
        now = time.perf_counter()
        if now - self._shown < 1 / self.RATE and not trainer.is_last_batch:
            return False
        self._shown = now
        return True


class ProgressLines(Callback):
    """A line at the end of an epoch, or within a long one, every `SECONDS` at most."""

    SECONDS = 30.0

    def __init__(self) -> None:
        self._began = self._reported = time.monotonic()
        self._first_step = 0

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        self._began = self._reported = time.monotonic()
        self._first_step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if time.monotonic() - self._reported >= 2 * self.SECONDS:
            self._say(trainer)

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        if time.monotonic() - self._reported >= self.SECONDS:
            self._say(trainer)

    def _say(self, trainer: Trainer) -> None:
        self._reported = now = time.monotonic()
        if not trainer.is_global_zero:
            return
        step, steps = trainer.global_step, trainer.estimated_stepping_batches
        epochs = f"/{trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""
        line = f"epoch {trainer.current_epoch + 1}{epochs}, step {step:,}"
        shown = {k: float(v) for k, v in trainer.progress_bar_metrics.items()}
        shown |= {k: float(v) for k, v in trainer.callback_metrics.items()}
        line += "".join(f", {name} {value:.4g}" for name, value in sorted(shown.items()))
        if step > self._first_step and steps != float("inf"):
            seconds = (now - self._began) / (step - self._first_step) * (steps - step)
            line += f", {timedelta(seconds=round(max(0.0, seconds)))} left"
        log.info(line)
