"""Runs that differ in their seed alone, trained together in one process.

What is drawn, in what order data come, what is chosen and what is written is the same as in runs of
their own; weights and scores are so within rounding. Times of a single run are not measured.
"""

import contextlib
import logging
import math
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from kanzoo import registry
from kanzoo.errors import BusyError, DivergedError, SeparateError
from kanzoo.run.fit import make_task, skip, write_description, write_result
from kanzoo.run.prepare import Prepared, check_machine, prepare
from kanzoo.rundir import Config, RunDir, SeedsDir, identity

if TYPE_CHECKING:
    from kanzoo.training.data import DataModule
    from kanzoo.training.interrupt import StopBetweenBatches
    from kanzoo.training.seeds import SeedsTask, State
    from kanzoo.training.task import Task

log = logging.getLogger("kanzoo")

MAX_PARAMS = 2**20  # of a network: beyond, a step takes much longer than what it shares
MAX_NUMBERS = 2**29  # in the training data of all seeds, which are held at once
OPTIMIZERS = ("Adam", "AdamW", "SGD")  # of PyTorch: every number is updated by itself
SAMPLE = 4  # samples on which networks are compared before
PRECISIONS = ("32-true", "64-true")


def train_seeds(configs: Sequence[Config]) -> list[Exception | None]:
    """Train runs whose configurations differ in the seed alone.

    Returns how each ended: None where its result is written, `BusyError` or `DivergedError` as a
    run of its own would raise it, and `SeparateError` where it has to be one.
    """
    assert len({str(identity(config)) for config in configs}) == 1
    ends: list[Exception | None] = [None] * len(configs)
    waiting: dict[int, RunDir] = {}
    with ExitStack() as locks:
        for index, config in enumerate(configs):
            folder = RunDir.of(config)
            try:
                if skip(folder):
                    continue
                locks.enter_context(folder.lock())
            except BusyError as error:
                ends[index] = error
                continue
            if config["overwrite"]:
                folder.clear()
            if folder.result() is None:
                waiting[index] = folder
        group = _stopped_group(list(waiting.values()))
        if not group:
            for index, folder in list(waiting.items()):
                if folder.last_checkpoint.is_file() or folder.previous_checkpoint.is_file():
                    ends[index] = SeparateError("it goes on from its last checkpoint")
                    del waiting[index]
            group = list(waiting.values())
        ours = {folder.path for folder in waiting.values()}
        try:
            results = _train([(folder, prepare(folder.config)) for folder in group], ours)
            ends = [results[waiting[i].path] if i in waiting else end for i, end in enumerate(ends)]
        except SeparateError as error:
            ends = [error if i in waiting else end for i, end in enumerate(ends)]
    return ends


def _stopped_group(folders: Sequence[RunDir]) -> list[RunDir]:
    """The runs that were trained together when they were stopped, if all of these are among them.

    Those that have written their result since are needed too: what is computed together is the same
    to the last bit in the same company only.
    """
    from kanzoo.models.weights import read_checkpoint
    from kanzoo.training.checkpoints import RUN

    for path in SeedsDir.of_runs(folders).checkpoints if folders else ():
        with contextlib.suppress(ValueError, OSError):
            config_hash, _, seeds = str(read_checkpoint(path).get(RUN)).partition("-seeds")
            numbers = [int(seed) for seed in seeds.split(",")]
            known = [folder.config["seed"] for folder in folders]
            same = config_hash == folders[0].config_hash and known[0] == numbers[0]
            if same and set(known) <= set(numbers):
                return [RunDir.of({**folders[0].config, "seed": number}) for number in numbers]
    return []


def why_separate(runs: Sequence[Prepared]) -> str | None:
    """Why runs have to be trained one by one, None where they need not."""
    import torch

    run, config = runs[0], runs[0].config
    trainer, callbacks = config.trainer, config.callbacks
    numbers = run.dataset.counts().train * math.prod(run.dataset.spec.in_shape) * len(runs)
    optimizer = registry.locate(config.optim["_target_"])
    reasons = {
        "it is a single run": len(runs) < 2,
        "trainer.devices is not 1": not trainer.is_one_process,
        "it trains on a GPU": trainer.accelerator != "cpu" and torch.accelerator.is_available(),
        f"trainer.precision is {trainer.precision}": trainer.precision not in PRECISIONS,
        f"optim is not one of {', '.join(OPTIMIZERS)}": optimizer
        not in [getattr(torch.optim, name) for name in OPTIMIZERS],
        "callbacks.grid moves grids": callbacks.grid is not None,
        "callbacks.patience stops each seed at another epoch": callbacks.patience is not None,
        "callbacks.starts chooses among several networks": callbacks.starts > 1,
        "callbacks.pictures follow a single run": callbacks.pictures.every > 0,
        "training points follow the network": bool(run.objective.callbacks()),
        "training_set.phases are scored in a single run": config.training_set.phases > 1,
        f"the network has over {MAX_PARAMS:,} parameters": run.plan.params > MAX_PARAMS,
        f"training data would take over {MAX_NUMBERS:,} numbers": numbers > MAX_NUMBERS,
        "the splits differ in size": len({other.dataset.counts() for other in runs}) > 1,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _train(
    pairs: Sequence[tuple[RunDir, Prepared]], ours: AbstractSet[Path]
) -> dict[Path, Exception | None]:
    """Train runs and write the results of those in `ours`; raises `SeparateError`.

    The folder of the first, in which the state of training is, gets its result last.
    """
    if not pairs:
        return {}
    import torch

    from kanzoo.training.checkpoints import find_resume
    from kanzoo.training.data import DataModule, SeedsData
    from kanzoo.training.interrupt import stopping_between_batches
    from kanzoo.training.optim import build_optimizer
    from kanzoo.training.seeds import SeedsTask, seeds_trainer
    from kanzoo.training.trainer import dtype_of

    runs = [run for _, run in pairs]
    if reason := why_separate(runs):
        raise SeparateError(reason)
    first, spec = runs[0].config, runs[0].dataset.spec
    check_machine(first.trainer)
    loader = runs[0].dataset.loaders(seed=0, device=torch.device("cpu")).val
    sample = next(iter(loader))[0][:SAMPLE]
    if sample.is_floating_point():
        sample = sample.to(dtype_of(first.trainer.precision))
    tasks = [make_task(run) for run in runs]
    data = [DataModule(run.dataset, run.config.seed) for run in runs]
    # In one pass over the numbers: those of all seeds together do not fit into a cache.
    make_optimizer = partial(build_optimizer, {**first.optim, "fused": True})
    group = SeedsTask(tasks, spec.num_outputs, make_optimizer, sample)
    for (folder, _), task in zip(pairs, tasks, strict=True):
        if folder.path in ours:
            write_description(folder, task)
    together = SeedsDir.of_runs([folder for folder, _ in pairs])
    resume = find_resume(together)
    ends: dict[Path, Exception | None] = {}
    with stopping_between_batches() as interrupt:
        trainer = seeds_trainer(first, together, resume, interrupt)
        path = resume.path if resume else None
        trainer.fit(group, SeedsData(data), ckpt_path=path, weights_only=True)
        peak: float | None = None  # the same for all, as their networks differ in numbers alone
        for seed, (folder, run) in reversed(list(enumerate(pairs))):
            if folder.path not in ours:
                continue
            try:
                peak = _finish(folder, run, group, seed, data[seed], interrupt, peak)
            except DivergedError as error:
                ends[folder.path] = error
            else:
                ends[folder.path] = None
    together.remove_checkpoints()
    return ends


def _finish(
    folder: RunDir,
    run: Prepared,
    group: "SeedsTask",
    seed: int,
    data: "DataModule",
    interrupt: "StopBetweenBatches",
    peak: float | None,
) -> float:
    """Write what a run of its own leaves behind: metrics, checkpoints, and its result.

    Takes and returns the bytes of a step, None where they are to be measured.
    """
    from kanzoo.training.evaluation import evaluate
    from kanzoo.training.finite import check_scores
    from kanzoo.training.services import close_wandb
    from kanzoo.training.trainer import build_trainer

    task = group.tasks[seed]
    config, facts = run.config, run.plan.facts()
    try:
        trainer = build_trainer(config, folder, run.objective, facts, None, interrupt, [])
        for logger in trainer.loggers:
            for row, step in group.rows[seed]:
                logger.log_metrics(row, step)
            logger.save()
        if seed in group.diverged:
            raise group.diverged[seed]
        trainer.fit_loop.load_state_dict(group.trainer.fit_loop.state_dict())
        best, last = folder.last_checkpoint.with_name("best.ckpt"), folder.last_checkpoint
        _save(
            folder, task, group.state_of(seed), trainer.current_epoch - 1, group.global_step, last
        )
        _save(folder, task, *group.best[seed], best)
        scores, items = evaluate(trainer, task, data, best, config.evaluation)
        check_scores(scores)
    finally:
        address = close_wandb()
    further = {"wandb": address, "vectorised": len(group.rows)}
    result = write_result(
        folder, run, trainer, task, data, scores, items, (None, None), further, peak
    )
    return float(result["peak_memory_mb"]) * 2**20


def _save(folder: RunDir, task: "Task", state: "State", epoch: int, step: int, path: Path) -> None:
    """Give a task's network the weights of a state, and write them as a checkpoint."""
    import lightning
    import torch

    from kanzoo.training.checkpoints import Checkpoints
    from kanzoo.training.seeds import state_of

    with torch.no_grad():
        for name, value in state_of(task.net).items():
            value.copy_(state[name])
    content = {
        "epoch": epoch,
        "global_step": step,
        "pytorch-lightning_version": lightning.__version__,
        "state_dict": task.state_dict(),
    }
    Checkpoints(folder).save_checkpoint(content, path)
