"""Training by `scripts/train.py` against a bare loop around the same network.

Both train a KAN [784, 64, 10] (digits: [64, 64, 10]) with the same weights, batches, optimiser,
schedule, clipping and validation, an epoch here and an epoch there in one process, and must end
with the same weights bit for bit. The bare loop logs nothing, writes nothing and cannot be
interrupted. Every ratio is the median over pairs of neighbouring epochs, the first pair left out: a
machine that slows down slows both. A step is the time from the start of an epoch to its validation
over its number of batches, so that it holds a share of what is done between steps; an epoch is the
time to the start of the next one, with validation, checkpoints and logging.

One row is Lightning's trainer around the bare loop's own parts, without a callback, a logger or a
checkpoint: what its loop costs by itself.
"""

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.table import Table
from torch import Tensor

from kanzoo.benchmark.rows import empty_table
from kanzoo.run.config import compose
from kanzoo.run.fit import fit
from kanzoo.run.prepare import Prepared, prepare
from kanzoo.rundir import RunDir
from kanzoo.training.optim import build_optimizer
from kanzoo.training.trainer import quieten

LOGGERS = ("csv", "wandb")
FLOOR = "lightning"


@dataclass(frozen=True)
class Row:
    """Median times of one way of logging and of the bare loop, and medians of their ratios.

    `logger` is `FLOOR` for Lightning's trainer alone.
    """

    data: str
    logger: str
    step_ms: float
    bare_step_ms: float
    step_ratio: float
    epoch_s: float
    bare_epoch_s: float
    epoch_ratio: float


@dataclass(frozen=True)
class Epoch:
    """Seconds of one epoch: of its training steps, and with validation and all else."""

    training: float
    total: float


class BareLoop:
    """The loop that one would write by hand for a configuration."""

    def __init__(self, config: dict[str, Any], prepared: Prepared) -> None:
        self.net = prepared.plan.build(config["seed"])
        self.loaders = prepared.dataset.loaders(seed=config["seed"], device=torch.device("cpu"))
        self.objective = prepared.objective
        self.optimizer = build_optimizer(config["optim"], self.net)
        # In the order in which the trainer clips them: the norm is a sum, which is rounded.
        self.params = [p for group in self.optimizer.param_groups for p in group["params"]]
        steps = config["trainer"]["max_epochs"] * len(self.loaders.train)
        self.schedule = prepared.schedule(self.optimizer, steps)
        self.max_norm = config["trainer"]["gradient_clip_val"]
        self.num_outputs = prepared.dataset.spec.num_outputs
        self.scores: dict[str, float] = {}

    def run_epoch(self, epoch: int) -> Epoch:
        began = time.perf_counter()
        self.loaders.train.sampler.set_epoch(epoch)
        self.net.train()
        for x, y in self.loaders.train:
            self.optimizer.zero_grad()
            self.objective.loss(self.net(x), y).backward()
            torch.nn.utils.clip_grad_norm_(self.params, self.max_norm)
            self.optimizer.step()
            self.schedule.step()
        trained = time.perf_counter()
        self.scores = self._validate()
        return Epoch(trained - began, time.perf_counter() - began)

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        self.net.eval()
        return self.score([(self.net(x), y) for x, y in self.loaders.val])

    def score(self, batches: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Loss and metrics of all outputs and targets."""
        output, target = (torch.cat(tensors) for tensors in zip(*batches, strict=True))
        metrics = self.objective.metrics(self.num_outputs)
        metrics.update(output, target)
        scores = {"loss": self.objective.loss(output, target), **metrics.compute()}
        return {name: float(value) for name, value in scores.items()}


class Alternation(Callback):
    """Runs an epoch of the bare loop before every epoch of the trainer, and times both."""

    def __init__(self, bare: BareLoop) -> None:
        self.bare = bare
        self.bare_epochs: list[Epoch] = []
        self.epochs: list[Epoch] = []
        self._began: float | None = None
        self._trained = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end_epoch()
        self.bare_epochs.append(self.bare.run_epoch(trainer.current_epoch))
        self._began = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._trained = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end_epoch()
        self._began = None

    def _end_epoch(self) -> None:
        if self._began is not None:
            self.epochs.append(
                Epoch(self._trained - self._began, time.perf_counter() - self._began)
            )


class Minimal(LightningModule):
    """The parts of a bare loop as a module that does nothing else."""

    def __init__(self, bare: BareLoop) -> None:
        super().__init__()
        self.net = bare.net
        self.parts = bare
        self.outputs: list[tuple[Tensor, Tensor]] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        x, y = batch
        return self.parts.objective.loss(self.net(x), y)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        x, y = batch
        self.outputs.append((self.net(x), y))

    def on_validation_epoch_end(self) -> None:
        self.parts.score(self.outputs)
        self.outputs = []

    def configure_optimizers(self) -> Any:
        schedule = {"scheduler": self.parts.schedule, "interval": "step"}
        return {"optimizer": self.parts.optimizer, "lr_scheduler": schedule}


def measure(rounds: int, overrides: tuple[str, ...] = ()) -> Iterator[Row]:
    """Train so many epochs, and one to warm up, with each logger and with Lightning alone.

    On MNIST where `KANZOO_DATA` names the folder that holds it, else on digits.
    """
    data = "mnist" if "KANZOO_DATA" in os.environ else "digits"
    for logger in LOGGERS:
        with tempfile.TemporaryDirectory() as folder:
            words = ["experiment=mnist_kan", f"data={data}", "data.batch_size=64"]
            words += [f"logger={logger}", f"runs={folder}", f"trainer.max_epochs={rounds + 1}"]
            config = compose("train", [*words, "evaluation.test=false", *overrides])
            yield compare(config)
    yield compare_lightning(config)


def compare(config: dict[str, Any]) -> Row:
    """Train a configuration, and the bare loop epoch by epoch beside it.

    Raises `RuntimeError` where the two do not end with the same weights: their times would say
    nothing about each other.
    """
    prepared = prepare(config)
    prepared.dataset.load()
    alternation = Alternation(BareLoop(config, prepared))
    folder = RunDir.of(config)
    fit(folder, prepared, [alternation])
    state = torch.load(folder.last_checkpoint, weights_only=True)["state_dict"]
    weights = {name.removeprefix("net."): value for name, value in state.items()}
    return _row(config, config["choices"]["logger"], alternation, weights)


def compare_lightning(config: dict[str, Any]) -> Row:
    """The same with Lightning's trainer alone, which is given what the bare loop has."""
    prepared = prepare(config)
    prepared.dataset.load()
    module = Minimal(BareLoop(config, prepared))
    alternation = Alternation(BareLoop(config, prepared))
    quieten()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=config["trainer"]["max_epochs"],
        gradient_clip_val=config["trainer"]["gradient_clip_val"],
        callbacks=[alternation],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    trainer.fit(module, module.parts.loaders.train, module.parts.loaders.val)
    return _row(config, FLOOR, alternation, module.net.state_dict())


def _row(
    config: dict[str, Any], logger: str, alternation: Alternation, weights: dict[str, Tensor]
) -> Row:
    bare = alternation.bare
    if not all(torch.equal(value, weights[key]) for key, value in bare.net.state_dict().items()):
        raise RuntimeError("the trainer and the bare loop ended with other weights")
    ours, theirs = alternation.epochs[1:], alternation.bare_epochs[1:]
    pairs = list(zip(ours, theirs, strict=True))
    steps = len(bare.loaders.train)
    return Row(
        data=config["choices"]["data"],
        logger=logger,
        step_ms=1e3 * median(epoch.training for epoch in ours) / steps,
        bare_step_ms=1e3 * median(epoch.training for epoch in theirs) / steps,
        step_ratio=median(a.training / b.training for a, b in pairs),
        epoch_s=median(epoch.total for epoch in ours),
        bare_epoch_s=median(epoch.total for epoch in theirs),
        epoch_ratio=median(a.total / b.total for a, b in pairs),
    )


def shown(rows: Sequence[Row]) -> Table:
    """A row a way of logging, beside the bare loop."""
    title = f"scripts/train.py on {rows[0].data} (in brackets: a bare loop), and the ratio"
    table = empty_table(title, ["logger"], ["step ms", "ratio", "epoch s", "ratio"])
    for row in rows:
        table.add_row(
            row.logger,
            f"{row.step_ms:.2f} ({row.bare_step_ms:.2f})",
            f"{row.step_ratio:.3f}",
            f"{row.epoch_s:.2f} ({row.bare_epoch_s:.2f})",
            f"{row.epoch_ratio:.3f}",
        )
    return table
