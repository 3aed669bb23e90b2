"""Training that has diverged stops, with the place where it did."""

import math
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor

from kanzoo.data.loader import Batch
from kanzoo.errors import DivergedError


class StopWhenDiverged(Callback):
    """Raises `DivergedError` where a loss is not finite, by the end of its epoch at the latest.

    The sum of the losses is looked at wherever they are logged and after the last batch, before
    validation and the checkpoint: a look waits for the device. Of several processes all stop at
    the same batch, so that none waits for another.
    """

    def __init__(self) -> None:
        self._sum: Tensor | float = 0.0

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        assert isinstance(outputs, Mapping)
        self._sum = self._sum + outputs["loss"]
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if (batch_idx + 1) % every and not trainer.is_last_batch:
            return
        total, self._sum = float(self._sum), 0.0
        diverged = not math.isfinite(total)
        if trainer.world_size > 1:
            diverged = trainer.strategy.reduce_boolean_decision(diverged, all=False)
        if diverged:
            raise divergence(total, trainer)


def divergence(total: float, trainer: Trainer) -> DivergedError:
    """The error for a sum of losses, of this process or of another, that is not finite."""
    value = "a loss diverged" if math.isfinite(total) else f"the loss became {total}"
    return DivergedError(f"{value} in epoch {trainer.current_epoch}, by step {trainer.global_step}")


def check_scores(scores: dict[str, Any]) -> None:
    """Raise `DivergedError` where a loss or metric of the trained network is not finite."""
    for split in ("val", "test"):
        for name, value in (scores[split] or {}).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise DivergedError(f"the {split} {name} of the best epoch is {value}")
