"""Training that has diverged stops, with the place where it did."""

import math
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from kanzoo.errors import DivergedError


class StopWhenDiverged(Callback):
    """Raises `DivergedError` after the first batch whose loss is not finite.

    Of several processes all stop at the same batch, so that none waits for another.
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = float(outputs["loss"].detach())
        diverged = not math.isfinite(loss)
        if trainer.world_size > 1:
            diverged = trainer.strategy.reduce_boolean_decision(diverged, all=False)
        if diverged:
            value = f"the loss became {loss}" if not math.isfinite(loss) else "a loss diverged"
            place = f"epoch {trainer.current_epoch}, step {trainer.global_step}"
            raise DivergedError(f"{value} at {place}")


def check_scores(scores: dict[str, Any]) -> None:
    """Raise `DivergedError` where a loss or metric of the trained network is not finite."""
    for split in ("val", "test"):
        for name, value in (scores[split] or {}).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise DivergedError(f"the {split} {name} of the best epoch is {value}")
