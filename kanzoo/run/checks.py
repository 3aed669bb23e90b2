"""Checks of options that concern several parts of a run at once."""

from dataclasses import replace
from typing import Any

from kanzoo import registry
from kanzoo.data.base import DataSpec
from kanzoo.data.corruption import check_corruptions
from kanzoo.data.training_set import TrainingSet

Config = dict[str, Any]

ACCELERATORS = ("auto", "cpu", "gpu", "mps", "tpu")
STRATEGIES = ("auto", "ddp", "fsdp")
PRECISIONS = ("16-mixed", "bf16-mixed", "16-true", "bf16-true", "32-true", "64-true")


def training_set(config: Config) -> TrainingSet:
    """What becomes of the training split; `ValueError` where its options cannot be."""
    epochs, phases = config["trainer"]["max_epochs"], config["training_set"]["phases"]
    wanted = TrainingSet(**config["training_set"])
    wanted.check()
    if epochs % phases:
        raise ValueError(
            f"trainer.max_epochs={epochs} must be a multiple of training_set.phases={phases}"
        )
    if phases > 1 and (config["trainer"]["devices"], config["trainer"]["num_nodes"]) != (1, 1):
        raise ValueError("training_set.phases needs training in one process: trainer.devices=1")
    if phases > 1 and config["callbacks"]["patience"] is not None:
        raise ValueError("callbacks.patience must be null where training_set.phases is above 1")
    return replace(wanted, epochs_per_phase=epochs // phases)


def check_evaluation(config: Config, spec: DataSpec) -> None:
    """Raise a `ValueError` for corruptions that cannot be, or that need a test."""
    severities = {k: v for k, v in config["evaluation"].items() if k != "test"}
    if spec.kind == "tokens" and any(severities.values()):
        raise ValueError("evaluation can corrupt real inputs only, not tokens")
    check_corruptions(severities, spec.in_shape)
    if not config["evaluation"]["test"]:
        chosen = [kind for kind, values in severities.items() if values]
        if chosen or config["training_set"]["phases"] > 1:
            what = f"evaluation.{chosen[0]}" if chosen else "training_set.phases"
            raise ValueError(f"{what} needs the test set: evaluation.test=true")


def check_trainer(node: dict[str, Any]) -> None:
    """Raise a `ValueError` for options of the trainer that cannot be, on any machine."""
    registry.check_name("trainer.accelerator", node["accelerator"], ACCELERATORS)
    registry.check_name("trainer.strategy", node["strategy"], STRATEGIES)
    registry.check_name("trainer.precision", node["precision"], PRECISIONS)
    for key in ("max_epochs", "num_nodes", "accumulate_grad_batches", "log_every_n_steps"):
        if not isinstance(node[key], int) or node[key] < 1:
            raise ValueError(f"trainer.{key} must be a whole number from 1, got {node[key]!r}")
    devices = node["devices"]
    numbers = devices if isinstance(devices, list) else [devices]
    if devices != "auto" and not all(isinstance(n, int) for n in numbers):
        raise ValueError(f"trainer.devices must be a count, auto or a list, got {devices!r}")
    if devices == [] or (isinstance(devices, int) and devices < 1):
        raise ValueError(f"trainer.devices must be at least 1, auto or a list, got {devices}")
    if node["accelerator"] == "cpu" and (node["strategy"] == "fsdp" or isinstance(devices, list)):
        raise ValueError(
            "trainer.strategy=fsdp and lists of trainer.devices need GPUs; with "
            "trainer.accelerator=cpu use ddp and a count"
        )
    if node["sync_batchnorm"] not in ("auto", True, False):
        raise ValueError(
            f"trainer.sync_batchnorm must be auto, true or false, got {node['sync_batchnorm']!r}"
        )
    clip = node["gradient_clip_val"]
    if clip is not None and clip <= 0:
        raise ValueError(f"trainer.gradient_clip_val must be positive or null, got {clip}")


def check_pictures(options: Config, config: Config) -> None:
    """Raise `ValueError` for values of `callbacks.pictures` that a run cannot have."""
    for key, least in (("every", 0), ("edges", 1)):
        value = options[key]
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(
                f"callbacks.pictures.{key} must be a whole number from {least}, got {value!r}"
            )
    if options["every"] and config["trainer"]["strategy"] == "fsdp":
        raise ValueError("callbacks.pictures needs whole weights: not with trainer.strategy=fsdp")
    if options["every"] and options["wandb"] and config["logger"]["wandb"] is None:
        raise ValueError("callbacks.pictures.wandb=true needs logger=wandb")
