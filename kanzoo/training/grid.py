"""When the grids of KAN layers move to their data, and when they are refined, during training."""

import copy
import gc
import logging

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from kanzoo.data.loader import Batch
from kanzoo.layers.grid import adjust_optimizer
from kanzoo.layers.inputs import layer_inputs
from kanzoo.layers.parameters import count_params
from kanzoo.settings import GridConfig
from kanzoo.training.strategy import is_sharded

log = logging.getLogger("kanzoo")


class GridSchedule(Callback):
    """Moves grids every `update_every` steps until step `update_until`, and refines them.

    Steps count from the last refinement, if there was one. `refine` lists pairs of an epoch and the
    grid size from there on: [[10, 10], [20, 20]]. Functions stay as they are on the batch at hand.
    `optimizer_state` says what becomes of the moments of changed weights: "reset" or "remap"; LBFGS
    starts anew either way. Layers take part that have a grid (`has_grid`, `update_grid`, `refine`),
    whatever network they stand in. With `stop_at_interpolation`, training ends instead of a
    refinement that would give the network as many parameters as there are training samples: it
    could then pass through all of them, and errors elsewhere grow again (KAN, 2404.19756, 2.4).
    `uniform_share` is that of `KANLayer.update_grid`: 1 for equal cells, towards 0 for quantiles.
    """

    def __init__(self, settings: GridConfig) -> None:
        self.settings = settings
        self.refine: dict[int, list[int]] = {}
        for epoch, grid_size in settings.refine:
            self.refine.setdefault(epoch, []).append(grid_size)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if is_sharded(trainer.strategy):
            raise ValueError("callbacks.grid needs whole weights: not with trainer.strategy=fsdp")
        for layer in grid_layers(pl_module):
            layer.check_stored()  # type: ignore[operator]

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        if batch_idx % trainer.accumulate_grad_batches:
            return  # there are gradients already
        settings, step = self.settings, self._steps_since_refinement(trainer)
        grid_sizes = self.refine.get(trainer.current_epoch, []) if batch_idx == 0 else []
        moves = settings.update_every > 0 and step <= settings.update_until
        moves = moves and step % settings.update_every == 0
        if not grid_sizes and not moves:
            return
        changes = []
        inputs = layer_inputs(pl_module, batch[0], grid_layers(pl_module))
        if moves and inputs:
            outside = max(layer.outside_share(x) for layer, x in inputs.items())  # type: ignore[operator]
            message = (
                "grids move at step %d; before, up to %.0f %% of a layer's inputs were outside"
            )
            log.info(message, trainer.global_step, 100 * outside)
        for layer, x in inputs.items():
            if moves:
                changes.append(layer.update_grid(x, uniform_share=settings.uniform_share))  # type: ignore[operator]
            changes += [layer.refine(grid_size, x) for grid_size in grid_sizes]  # type: ignore[operator]
        for optimizer in trainer.optimizers:
            adjust_optimizer(optimizer, changes, settings.optimizer_state)
        if grid_sizes and isinstance(trainer.strategy, DDPStrategy):
            _wrap_again(trainer.strategy, pl_module)

    def _steps_since_refinement(self, trainer: Trainer) -> int:
        epochs = [epoch for epoch in self.refine if epoch <= trainer.current_epoch]
        if not epochs:
            return trainer.global_step
        batches = int(trainer.num_training_batches) // trainer.accumulate_grad_batches
        return trainer.global_step - max(epochs) * batches

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        grid_sizes = self.refine.get(trainer.current_epoch + 1)
        if not self.settings.stop_at_interpolation or not grid_sizes:
            return
        grid_size = grid_sizes[-1]
        targets = getattr(trainer.train_dataloader, "num_samples", None)
        params = refined_params(pl_module, grid_size)
        if targets is not None and params >= targets:
            log.info(
                "stopped before grid size %d: %d parameters could interpolate %d training samples",
                *(grid_size, params, targets),
            )
            trainer.should_stop = True


def grid_layers(net: nn.Module) -> list[nn.Module]:
    """The layers of a network whose grids can move."""
    return [layer for layer in net.modules() if getattr(layer, "has_grid", False)]


def _wrap_again(strategy: DDPStrategy, pl_module: LightningModule) -> None:
    """Let DDP gather gradients of the new shapes; its hooks on the old ones go with it."""
    strategy.model = pl_module
    gc.collect()
    strategy.configure_ddp()


def refined_params(net: nn.Module, grid_size: int) -> int:
    """Trainable parameters that a network would have with grids of another size."""
    total = count_params(net)
    for layer in grid_layers(net):
        before: nn.Parameter = layer.weight  # type: ignore[assignment]
        after = copy.deepcopy(layer)
        after.refine(grid_size)  # type: ignore[operator]
        total += after.weight.numel() - before.numel()  # type: ignore[operator]
    return total
