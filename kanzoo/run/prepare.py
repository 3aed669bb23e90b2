"""Check a configuration and describe its parts; nothing is loaded or written."""

from dataclasses import dataclass
from typing import Any

from kanzoo import registry
from kanzoo.run.config import Config

WANDB_MODES = ("offline", "online", "disabled")


@dataclass(frozen=True)
class Prepared:
    """Everything that a configuration describes, checked and without data or weights."""

    plan: Any
    dataset: Any
    objective: Any
    schedule: Any


def prepare(config: Config) -> Prepared:
    """Check a configuration and describe its parts; nothing is loaded or written.

    Raises `ValueError` of one line for anything that cannot be.
    """
    from torch import nn

    from kanzoo.models.build import build_layers, build_plan, check_kind
    from kanzoo.models.memory import check_memory
    from kanzoo.run.checks import check_evaluation, check_pictures, check_trainer
    from kanzoo.training.optim import build_optimizer, check_lbfgs, is_lbfgs

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
    dataset, objective = describe_data(config)
    spec, choices = dataset.spec, config["choices"]
    schedule = registry.instantiate(config["sched"])
    devices, num_nodes = config["trainer"]["devices"], config["trainer"]["num_nodes"]
    if isinstance(devices, list):
        devices = len(devices)
    dataset.check(world_size=devices * num_nodes if isinstance(devices, int) else 1)
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
    check_memory(plan.params, training=True)
    build_optimizer(config["optim"], nn.Linear(1, 1))
    if is_lbfgs(config["optim"]):
        check_lbfgs(config["trainer"], dataset.batch_size, dataset.counts().train)
    return Prepared(plan, dataset, objective, schedule)


def describe_data(config: Config) -> tuple[Any, Any]:
    """The data set and the objective of a configuration; nothing is loaded."""
    from kanzoo.run.checks import training_set

    dataset = registry.instantiate(config["data"])
    dataset.training_set = training_set(config)
    objective = registry.instantiate(config["task"])
    if dataset.spec.task != objective.task:
        raise ValueError(
            f"data {config['choices']['data']!r} are for the task {dataset.spec.task!r}, not "
            f"{objective.task!r}; leave out task=..., it follows from the data"
        )
    return dataset, objective


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
