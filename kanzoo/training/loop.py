"""The training batches of an epoch, without the calls of Lightning's loop that reach nobody.

Around a step Lightning makes some 2,000 calls: forty hooks of the module, the strategy and every
callback, a closure in a closure, and the collection of what was logged. They take longer than a
small layer, and on one device nothing answers most of them.
"""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loops.fetchers import _DataFetcher
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.plugins import DoublePrecision, HalfPrecision, MixedPrecision, Precision
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor

from kanzoo.training.graph import GraphedStep

STEP_HOOKS = (
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)
MODULE_HOOKS = (
    *STEP_HOOKS,
    "on_train_batch_start",
    "backward",
    "optimizer_step",
    "optimizer_zero_grad",
    "lr_scheduler_step",
)
PRECISIONS = (Precision, DoublePrecision, HalfPrecision, MixedPrecision)


class EpochLoop(_TrainingEpochLoop):
    """Lightning's loop over an epoch, which takes the steps itself where nothing listens to more.

    That is on one device, without accumulation, scaled gradients or a closure, with a schedule of
    steps, and where no callback has a hook inside the step, and the module none but its clipping.
    All else is left to Lightning, as are validation, checkpoints, resuming and the ends of epochs;
    weights, counters and what is logged are the same either way. Batches must come on the device.
    """

    is_graphed = False
    _graph: GraphedStep | None = None

    @classmethod
    def install(cls, trainer: Trainer, *, cuda_graph: bool = False) -> None:
        """Let a trainer use this loop, where wanted with steps as a CUDA graph."""
        fit_loop = trainer.fit_loop
        fit_loop.epoch_loop = loop = cls(trainer, fit_loop.min_steps, fit_loop.max_steps)
        loop.is_graphed = cuda_graph

    def on_run_start(self, data_fetcher: _DataFetcher) -> None:
        super().on_run_start(data_fetcher)
        trainer = self.trainer
        # Lightning does so when it makes the loader, which `estimated_stepping_batches` had it do
        # before the checkpoint was read.
        trainer.fit_loop._load_combined_loader_states()
        self._is_direct = is_direct(trainer)
        self._starting = [c for c in trainer.callbacks if _has(c, "on_train_batch_start", Callback)]
        self._ending = [c for c in trainer.callbacks if _has(c, "on_train_batch_end", Callback)]
        module = trainer.lightning_module
        self._module_ends = _has(module, "on_train_batch_end", LightningModule)
        self._module_clips = _has(module, "configure_gradient_clipping", LightningModule)
        if not self.is_graphed or self._graph is not None:
            return
        if not self._is_direct:
            raise ValueError("trainer.cuda_graph=true needs steps without hooks inside")
        self._graph = GraphedStep(self._compute, module.net, trainer.optimizers[0])  # type: ignore[arg-type]

    def advance(self, data_fetcher: _DataFetcher) -> None:
        """Take one step."""
        if self.restarting or not self._is_direct:
            super().advance(data_fetcher)
            return
        trainer, module, progress = self.trainer, self.trainer.lightning_module, self.batch_progress
        connector = trainer._logger_connector
        self.val_loop.restarting = False
        batch, _, _ = next(data_fetcher)
        index = self.batch_idx + 1
        progress.is_last_batch = data_fetcher.done
        batch = trainer.precision_plugin.convert_input(batch)
        progress.increment_ready()
        connector.on_batch_start(batch)
        module._current_fx_name = "on_train_batch_start"
        for callback in self._starting:
            callback.on_train_batch_start(trainer, module, batch, index)
        progress.increment_started()
        module._current_fx_name = "training_step"
        loss = self._step(trainer, batch)
        progress.increment_processed()
        module._current_fx_name = "on_train_batch_end"
        for callback in self._ending:
            callback.on_train_batch_end(trainer, module, {"loss": loss}, batch, index)
        if self._module_ends:
            module.on_train_batch_end({"loss": loss}, batch, index)
        module._current_fx_name = None
        if self._results:  # somebody called `log`
            connector.on_batch_end()
            progress.increment_completed()
            connector.update_train_step_metrics()
        else:
            self._results.batch = None
            progress.increment_completed()

    def _step(self, trainer: Trainer, batch: Any) -> Tensor:
        counts = self.automatic_optimization.optim_progress.optimizer
        loss = self._compute(batch) if self._graph is None else self._graph(batch)
        counts.zero_grad.increment_by(1)
        counts.step.increment_by(1)
        trainer.lr_scheduler_configs[0].scheduler.step()  # type: ignore[call-arg]
        self.scheduler_progress.increment_by(1)
        return loss

    def _compute(self, batch: Any) -> Tensor:
        """All that a step asks of the device."""
        trainer, optimizer = self.trainer, self.trainer.optimizers[0]
        loss: Tensor = trainer.strategy.training_step(batch, self.batch_idx + 1)  # type: ignore[assignment]
        optimizer.zero_grad()
        loss.backward()
        if self._module_clips:
            trainer.lightning_module.configure_gradient_clipping(
                optimizer, trainer.gradient_clip_val, trainer.gradient_clip_algorithm
            )
        elif trainer.gradient_clip_val is not None:
            trainer.precision_plugin.clip_grad_by_norm(optimizer, trainer.gradient_clip_val)
        optimizer.step()
        return loss.detach()

    def on_advance_end(self, data_fetcher: _DataFetcher) -> None:
        """After the last batch, and where training is to stop, Lightning validates."""
        trainer = self.trainer
        if not self._is_direct or self.restarting or trainer.should_stop or self._is_training_done:
            super().on_advance_end(data_fetcher)
            return
        self._batches_that_stepped += 1
        if trainer.received_sigterm:
            super().on_advance_end(data_fetcher)


def is_direct(trainer: Trainer) -> bool:
    """Whether a step of training is forward, backward, clipping, optimiser and schedule alone."""
    module, precision = trainer.lightning_module, trainer.precision_plugin
    schedules, callbacks = trainer.lr_scheduler_configs, trainer.callbacks  # type: ignore[attr-defined]
    return (
        type(trainer.strategy) is SingleDeviceStrategy
        and type(precision) in PRECISIONS
        and getattr(precision, "scaler", None) is None
        and trainer.accumulate_grad_batches == 1
        and trainer.gradient_clip_algorithm in (None, "norm")
        and (trainer.check_val_every_n_epoch, trainer.val_check_interval) == (1, 1.0)
        and len(trainer.optimizers) == len(schedules) == 1
        and not isinstance(trainer.optimizers[0], torch.optim.LBFGS)
        and (schedules[0].interval, schedules[0].frequency) == ("step", 1)
        and not schedules[0].reduce_on_plateau
        and not any(_has(module, hook, LightningModule) for hook in MODULE_HOOKS)
        and not any(_has(c, hook, Callback) for c in callbacks for hook in STEP_HOOKS)
    )


def _has(listener: object, hook: str, base: type) -> bool:
    """Whether a module or a callback does anything in a hook."""
    return getattr(type(listener), hook) is not getattr(base, hook) or hook in vars(listener)
