"""What a trained network is measured on at the end, and between phases of training."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from kanzoo.data import Dataset
from kanzoo.data.corruption import make_corruption
from kanzoo.layers.inputs import outside_shares
from kanzoo.rundir import Config
from kanzoo.settings import EvaluationConfig
from kanzoo.trainer_settings import TrainerConfig
from kanzoo.training.data import DataModule
from kanzoo.training.objective import Objective
from kanzoo.training.strategy import is_sharded
from kanzoo.training.task import Task
from kanzoo.training.trainer import quieten

log = logging.getLogger("kanzoo")

OUTSIDE = 0.1  # share of inputs outside a grid from which it is worth a line
Scores = dict[str, float]
Items = dict[str, np.ndarray]


def evaluate(
    trainer: Trainer, task: Task, data: DataModule, weights: str | Path, wanted: EvaluationConfig
) -> tuple[Config, Items]:
    """Scores of the weights: `val`, `test` (None unless wanted), and `corrupted` test inputs.

    Beside them what the objective keeps of every test sample, in the order of the test set; that
    on corrupted inputs under `KIND_SEVERITY.NAME`.
    """
    scores: Config = {"val": _scores(trainer.validate, task, data, weights), "test": None}
    if not wanted.test:
        return scores, {}
    scores["test"] = _scores(trainer.test, task, data, weights)
    items = gather_items(task.test_items)
    corrupted: dict[str, dict[str, Scores]] = {}
    try:
        for kind, severities in wanted.corruptions.items():
            for severity in severities:
                task.corrupt = make_corruption(kind, severity)
                task.test_title = f"test_{kind}_{severity:g}"
                found = _scores(trainer.test, task, data, None)
                corrupted.setdefault(kind, {})[f"{severity:g}"] = found
                for name, values in gather_items(task.test_items).items():
                    items[f"{kind}_{severity:g}.{name}"] = values
    finally:
        task.corrupt, task.test_title = None, "test"
    return ({**scores, "corrupted": corrupted} if corrupted else scores), items


def gather_items(batches: list[dict[str, torch.Tensor]]) -> Items:
    """One array a name over all samples of all processes, in the order of the split.

    Of every batch, process r of W has the samples r, r + W, ...
    """
    shares = [[{k: _compact(v) for k, v in batch.items()} for batch in batches]]
    if dist.is_available() and dist.is_initialized():
        every: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(every, shares[0])
        shares = every
    parts: dict[str, list[np.ndarray]] = {}
    for batch in zip(*shares, strict=True):
        for name, first in batch[0].items():
            total = np.empty(sum(len(share[name]) for share in batch), first.dtype)
            for rank, share in enumerate(batch):
                total[rank :: len(batch)] = share[name]
            parts.setdefault(name, []).append(total)
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def outside_grid(trainer: Trainer, net: nn.Module, data: DataModule) -> dict[str, float]:
    """The share of inputs outside each layer's grid on a batch of validation; many are logged."""
    if is_sharded(trainer.strategy):
        return {}
    x = trainer.precision_plugin.convert_input(next(iter(data.val_dataloader())))[0]
    device = next(net.parameters()).device
    with trainer.precision_plugin.forward_context():
        shares = outside_shares(net, x.to(device))
    worst = sorted((name for name in shares if shares[name] > OUTSIDE), key=shares.__getitem__)
    if worst:
        named = ", ".join(f"{name} {shares[name]:.0%}" for name in reversed(worst[-3:]))
        log.warning(
            "inputs outside the grid, where functions are extrapolated: %s; let grids move "
            "(callbacks=grid), widen basis.grid_range, or set layers.squash=tanh",
            named,
        )
    return shares


def scores_of(task: Task, dataset: Dataset, split: str, options: TrainerConfig) -> Scores:
    """Loss and metrics of a trained network on a split, in one process with a run's precision."""
    quieten()
    trainer = Trainer(
        # As it was trained, so that numbers are the same, where this machine can.
        accelerator="cpu" if options.accelerator == "cpu" else "auto",
        devices=1,
        precision=options.lightning["precision"],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    run = {"val": trainer.validate, "test": trainer.test}[split]
    return _scores(run, task, DataModule(dataset, seed=0), None)


def _scores(
    run: Callable[..., list[Mapping[str, float]]],
    task: Task,
    data: DataModule,
    weights: str | Path | None,
) -> Scores:
    (values,) = run(task, data, ckpt_path=weights, weights_only=True, verbose=False)
    return {name.rpartition("/")[2]: value for name, value in values.items()}


def _compact(values: torch.Tensor) -> np.ndarray:
    return (values.float() if values.is_floating_point() else values).cpu().numpy()


LEARNED = 0.5  # share of the way from the best constant answer to a perfect one


class PhaseScores(Callback):
    """Scores the groups of a data set that is shown in phases, after each of these.

    `scores[p][q]` is the monitored metric on the test samples of phase q after phase p, among the
    classes of that phase where there are classes: which of them is asked, not which phase (what
    continual learning calls task-incremental). `constants[q]` is that of the best constant answer.
    It only records: nothing is chosen by it.

    It goes over the test set itself: a trainer cannot test while it fits, and a second one would
    take the module away from the first. One pass serves all groups, whose samples lie in many
    batches.
    """

    def __init__(self, dataset: Dataset, objective: Objective) -> None:
        self.dataset = dataset
        self.objective = objective
        self.scores: list[list[float]] = []
        self.constants: list[float] = []

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Before the checkpoint of the epoch is written, so that a resumed run knows it.
        length = self.dataset.training_set.epochs_per_phase
        if trainer.state.fn != "fit" or (trainer.current_epoch + 1) % length:
            return
        loaders = self.dataset.loaders(seed=0, device=pl_module.device)
        precision = trainer.precision_plugin
        with torch.no_grad(), precision.forward_context():
            batches = [(pl_module(precision.convert_input(x)), y) for x, y in loaders.test]
        output, target = (torch.cat(parts) for parts in zip(*batches, strict=True))
        groups = self.dataset.groups("test", self.dataset.training_set.phases)
        pairs = [(output[i], target[i]) for i in (group.to(output.device) for group in groups)]
        phase = (trainer.current_epoch + 1) // length
        row = [self._score(_among_present(out, truth), truth) for out, truth in pairs]
        self.scores = [*self.scores[: phase - 1], row]
        self.constants = [self._score(_constant(out, truth), truth) for out, truth in pairs]

    def summary(self) -> dict[str, float | None]:
        """What is lost of what was learned, see `forgetting`, and the share of phases learned."""
        lost, learned = forgetting(self.scores, self.constants, self.objective.mode)
        return {"forgetting": lost, "learned": learned}

    def _score(self, output: torch.Tensor, target: torch.Tensor) -> float:
        metrics = self.objective.metrics(self.dataset.spec.num_outputs).to(output.device)
        metrics.update(output, target)
        return float(metrics.compute()[self.objective.monitor])

    def state_dict(self) -> dict[str, Any]:
        return {"scores": self.scores, "constants": self.constants}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.scores, self.constants = state_dict["scores"], state_dict["constants"]


def forgetting(
    scores: Sequence[Sequence[float]], constants: Sequence[float], mode: str
) -> tuple[float | None, float]:
    """How much of what was learned of each phase but the last is lost at the end, on average.

    Of a phase, what was learned is its score right after it beyond that of the best constant
    answer: 0 where all is kept, 1 where a constant would do as well. Only phases count that were
    learned, by `LEARNED` of what a perfect answer gains; None where there are none. The second
    value is the share of all phases that were learned.
    """
    sign, perfect = (1.0, 1.0) if mode == "max" else (-1.0, 0.0)
    gains = [sign * (scores[p][p] - c) for p, c in enumerate(constants)]
    learned = [
        gain >= LEARNED * sign * (perfect - c) for gain, c in zip(gains, constants, strict=True)
    ]
    kept = [sign * (score - c) for score, c in zip(scores[-1], constants, strict=True)]
    lost = [1 - k / g for k, g, is_learned in zip(kept, gains, learned, strict=True) if is_learned]
    if learned[-1]:
        lost = lost[:-1]  # nothing came after it
    return float(np.mean(lost)) if lost else None, float(np.mean(learned))


def _among_present(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The outputs with only the classes that occur in the target left, where there are classes."""
    if target.is_floating_point():
        return output
    present = torch.zeros(output.shape[1], dtype=torch.bool, device=output.device)
    present[target] = True
    return output.masked_fill(~present, -torch.inf)


def _constant(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The best constant answer: the mean of the targets, or the most frequent class."""
    if target.is_floating_point():
        return target.mean(0, keepdim=True).expand_as(output)
    answer = torch.zeros_like(output)
    answer[:, target.mode().values] = 1.0
    return answer
