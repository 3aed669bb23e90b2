"""Train one run from its configuration, and the command that does so."""

import logging
import platform
import sys
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kanzoo import __version__, registry
from kanzoo.config import Config, run_command, user_errors
from kanzoo.errors import BUSY_CODE, BusyError, DivergedError
from kanzoo.rundir import RunDir, git_sha, is_first_process

log = logging.getLogger("kanzoo")

WANDB_MODES = ("offline", "online", "disabled")


@dataclass(frozen=True)
class Prepared:
    """Everything that a configuration describes, checked and without data or weights."""

    plan: Any
    dataset: Any
    objective: Any
    schedule: Any


def main() -> None:
    """Entry of `scripts/train.py`: one run, or with `-m` several one after the other."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run_command("train", _job)


def _job(config: Config) -> None:
    with user_errors():
        folder = RunDir.of(config)
        if skip(folder):
            return
        prepared = prepare(config)
        check_machine(config["trainer"])
        prepared.dataset.load()
    try:
        result = fit_alone(config, folder, prepared)
    except (BusyError, DivergedError) as error:
        print(f"kanzoo: {error}", file=sys.stderr)
        raise SystemExit(BUSY_CODE if isinstance(error, BusyError) else 1) from None
    except (KeyboardInterrupt, SystemExit) as end:
        # Lightning turns an interrupt into an exit with code 1.
        if KeyboardInterrupt not in (type(end), type(end.__context__)):
            raise
        print("kanzoo: interrupted; the same command goes on from the last epoch", file=sys.stderr)
        raise SystemExit(130) from None
    if result is not None:
        _print_summary(result, folder)


def train(config: Config) -> dict[str, Any]:
    """Train one run, or return the result of the finished one; the content of `result.json`.

    Raises `ValueError` for a configuration that cannot be, before anything is written, and
    `BusyError` where another process is training the run.
    """
    folder = RunDir.of(config)
    if skip(folder):
        return folder.result() or {}
    prepared = prepare(config)
    check_machine(config["trainer"])
    prepared.dataset.load()
    return fit_alone(config, folder, prepared) or {}


def skip(folder: RunDir) -> bool:
    """Whether a run is finished already; refuses a folder of another configuration."""
    if folder.config["overwrite"]:
        return False
    if not is_first_process():
        return folder.result() is not None
    folder.check_config()
    if folder.result() is not None:
        log.info("finished before, skipped: %s", folder.path)
        return True
    return False


def prepare(config: Config) -> Prepared:
    """Check a configuration and describe its parts; nothing is loaded or written.

    Raises `ValueError` of one line for anything that cannot be.
    """
    from torch import nn

    from kanzoo.build import build_layers, build_plan, check_kind
    from kanzoo.checks import check_evaluation, check_pictures, check_trainer, training_set
    from kanzoo.engine.optim import build_optimizer, check_lbfgs, is_lbfgs

    choices = config["choices"]
    seed = config["seed"]
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed must be a whole number from 0, got {seed!r}")
    check_trainer(config["trainer"])
    for key in ("lr", "weight_decay"):
        if config["optim"].get(key, 0.0) < 0:
            raise ValueError(f"optim.{key} must not be negative, got {config['optim'][key]}")
    wandb = config["logger"]["wandb"]
    if wandb is not None:
        if not isinstance(wandb, dict):
            raise ValueError(f"logger.wandb must be null or chosen by logger=wandb, got {wandb!r}")
        registry.check_name("logger.wandb.mode", wandb["mode"], WANDB_MODES)
    patience = config["callbacks"]["patience"]
    if patience is not None and (not isinstance(patience, int) or patience < 1):
        raise ValueError(f"callbacks.patience must be a whole number or null, got {patience!r}")
    if pictures := config["callbacks"].get("pictures"):
        check_pictures(pictures, config)
    dataset = registry.instantiate(config["data"])
    dataset.training_set = training_set(config)
    objective = registry.instantiate(config["task"])
    schedule = registry.instantiate(config["sched"])
    devices, num_nodes = config["trainer"]["devices"], config["trainer"]["num_nodes"]
    if isinstance(devices, list):
        devices = len(devices)
    dataset.check(world_size=devices * num_nodes if isinstance(devices, int) else 1)
    spec = dataset.spec
    if spec.task != objective.task:
        raise ValueError(
            f"data {choices['data']!r} are for the task {spec.task!r}, not {objective.task!r}; "
            "leave out task=..., it follows from the data"
        )
    check_kind(config["model"], choices["model"], spec.kind, choices["data"])
    check_evaluation(config, spec)
    layers = build_layers(config["layers"], config["basis"])
    plan = build_plan(
        config["model"],
        layers,
        spec.in_shape,
        spec.num_outputs,
        config["match"],
        choices["model"],
        budget=config["budget"],
    )
    build_optimizer(config["optim"], nn.Linear(1, 1))
    if is_lbfgs(config["optim"]):
        check_lbfgs(config["trainer"], dataset.batch_size, dataset.counts().train)
    return Prepared(plan, dataset, objective, schedule)


def check_machine(node: Config) -> None:
    """Raise `ValueError` for a trainer that needs devices which this machine does not have."""
    import torch

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    found = torch.accelerator.device_count() if accelerator else 0
    devices = node["devices"]
    if node["accelerator"] == "gpu" or node["strategy"] == "fsdp" or isinstance(devices, list):
        if not found:
            raise ValueError("PyTorch finds no GPU on this machine; use trainer=cpu")
        last = max(devices) + 1 if isinstance(devices, list) else devices
        if isinstance(last, int) and last > found:
            raise ValueError(f"trainer.devices={devices}, but this machine has {found}")


def fit_alone(config: Config, folder: RunDir, prepared: Prepared) -> dict[str, Any] | None:
    """`fit`, unless another process trains this run (`BusyError`) or has finished it meanwhile."""
    if not is_first_process():
        return fit(config, folder, prepared)
    with folder.lock():
        if config["overwrite"]:
            folder.clear()
        return folder.result() or fit(config, folder, prepared)


def fit(config: Config, folder: RunDir, prepared: Prepared) -> dict[str, Any] | None:
    """Train and test; returns the result, or None in all processes but the first."""
    import torch

    from kanzoo.engine.data import DataModule
    from kanzoo.engine.evaluation import PhaseScores, evaluate, forgetting
    from kanzoo.engine.finite import StopWhenDiverged, check_scores
    from kanzoo.engine.interrupt import stopping_between_batches
    from kanzoo.engine.measure import StepTimer, peak_step_memory
    from kanzoo.engine.optim import build_optimizer
    from kanzoo.engine.task import Task
    from kanzoo.engine.trainer import build_trainer, close_wandb
    from kanzoo.interpret.animation import make_pictures

    plan, dataset, objective = prepared.plan, prepared.dataset, prepared.objective
    net = plan.build(config["seed"])
    make_optimizer = partial(build_optimizer, config["optim"])
    optimization = (make_optimizer, prepared.schedule, config["seed"])
    penalty = config["callbacks"]["regularise"]
    task = Task(net, objective, dataset.spec.num_outputs, *optimization, penalty)
    if is_first_process():
        folder.write_config()
    facts = {
        "params": plan.params,
        "flops": plan.flops,
        "twin_params": plan.twin_params,
        "twin_flops": plan.twin_flops,
        "options": plan.options,
    }
    timer = StepTimer()
    resume = folder.last_checkpoint if folder.last_checkpoint.is_file() else None
    if resume:
        log.info("resuming from %s", resume)
    try:
        phases = PhaseScores(dataset, objective)
        in_phases = dataset.training_set.phases > 1
        with stopping_between_batches() as interrupt:
            own: list[Any] = [timer, interrupt, StopWhenDiverged()]
            own += [phases] if in_phases else []
            own += make_pictures(config["callbacks"]["pictures"], folder.path / "pictures", net)
            trainer = build_trainer(config, folder, objective, facts, resume, own)
            data = DataModule(dataset, config["seed"])
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            trainer.fit(task, data, ckpt_path=resume, weights_only=True)
            seconds = timer.seconds  # evaluation restores the timer of the best epoch
            weights = trainer.checkpoint_callback.best_model_path  # type: ignore[union-attr]
            if in_phases:  # what was learned last, not best
                weights = folder.last_checkpoint
            scores = evaluate(trainer, task, data, weights, config["evaluation"])
            check_scores(scores)
        if in_phases:
            scores["test"]["forgetting"] = forgetting(phases.scores, objective.mode)
            scores["phases"] = phases.scores
    finally:
        close_wandb()
    if not trainer.is_global_zero:
        return None
    if trainer.strategy.root_device.type == "cuda":
        peak = torch.cuda.max_memory_allocated()
    else:
        batch = trainer.precision_plugin.convert_input(next(iter(data.train_dataloader())))
        peak = peak_step_memory(net, objective.loss, make_optimizer, batch)
    result = {
        "status": "finished",
        "name": config["name"],
        "model": config["choices"]["model"],
        "layers": config["choices"]["layers"],
        "basis": config["choices"]["basis"] if plan.layers.is_kan else None,
        "data": config["choices"]["data"],
        "seed": config["seed"],
        "match": config["match"] if plan.layers.is_kan else None,
        **facts,
        **_final_size(net, facts, dataset.spec.in_shape),
        "step_time_ms": timer.step_ms(),
        "peak_memory_mb": peak / 2**20,
        "train_seconds": seconds,
        "epochs": trainer.current_epoch,
        "metric": objective.monitor,
        "mode": objective.mode,
        **scores,
        "reference": dataset.reference(),
        "reference_name": dataset.reference_name,
        "data_version": dataset.spec.version or None,
        "git_sha": git_sha(),
        "versions": _versions(),
        "config_hash": folder.config_hash,
    }
    folder.write_result(result)
    return result


def _final_size(net: Any, facts: dict[str, Any], in_shape: tuple[int, ...]) -> dict[str, int]:
    """Parameters and FLOPs of the trained network: refined grids have more than was planned."""
    from kanzoo.study.budget import count_flops, count_params

    if count_params(net) == facts["params"]:
        return {}
    return {"params": count_params(net), "flops": count_flops(net, in_shape)}


def _versions() -> dict[str, str]:
    packages = ("torch", "lightning", "numpy")
    found = {name: version(name) for name in packages}
    return {"kanzoo": __version__, "python": platform.python_version(), **found}


def _print_summary(result: dict[str, Any], folder: RunDir) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=str(folder.path), title_justify="left", show_header=False)
    metric, reference = result["metric"], result["reference"].get("test", {})
    test = result["test"] or {}  # none where evaluation.test is false
    others = [name for name in test if name not in (metric, "loss")]
    rows = {
        f"test {name}": f"{_short(test[name])}"
        + (f" ({result['reference_name']}: {_short(reference[name])})" if name in reference else "")
        for name in (metric, *others)
        if test
    }
    rows |= {
        f"validation {metric}": _short(result["val"][metric]),
        "parameters": f"{result['params']:,} (twin {result['twin_params']:,})",
        "forward FLOPs": f"{result['flops']:,} (twin {result['twin_flops']:,})",
        "training step": f"{result['step_time_ms']:.2f} ms",
        "peak memory": f"{result['peak_memory_mb']:.1f} MB",
        "training": f"{result['train_seconds']:.1f} s, {result['epochs']} epochs",
        "result": str(Path(folder.path) / "result.json"),
    }
    for name, value in rows.items():
        table.add_row(name, value)
    Console().print(table)


def _short(value: float) -> str:
    """Four decimals, or four digits where these would be zeros."""
    return f"{value:.4f}" if abs(value) >= 0.01 or value == 0 else f"{value:.3e}"


if __name__ == "__main__":
    main()
