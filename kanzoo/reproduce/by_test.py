"""Test scores after every epoch, for sources that take the best epoch by their test set."""

import json
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from torchmetrics import MetricCollection

from kanzoo.files import read_json, write_atomic
from kanzoo.training.data import DataModule
from kanzoo.training.task import Task

FILE = "by_test.json"


class TestScores(Callback):
    """Writes a metric on the test set after every epoch into a run's folder; chooses nothing."""

    __test__ = False  # pytest takes the name for that of a test

    def __init__(self, folder: Path, metric: str) -> None:
        self.folder = folder
        self.metric = metric
        self.values: list[float] = []

    def state_dict(self) -> dict[str, Any]:
        """The values so far, for a run that goes on from a checkpoint."""
        return {"values": self.values}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after the stored values."""
        self.values = list(state_dict["values"])

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score the network as it is, within training only."""
        if trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(pl_module, Task)
        assert isinstance(data, DataModule)
        metrics = pl_module.metrics["test_metrics"]
        assert isinstance(metrics, MetricCollection)
        scores = metrics.clone()
        for x, y in data.test_dataloader():
            scores.update(pl_module.objective.output(pl_module, x), y)
        self.values.append(float(scores.compute()[self.metric]))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the values, before the run counts as finished."""
        write_atomic(self.folder / FILE, json.dumps(self.values))


def best_by_test(folder: Path, is_error: bool) -> float | None:
    """The best score of a finished run on the test set, None where it was not followed."""
    path = folder / FILE
    if not path.is_file():
        return None
    values: list[float] = read_json(path)
    return min(values) if is_error else max(values)
