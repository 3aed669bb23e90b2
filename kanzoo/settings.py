"""The configuration of a run as typed sections, each built once from plain values.

The files of `conf/` hold the defaults; here stands what is allowed. The sections of the groups that
choose a class (`model`, `data` and so on) stay plain: their options are those of the class.
"""

from dataclasses import dataclass, field, fields
from typing import Annotated, Literal

from kanzoo import registry
from kanzoo.checks import (
    MAX_FUNCTIONS,
    Bounds,
    Count,
    Index,
    NotNegative,
    Positive,
    PositiveShare,
    Seed,
    Share,
)
from kanzoo.rundir import Config
from kanzoo.trainer_settings import TrainerConfig

RUN_GROUPS = ("task", "data", "model", "layers", "basis", "sched", "optim")  # that choose a class


@dataclass(frozen=True)
class TrainingSetConfig:
    """What becomes of the training split; see `kanzoo.data.training_set`."""

    fraction: PositiveShare
    label_noise: Share
    phases: Count


@dataclass(frozen=True)
class EvaluationConfig:
    """What the best weights are measured on: `test`, and severities of corruption of its inputs."""

    test: bool
    noise: list[float]
    contrast: list[float]
    blur: list[float]
    occlusion: list[float]

    @property
    def corruptions(self) -> dict[str, list[float]]:
        """Severities by the kind of corruption."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "test"}


@dataclass(frozen=True)
class GridConfig:
    """When grids move and are refined; see `kanzoo.training.grid.GridSchedule`."""

    update_every: Index = 0
    update_until: Index = 0
    refine: list[tuple[Index, Annotated[int, Bounds(1, MAX_FUNCTIONS)]]] = field(
        default_factory=list  # [epoch, grid size]
    )
    optimizer_state: Literal["reset", "remap"] = "reset"
    stop_at_interpolation: bool = False
    uniform_share: PositiveShare = 0.1


@dataclass(frozen=True)
class PicturesConfig:
    """Edge functions during training; `every` 0 draws none."""

    every: Index = 0
    edges: Count = 12
    wandb: bool = False


@dataclass(frozen=True)
class RegulariseConfig:
    """Weights of the penalties on edges of KAN layers; see `kanzoo.training.regularise`."""

    lamb: NotNegative = 0.0
    lamb_l1: NotNegative = 1.0
    lamb_entropy: NotNegative = 2.0


@dataclass(frozen=True)
class CallbacksConfig:
    """What happens during training beside training."""

    progress: bool
    patience: Count | None
    grid: GridConfig | None
    checkpoint_minutes: Positive | None = None
    pictures: PicturesConfig = PicturesConfig()
    regularise: RegulariseConfig = RegulariseConfig()
    starts: Count = 1  # see `kanzoo.run.starts`
    start_epochs: Count = 10


@dataclass(frozen=True)
class WandbConfig:
    """Where Weights & Biases keeps a run."""

    mode: Literal["offline", "online", "disabled"]
    project: str
    entity: str | None
    group: str | None
    tags: list[str]


@dataclass(frozen=True)
class LoggerConfig:
    """Loggers beside `metrics.csv`."""

    wandb: WandbConfig | None
    tensorboard: bool = False
    mlflow: bool = False


@dataclass(frozen=True)
class RunConfig:
    """The configuration of `conf/train.yaml`; `choices` are the names chosen in the groups."""

    name: str
    runs: str
    seed: Seed
    match: Literal["params", "flops", "width", "none"]
    match_scope: Literal["roles", "network"]
    match_by: Literal["size", "grid"]
    budget: Count | None
    overwrite: bool
    training_set: TrainingSetConfig
    evaluation: EvaluationConfig
    trainer: TrainerConfig
    callbacks: CallbacksConfig
    logger: LoggerConfig
    task: Config
    data: Config
    model: Config
    layers: Config
    basis: Config
    sched: Config
    optim: Config
    choices: dict[str, str]

    def __post_init__(self) -> None:
        registry.check_targets(vars(self), RUN_GROUPS)
        pictures, phases = self.callbacks.pictures, self.training_set.phases
        if pictures.every and self.trainer.strategy == "fsdp":
            raise ValueError("callbacks.pictures needs whole weights: not trainer.strategy=fsdp")
        if pictures.every and pictures.wandb and self.logger.wandb is None:
            raise ValueError("callbacks.pictures.wandb=true needs logger=wandb")
        if self.trainer.max_epochs % phases:
            raise ValueError(
                f"trainer.max_epochs={self.trainer.max_epochs} must be a multiple of "
                f"training_set.phases={phases}"
            )
        several = {"training_set.phases": phases, "callbacks.starts": self.callbacks.starts}
        for name, count in several.items():
            if count > 1 and not self.trainer.is_one_process:
                raise ValueError(f"{name} needs one process: trainer.devices=1")
        if phases > 1 and self.callbacks.starts > 1:
            raise ValueError("callbacks.starts must be 1 where training_set.phases is above 1")
        if self.trainer.cuda_graph and self.callbacks.grid is not None:
            raise ValueError("trainer.cuda_graph=true cannot be had with callbacks.grid")
        if self.trainer.compile and self.callbacks.regularise.lamb:
            raise ValueError("trainer.compile=true cannot be had with callbacks.regularise")
        if phases > 1 and self.callbacks.patience is not None:
            raise ValueError("callbacks.patience must be null where training_set.phases is above 1")
        if not self.evaluation.test:
            chosen = [f"evaluation.{k}" for k, v in self.evaluation.corruptions.items() if v]
            chosen += ["training_set.phases"] if phases > 1 else []
            if chosen:
                raise ValueError(f"{chosen[0]} needs the test set: evaluation.test=true")


@dataclass(frozen=True)
class TuneConfig:
    """How the arms of a study are tuned; `trials` 0 trains with the recipe as it is."""

    trials: Annotated[int, Bounds(0, 10_000)]
    seeds: Annotated[int, Bounds(1, 1000)]
    epochs: PositiveShare
    finalists: Index
    finalist_seeds: Annotated[int, Bounds(1, 1000)]
    seed: Seed
    space: dict[str, Config]
    extra: dict[str, dict[str, Config]]
    allow_extra: bool


@dataclass(frozen=True)
class AxisConfig:
    """A further axis of a study: the overrides of each value, and the arms that it concerns."""

    values: dict[str, list[str]]
    arms: list[str] | None = None


@dataclass(frozen=True)
class MetricConfig:
    """A further test metric that a study judges."""

    mode: Literal["min", "max"]
    margin: Positive


@dataclass(frozen=True)
class SelectConfig:
    """What of a study is run, by name; an empty list stands for all."""

    data: list[str] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    arms: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class StudyConfig:
    """A file of `conf/study`, with what `conf/compare.yaml` has for all of them."""

    name: str
    title: str
    question: str
    data: list[str]
    models: dict[str, list[str]]
    arms: dict[str, list[str]]
    baseline: str
    match: list[str]
    first_seed: Seed
    seeds: Count
    margin: Positive | dict[str, Positive]
    alpha: Annotated[float, Bounds(0, 1)]
    overrides: list[str]
    further: list[str]
    controls: bool | list[str]
    controls_of: str | None
    train_fraction: list[float]
    label_noise: list[float]
    axes: dict[str, AxisConfig]
    metrics: dict[str, MetricConfig]
    split: Literal["seeds", "fixed"]
    looks: list[int]
    ratio_margin: Positive
    contrasts: list[list[str]]
    interactions: dict[str, float | str]
    slope: str | None
    tune: TuneConfig
    differences: dict[str, list[str]] = field(default_factory=dict)
    select: SelectConfig = field(default_factory=SelectConfig)


@dataclass(frozen=True)
class CompareConfig:
    """The configuration of `conf/compare.yaml`."""

    runs: str
    overwrite: bool
    dry_run: bool
    ledger: str | None
    against: str | None
    study: StudyConfig
    engine: Config
    choices: dict[str, str]

    def __post_init__(self) -> None:
        registry.check_targets(vars(self), ("engine",))


@dataclass(frozen=True)
class EvaluateConfig:
    """The configuration of `conf/evaluate.yaml`."""

    run: str
    checkpoint: str
    split: Literal["val", "test"]
    root: str | None


@dataclass(frozen=True)
class ExplainConfig:
    """The configuration of `conf/explain.yaml`."""

    run: str
    checkpoint: str
    edges: Count
    fits: Index
    twin: str | None
    symbolic: bool
    tolerance: NotNegative
    max_error: Positive | None
    time_limit: Positive | None
    root: str | None
