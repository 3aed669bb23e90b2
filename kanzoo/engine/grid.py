"""When the grids of KAN layers move to their data, and when they are refined, during training."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn


class GridSchedule(Callback):
    """Moves grids every `update_every` steps until step `update_until`, and refines them.

    `refine` lists pairs of an epoch and the grid size from there on: [[10, 10], [20, 20]].
    Functions stay as they are on the batch at hand. `optimizer_state` says what becomes of the
    moments of changed weights: "reset" or "remap". Layers take part that have a grid (`has_grid`,
    `update_grid`, `refine`), whatever network they stand in.
    """

    def __init__(
        self,
        *,
        update_every: int = 0,
        update_until: int = 0,
        refine: Sequence[Sequence[int]] = (),
        optimizer_state: str = "reset",
    ) -> None:
        if update_every < 0:
            raise ValueError(f"grid.update_every must not be negative, got {update_every}")
        for pair in refine:
            if len(pair) != 2 or pair[0] < 0 or pair[1] < 1:
                raise ValueError(f"grid.refine must list [epoch, grid size], got {list(pair)}")
        if optimizer_state not in ("reset", "remap"):
            raise ValueError(f"grid.optimizer_state must be reset or remap, got {optimizer_state}")
        self.update_every = update_every
        self.update_until = update_until
        self.refine = {pair[0]: pair[1] for pair in refine}
        self.optimizer_state = optimizer_state

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.refine and trainer.world_size > 1:
            raise ValueError("grid.refine changes the shape of weights: train in one process")

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        grid_size = self.refine.get(trainer.current_epoch) if batch_idx == 0 else None
        moves = (
            self.update_every > 0 and step <= self.update_until and step % self.update_every == 0
        )
        if grid_size is None and not moves:
            return
        inputs = layer_inputs(pl_module, batch[0])
        for layer, x in inputs.items():
            changes = []
            if moves:
                changes.append(layer.update_grid(x))  # type: ignore[operator]
            if grid_size is not None:
                changes.append(layer.refine(grid_size, x))  # type: ignore[operator]
            for change in changes:
                for optimizer in trainer.optimizers:
                    change.adjust(optimizer, self.optimizer_state)


def layer_inputs(net: nn.Module, x: Tensor) -> dict[nn.Module, Tensor]:
    """What every layer with a grid gets to see when the network sees x."""
    seen: dict[nn.Module, Tensor] = {}

    def keep(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[layer] = inputs[0].detach()

    handles = [
        layer.register_forward_pre_hook(keep)
        for layer in net.modules()
        if getattr(layer, "has_grid", False)
    ]
    training = net.training
    net.eval()
    with torch.no_grad():
        net(x)
    net.train(training)
    for handle in handles:
        handle.remove()
    return seen
