"""Train one run from its configuration, and write its result."""

import logging
import platform
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING

from kanzoo import __version__
from kanzoo.errors import DivergedError, Stopped
from kanzoo.hardware import machine
from kanzoo.run.prepare import Prepared, check_machine, prepare
from kanzoo.rundir import Config, RunDir, SeedsDir, git_sha, is_first_process

if TYPE_CHECKING:
    from lightning.pytorch import Callback, Trainer
    from torch import nn

    from kanzoo.models.build import ModelPlan
    from kanzoo.training.data import DataModule
    from kanzoo.training.evaluation import Items
    from kanzoo.training.task import Task

log = logging.getLogger("kanzoo")
MATCHING = ("match", "match_scope", "match_by")


def train(config: Config, callbacks: "Sequence[Callback]" = ()) -> Config:
    """Train one run, or return the result of the finished one; the content of `result.json`.

    `callbacks` are further callbacks of the trainer.

    Raises `ValueError` for a configuration that cannot be, before anything is written, and
    `BusyError` where another process is training the run.
    """
    folder = RunDir.of(config)
    if skip(folder):
        return folder.result() or {}
    prepared = prepare(config)
    check_machine(prepared.config.trainer)
    prepared.dataset.load()
    return fit_alone(folder, prepared, callbacks) or {}


def skip(folder: RunDir) -> bool:
    """Whether a run is finished already; refuses a folder of another configuration."""
    if folder.config["overwrite"]:
        return False
    if not is_first_process():
        return folder.result() is not None
    folder.check_config()
    if folder.result() is not None:
        folder.tidy()
        log.info("finished before, skipped: %s", folder.path)
        return True
    return False


def fit_alone(
    folder: RunDir, prepared: Prepared, callbacks: "Sequence[Callback]" = ()
) -> Config | None:
    """`fit`, unless another process trains this run (`BusyError`) or has finished it meanwhile."""
    if not is_first_process():
        return fit(folder, prepared, callbacks)
    with folder.lock():
        if prepared.config.overwrite:
            folder.clear()
        return folder.result() or fit(folder, prepared, callbacks)


def fit(folder: RunDir, prepared: Prepared, callbacks: "Sequence[Callback]" = ()) -> Config | None:
    """Train and test; returns the result, or None in all processes but the first.

    `callbacks` are further callbacks of the trainer.
    """
    import torch

    from kanzoo.interpret.pictures.animation import make_pictures
    from kanzoo.run import starts
    from kanzoo.training.checkpoints import find_resume
    from kanzoo.training.data import DataModule
    from kanzoo.training.evaluation import PhaseScores, evaluate
    from kanzoo.training.finite import StopWhenDiverged, check_scores
    from kanzoo.training.interrupt import stopping_between_batches
    from kanzoo.training.measure import StepTimer
    from kanzoo.training.services import close_wandb
    from kanzoo.training.trainer import build_trainer, products_of
    from kanzoo.training.waiting import sleeping_while_busy
    from kanzoo.training.watch import end_watch

    config, dataset, objective = prepared.config, prepared.dataset, prepared.objective
    resume = find_resume(folder)
    task = make_task(prepared, 0 if resume else starts.best_start(prepared))
    if is_first_process():
        write_description(folder, task)
    facts = prepared.plan.facts()
    timer = StepTimer()
    if resume:
        log.info("resuming from %s, step %d", resume.path, resume.step)
    try:
        phases = PhaseScores(dataset, objective)
        in_phases = dataset.training_set.phases > 1
        with (
            stopping_between_batches() as interrupt,
            products_of(config.trainer.precision),
            sleeping_while_busy(),
        ):
            extra: list[Callback] = [*callbacks, timer, StopWhenDiverged(), *objective.callbacks()]
            extra += [phases] if in_phases else []
            extra += make_pictures(config.callbacks.pictures, folder.path / "pictures", task.net)
            trainer = build_trainer(config, folder, objective, facts, resume, interrupt, extra)
            data = DataModule(dataset, config.seed)
            if torch.accelerator.is_available():
                torch.accelerator.reset_peak_memory_stats()
            path = resume.path if resume else None
            trainer.fit(task, data, ckpt_path=path, weights_only=True)
            seconds = timer.seconds  # evaluation restores the timer of the best epoch
            weights = trainer.checkpoint_callback.best_model_path  # type: ignore[union-attr]
            if in_phases:  # what was learned last, not best
                weights = folder.last_checkpoint
            scores, items = evaluate(trainer, task, data, weights, config.evaluation)
            check_scores(scores)
            if is_first_process() and (doubt := starts.training_doubt(task, dataset)):
                log.warning(doubt)
        if in_phases:
            scores["test"] |= phases.summary()
            scores |= {"phases": phases.scores, "phases_constant": phases.constants}
    except (DivergedError, Stopped):  # all processes at once
        end_watch()
        raise
    finally:
        address = close_wandb()
    trainer.strategy.barrier()
    end_watch()
    if not trainer.is_global_zero:
        return None
    times = (timer.step_ms(), seconds)
    return write_result(
        folder, prepared, trainer, task, data, scores, items, times, {"wandb": address}
    )


def make_task(prepared: Prepared, start: int = 0) -> "Task":
    """The network of a run with its initial weights, and how it is trained.

    `start` counts the initial weights that a seed stands for, see `kanzoo.run.starts`.
    """
    from kanzoo.data.seeding import keyed_seed
    from kanzoo.training.compiled import CompiledNet
    from kanzoo.training.optim import build_optimizer
    from kanzoo.training.task import Task
    from kanzoo.training.trainer import dtype_of

    config = prepared.config
    options = config.trainer
    # In its dtype before anything is restored: Lightning converts only after that.
    seed = keyed_seed("start", config.seed, start) if start else config.seed
    net = prepared.plan.build(seed).to(dtype_of(options.precision))
    # Gradients that were scaled up are clipped between the two halves of a fused step.
    fused = False if options.precision == "16-mixed" else None
    return Task(
        net,
        prepared.objective,
        prepared.dataset.spec.num_outputs,
        partial(build_optimizer, config.optim, fused=fused, graphed=options.cuda_graph),
        prepared.schedule,
        config.seed,
        config.callbacks.regularise,
        CompiledNet(net) if options.compile else None,
    )


def write_description(folder: RunDir, task: "Task") -> None:
    """Write what is known of a run before it is trained: its configuration, and its recipe."""
    from kanzoo.models.base import Architecture
    from kanzoo.models.weights import save_recipe

    assert isinstance(task.net, Architecture)
    folder.write_config()
    save_recipe(task.net, folder.path)


def write_result(
    folder: RunDir,
    prepared: Prepared,
    trainer: "Trainer",
    task: "Task",
    data: "DataModule",
    scores: Config,
    items: "Items",
    times: tuple[float | None, float | None],
    further: Config,
    peak: float | None = None,
) -> Config:
    """Write `items.npz` and `result.json`, the content of which is returned.

    `times` are the milliseconds of a step and the seconds of training, None where nothing was
    measured of this run alone; `further` goes into the result as it is. `peak` is the most memory
    of a step in bytes, where a run of the same network has measured it already.
    """
    import torch

    from kanzoo.training.cards import utilisation
    from kanzoo.training.evaluation import outside_grid
    from kanzoo.training.measure import peak_step_memory
    from kanzoo.training.strategy import is_sharded

    config, choices = prepared.config, prepared.config.choices
    plan, dataset, objective = prepared.plan, prepared.dataset, prepared.objective
    net, make_optimizer, (step_ms, seconds) = task.net, task.make_optimizer, times
    assert make_optimizer is not None
    outside = outside_grid(trainer, net, data)
    device = trainer.strategy.root_device
    if device.type != "cpu":
        peak = torch.accelerator.max_memory_allocated(device)
    elif peak is None:
        precision = trainer.precision_plugin
        batch = precision.convert_input(next(iter(data.train_dataloader())))
        with precision.forward_context():
            # Of shards there is no copy: the network is made again, for one process.
            complete = make_task(prepared).net if is_sharded(trainer.strategy) else net
            peak = peak_step_memory(
                complete, objective.loss, make_optimizer, batch, objective.output
            )
    size = {**plan.facts(), **_final_size(net, plan)}
    samples = min(dataset.batch_size, dataset.counts().train)
    work = (size["flops"] * samples, config.trainer.precision, device, trainer.world_size)
    result = {
        "status": "finished",
        "name": config.name,
        "model": choices["model"],
        "layers": choices["layers"],
        "basis": choices["basis"] if plan.layers.is_kan else None,
        "data": choices["data"],
        "seed": config.seed,
        **{name: getattr(config, name) if plan.layers.is_kan else None for name in MATCHING},
        **size,
        "step_time_ms": step_ms,
        "samples_per_second": 1000 * samples / step_ms if step_ms else None,
        "utilisation": utilisation(step_ms, *work) if step_ms else None,
        "machine": machine(device),
        "peak_memory_mb": peak / 2**20,
        "train_seconds": seconds,
        "epochs": trainer.current_epoch,
        "metric": objective.monitor,
        "mode": objective.mode,
        **scores,
        **({"outside_grid": outside} if outside else {}),
        "split": dataset.split_facts(),
        "reference": dataset.reference(),
        "reference_name": dataset.reference_name,
        "data_version": dataset.spec.version or None,
        "git_sha": git_sha(),
        "versions": _versions(),
        "config_hash": folder.config_hash,
        **further,
    }
    if items:
        folder.write_items(items)
    folder.previous_checkpoint.unlink(missing_ok=True)  # what is finished needs one
    folder.write_result(result)
    SeedsDir.of_runs([folder]).remove_checkpoints()  # of seeds of which it was the last to end
    return result


def _final_size(net: "nn.Module", plan: "ModelPlan") -> dict[str, int]:
    """Parameters and FLOPs of the trained network: refined grids have more than was planned."""
    from kanzoo.layers.parameters import count_params
    from kanzoo.models.cost import count_cost

    params = count_params(net)
    if params == plan.params:
        return {}
    return count_cost(net, plan.shape.in_shape)._asdict()


def _versions() -> dict[str, str]:
    packages = ("torch", "lightning", "numpy")
    found = {name: version(name) for name in packages}
    return {"kanzoo": __version__, "python": platform.python_version(), **found}
