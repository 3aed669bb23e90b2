"""Check a configuration and describe its parts; nothing is loaded or written."""

import math
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from kanzoo import registry
from kanzoo.checks import build, check_whole
from kanzoo.rundir import Config
from kanzoo.settings import RunConfig
from kanzoo.trainer_settings import TrainerConfig

if TYPE_CHECKING:
    from kanzoo.data.base import Dataset
    from kanzoo.models.build import ModelPlan
    from kanzoo.training.objective import Objective
    from kanzoo.training.optim import Schedule


@dataclass(frozen=True)
class Prepared:
    """Everything that a configuration describes, checked and without data or weights."""

    config: RunConfig
    plan: "ModelPlan"
    dataset: "Dataset"
    objective: "Objective"
    schedule: "Schedule"


def prepare(config: Config) -> Prepared:
    """Check a configuration and describe its parts; nothing is loaded or written.

    Raises `ValueError` of one line for anything that cannot be.
    """

    from kanzoo.layers.memory import check_memory, check_samples
    from kanzoo.models.build import build_layers, build_plan, check_kind
    from kanzoo.models.linear import SeriesModel
    from kanzoo.models.solve import Budget
    from kanzoo.training.optim import check_graphed, check_lbfgs, check_options, is_lbfgs

    settings = build(RunConfig, config)
    for package in ("tensorboard", "mlflow"):
        if getattr(settings.logger, package) and find_spec(package) is None:
            raise ValueError(
                f"logger.{package}=true needs a package: pip install 'kanzoo[{package}]'"
            )
    dataset, objective = describe_data(settings)
    spec, model = dataset.spec, settings.choices["model"]
    # What is drawn is as much as options say; files have what they have.
    if drawn := sum(value for name, value in vars(dataset).items() if name.startswith("n_")):
        numbers = math.prod(spec.in_shape) + spec.num_outputs
        check_samples(drawn * getattr(dataset, "num_times", 1), numbers)
    check_kind(settings.model, model, spec.kind, settings.choices["data"])
    if getattr(dataset, "covariates", None) and issubclass(
        registry.locate(settings.model["_target_"]), SeriesModel
    ):
        raise ValueError(
            f"model={model} forecasts every channel from its own past, and takes no data.covariates"
        )
    plan = build_plan(
        settings.model,
        build_layers(settings.layers, settings.basis),
        spec.in_shape,
        spec.num_outputs,
        Budget(settings.match, settings.match_scope, settings.match_by, settings.budget),
        model,
    )
    check_memory(plan.params, training=True)
    if objective.needs_net:
        objective.check_net(plan.build(settings.seed), compiled=settings.trainer.compile)
    check_options(settings.optim)
    if is_lbfgs(settings.optim):
        check_lbfgs(settings.trainer, dataset.batch_size, dataset.counts().train)
    if settings.trainer.cuda_graph:
        check_graphed(settings.optim)
    accumulated = settings.trainer.accumulate_grad_batches
    if accumulated > 1:  # batches of an epoch are the most that can add up
        batches = max(1, dataset.counts().train // dataset.batch_size)
        check_whole("trainer.accumulate_grad_batches", accumulated, 1, batches)
    return Prepared(settings, plan, dataset, objective, registry.instantiate(settings.sched))


def describe_data(settings: RunConfig) -> "tuple[Dataset, Objective]":
    """The data set and the objective of a configuration, checked; nothing is loaded."""
    from kanzoo.data.corruption import check_corruptions
    from kanzoo.data.training_set import TrainingSet

    wanted, trainer = settings.training_set, settings.trainer
    dataset: Dataset = registry.instantiate(settings.data)
    dataset.training_set = TrainingSet(
        wanted.fraction, wanted.label_noise, wanted.phases, trainer.max_epochs // wanted.phases
    )
    dataset.draw_by(settings.seed)
    dataset.resident = trainer.resident_data
    objective: Objective = registry.instantiate(settings.task)
    dataset.use_task(objective.task)
    objective.use_data(dataset)
    devices = trainer.num_devices
    dataset.check(world_size=devices * trainer.num_nodes if devices else 1)
    if dataset.spec.task != objective.task:
        raise ValueError(
            f"data {settings.choices['data']!r} are for the task {dataset.spec.task!r}, not "
            f"{objective.task!r}; leave out task=..., it follows from the data"
        )
    corruptions = settings.evaluation.corruptions
    if dataset.spec.kind == "tokens" and any(corruptions.values()):
        raise ValueError("evaluation can corrupt real inputs only, not tokens")
    check_corruptions(corruptions, dataset.spec.in_shape)
    return dataset, objective


def check_machine(trainer: TrainerConfig) -> None:
    """Raise `ValueError` for a trainer that needs devices which this machine does not have."""
    import torch

    if trainer.cuda_graph and not torch.cuda.is_available():
        raise ValueError("trainer.cuda_graph=true needs an NVIDIA GPU, and PyTorch finds none here")
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    available = torch.accelerator.device_count() if accelerator else 0
    devices = trainer.devices
    if trainer.accelerator == "gpu" or isinstance(devices, list):
        if not available:
            raise ValueError("PyTorch finds no GPU on this machine; use trainer=cpu")
        last = max(devices) + 1 if isinstance(devices, list) else devices
        if isinstance(last, int) and last > available:
            raise ValueError(f"trainer.devices={devices}, but this machine has {available}")
