"""Checkpoints of a run: written whole, in two generations, and checked before training goes on."""

import io
import logging
import signal
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.types import STEP_OUTPUT

from kanzoo.data.loader import Batch
from kanzoo.errors import Stopped
from kanzoo.files import seal, write_atomic
from kanzoo.models.weights import read_checkpoint
from kanzoo.rundir import RunDir
from kanzoo.training.interrupt import StopBetweenBatches
from kanzoo.training.loggers import RowLogger

log = logging.getLogger("kanzoo")

SYNC_SECONDS = 1.0  # between two checkpoints of a name that have to outlast a loss of power
RUN = "run"  # key of a checkpoint under which stands whose it is


@dataclass(frozen=True)
class Resume:
    """A checkpoint to go on from, and the steps that had been taken."""

    path: Path
    step: int


class Checkpoints(TorchCheckpointIO):
    """Writes and reads every checkpoint of a run, each in one step and with a checksum.

    Of the last one there are two generations. The earlier one is always one that is on the disk
    for certain: to wait for the disk takes as long as a short epoch, so it is done once in
    `SYNC_SECONDS`, and what came in between is only ever replaced.
    """

    def __init__(self, folder: RunDir, resume: Resume | None = None) -> None:
        self.folder = folder
        # What is damaged, and not the one to go on from, must not take the place of a whole one.
        self._last_is_safe = resume is not None and resume.path == folder.last_checkpoint
        self._synced_at: dict[Path, float] = {}

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        buffer = io.BytesIO()
        torch.save({**checkpoint, RUN: self.folder.identity}, buffer)
        path, now = Path(path), time.monotonic()
        sync = now - self._synced_at.get(path, -SYNC_SECONDS) >= SYNC_SECONDS
        is_last = path.name == self.folder.last_checkpoint.name
        if is_last and self._last_is_safe:
            path.replace(path.with_name(self.folder.previous_checkpoint.name))
        write_atomic(path, seal(buffer.getvalue()), sync=sync)
        if is_last:
            self._last_is_safe = sync
        if sync:
            self._synced_at[path] = now

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_checkpoint(Path(path), map_location)


def find_resume(folder: RunDir) -> Resume | None:
    """The last checkpoint of a run that can be gone on from, None where training begins.

    One that is damaged is passed over, with a line, for the one before it.
    """
    paths = [folder.last_checkpoint, folder.previous_checkpoint]
    reasons = []
    for path in (path for path in paths if path.is_file()):
        try:
            content = read_checkpoint(path)
            if content.get(RUN) != folder.identity:
                raise ValueError(f"{path} belongs to another run")
            if "loops" not in content:
                raise ValueError(f"{path} holds weights alone")
            _check_best(content, path)
            resume = Resume(path, int(content["global_step"]))
        except (ValueError, KeyError) as error:
            reasons.append(str(error))
            continue
        if reasons:
            log.warning("%s; training goes on from the checkpoint before it", reasons[0])
        return resume
    if reasons:
        log.warning("%s; training starts anew", "; ".join(reasons))
    return None


def _check_best(content: dict[str, Any], path: Path) -> None:
    """Raise `ValueError` if the best weights are gone that a checkpoint relies on."""
    states = content.get("callbacks", {}).values()
    for name in (state.get("best_model_path") for state in states):
        if name and Path(name).name != path.name and "last" not in Path(name).name:
            read_checkpoint(path.with_name(Path(name).name))


class EpochCheckpoint(ModelCheckpoint):
    """Lightning's, with nothing to do or to look up around a batch, in a folder that may move."""

    @cached_property
    def state_key(self) -> str:  # type: ignore[override]
        return super().state_key

    def on_train_batch_end(self, *args: Any) -> None:
        """Leave it to the end of the epoch."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        def here(path: str) -> str:
            return str(Path(str(self.dirpath), Path(path).name)) if path else path

        paths = ("best_model_path", "kth_best_model_path", "last_model_path")
        state: dict[str, Any] = {k: here(v) if k in paths else v for k, v in state_dict.items()}
        best = {here(path): score for path, score in state["best_k_models"].items()}
        super().load_state_dict({**state, "best_k_models": best, "dirpath": self.dirpath})

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        for logger in trainer.loggers:  # a run that resumes does not log again what came before
            if isinstance(logger, RowLogger):
                logger.flush()
        super()._save_checkpoint(trainer, filepath)


class LastCheckpoint(EpochCheckpoint):
    """Keeps the state of training after every epoch, every so many minutes, and before a stop.

    A run that goes on from it ends as one that was left alone, bit for bit. Between batches it is
    saved where the gradients of a step are complete, after the last batch of an epoch with the
    validation that follows. Several processes agree on it where their losses are logged, and at the
    end of an epoch.
    """

    def __init__(
        self, folder: RunDir, interrupt: StopBetweenBatches, minutes: float | None
    ) -> None:
        path = folder.last_checkpoint
        super().__init__(path.parent, filename=path.stem, enable_version_counter=False)
        self.path = str(path.parent.resolve() / path.name)
        self.seconds = float("inf") if minutes is None else 60 * minutes
        self.interrupt = interrupt
        self._saved_at = time.monotonic()
        self._is_validating = False
        interrupt.is_saving = True

    def on_train_batch_end(  # type: ignore[override]
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        asked = self.interrupt.asked is not None
        due = time.monotonic() - self._saved_at >= self.seconds
        if trainer.world_size > 1:
            if (batch_idx + 1) % trainer.log_every_n_steps:  # type: ignore[attr-defined]
                return
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
            due = trainer.strategy.reduce_boolean_decision(due, all=False)
        if not (asked or due) or trainer.is_last_batch or trainer.fit_loop._should_accumulate():
            return
        self._save_checkpoint(trainer, self.path)
        if asked:
            self._stop(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        asked = self.interrupt.asked is not None
        if trainer.world_size > 1 and trainer.strategy.reduce_boolean_decision(asked, all=False):
            self._stop(trainer)

    def on_validation_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if self.interrupt.asked is None or trainer.state.fn != "fit" or trainer.world_size > 1:
            return
        self._is_validating = True
        self._save_checkpoint(trainer, self.path)
        self._stop(trainer)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self._is_validating:  # as if it had only begun: what it has summed up is not saved
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
            begun = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
            progress |= {"total": begun, "current": begun, "is_last_batch": False}

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        super()._save_checkpoint(trainer, filepath)
        self._saved_at = time.monotonic()

    def _stop(self, trainer: Trainer) -> None:
        detail = f" in epoch {trainer.current_epoch}, step {trainer.global_step}, which is saved"
        raise Stopped(self.interrupt.asked or signal.SIGTERM, detail)


class RandomState(Callback):
    """Keeps the state of PyTorch's generators, for a run that goes on within an epoch."""

    def __init__(self) -> None:
        self._resumed: dict[str, torch.Tensor] = {}

    def state_dict(self) -> dict[str, Any]:
        state = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            state["cuda"] = torch.cuda.get_rng_state()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._resumed = state_dict

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        state, self._resumed = self._resumed, {}
        if not state or batch_idx == 0:  # an epoch begins with a seed of its own
            return
        torch.set_rng_state(state["cpu"])
        if "cuda" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["cuda"])
