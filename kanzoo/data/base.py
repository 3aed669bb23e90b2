"""What every data set offers: a description, a quick check, loading, and seeded loaders."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from kanzoo.checks import check_init, check_whole
from kanzoo.data.loader import EpochSampler, Loader
from kanzoo.data.options import check_part
from kanzoo.data.seeding import split_order
from kanzoo.data.training_set import PartSampler, TrainingSet, phase_classes

PARTS = ("train", "val", "test")
IGNORE = -100  # the target where nothing is asked; PyTorch's cross-entropy leaves it out
KINDS = ("image", "sequence", "table", "tokens", "dense", "graph")
# A test set is the same for all seeds ("official", or "fixed" by a split seed), a part of the one
# sample that every seed draws anew ("resampled"), or new data with every seed ("independent").
TEST_SETS = ("official", "fixed", "resampled", "independent")


@dataclass(frozen=True)
class DataSpec:
    """What a model has to know of a data set; `in_shape` is that of one sample, without a batch.

    `kind` says what a sample is and what is asked of it:

    - `image` `(C, H, W)`, `sequence` `(T, F)`, `table` `(F,)`: real numbers, one vector of
      `num_outputs` a sample;
    - `tokens` `(T,)`: whole numbers in [0, num_outputs), a vector at every position, which must not
      depend on later ones;
    - `dense` `(C, H, W)`: a vector at every pixel, `(num_outputs, H, W)`;
    - `graph` `(N, F + N)`: features of nodes, then the adjacency matrix; a vector a graph.

    `version` identifies the content where it is not the same everywhere.
    """

    in_shape: tuple[int, ...]
    num_outputs: int
    task: str
    class_names: tuple[str, ...] = ()
    kind: str = "image"
    version: str = ""


class Split(NamedTuple):
    """Samples `x` `(N, ...)` and their targets `y` `(N, ...)`."""

    x: Tensor
    y: Tensor


class Counts(NamedTuple):
    """Samples in each split."""

    train: int
    val: int
    test: int


class Loaders(NamedTuple):
    """One loader a split."""

    train: Loader
    val: Loader
    test: Loader


@check_init
class Dataset(ABC):
    """A data set with a train, a validation and a test split.

    Where a split is drawn, `split_seed` decides it; None leaves that to the seed of the run, see
    `draw_by`. The keyword options are the keys of its YAML file. `batch_size` counts samples over
    all processes; `limit_train`, `limit_val` and `limit_test` keep only so many samples.
    """

    reference_name: ClassVar[str] = ""
    """What `reference` predicts, in a few words."""

    training_set = TrainingSet()
    """What becomes of the training split; set before loading."""

    resident: bool | str = "auto"
    """Whether samples lie on the trainer's device; "auto": where they fit."""

    split_seed: int | None = 0
    """Decides what is drawn of the splits."""

    test_set: str = "official"
    """Where the test set comes from, one of `TEST_SETS`, if the seed of the run draws the split."""

    domain: ClassVar[str] = "other"
    """The family of tasks that it belongs to, over which studies are aggregated separately."""

    is_ordered: ClassVar[bool] = False
    """Whether neighbours in a split depend on each other, as in a series or a text."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        check_init(cls)

    def __init__(
        self,
        *,
        batch_size: int = 128,
        limit_train: int | None = None,
        limit_val: int | None = None,
        limit_test: int | None = None,
    ) -> None:
        self.batch_size = batch_size
        self.limit_train = limit_train
        self.limit_val = limit_val
        self.limit_test = limit_test

    @property
    def name(self) -> str:
        """The name for messages."""
        return type(self).__name__

    @property
    @abstractmethod
    def spec(self) -> DataSpec:
        """The shapes that a model must fit, known before anything is loaded."""

    def draw_by(self, seed: int) -> None:
        """Let the seed of a run draw the splits, unless `split_seed` is given; before loading."""
        if self.split_seed is None:
            self.split_seed = seed
        elif self.test_set != "official":
            self.test_set = "fixed"

    def use_task(self, task: str) -> None:  # noqa: B027
        """Learn which task was chosen, where the data allow several; before they are checked."""

    def split_facts(self) -> dict[str, Any]:
        """Return what statistics have to know of the loaded splits: their sizes and origin."""
        return {**self.counts()._asdict(), "test_set": self.test_set, "is_ordered": self.is_ordered}

    def check(self, *, world_size: int = 1) -> None:
        """Raise a `ValueError` of one line where an option or a file is wrong; read no data."""
        check_whole("batch_size", self.batch_size, 1)
        if self.split_seed is not None:
            check_whole("split_seed", self.split_seed, 0)
        for part in PARTS:
            limit = getattr(self, f"limit_{part}")
            if limit is not None:
                check_whole(f"limit_{part}", limit, 1)
        self._check_training_set()
        check_whole("world_size", world_size, 1)
        if self.batch_size % world_size:
            raise ValueError(
                f"batch_size={self.batch_size} cannot be shared equally by {world_size} processes; "
                f"use a multiple of {world_size}"
            )

    @abstractmethod
    def load(self) -> None:
        """Make the data ready for use, once; raise a `ValueError` on a missing or corrupt file."""

    @abstractmethod
    def make_loader(
        self, part: str, sampler: EpochSampler, device: torch.device, **options: Any
    ) -> Loader:
        """Return the loader of one split of the loaded data; `options` are those of `Loader`."""

    @abstractmethod
    def counts(self) -> Counts:
        """Return how many samples each split holds; raise `ValueError` where sizes do not fit."""

    def loaders(
        self, *, seed: int, device: torch.device, rank: int = 0, world_size: int = 1
    ) -> Loaders:
        """Return the loaders of one rank; `seed` decides order and augmentation in training."""
        self.check(world_size=world_size)
        check_whole("rank", rank, 0, world_size - 1)
        self.load()
        counts = self.counts()._asdict()
        samplers = {part: EpochSampler(counts[part], seed=seed, shuffle=False) for part in counts}
        samplers["train"] = self._train_sampler(counts["train"], seed)
        options = {"batch_size": self.batch_size, "rank": rank, "world_size": world_size}
        loaders = Loaders(
            **{
                part: self.make_loader(
                    part, sampler, torch.device(device), training=part == "train", **options
                )
                for part, sampler in samplers.items()
            }
        )
        if self.training_set.label_noise > 0:
            targets = self.targets("train")
            indices = self.training_set.indices(targets, self.split_seed or 0)
            loaders.train.relabel(
                self.training_set.labels(targets, indices, self.spec.num_outputs, seed)
            )
        return loaders

    def targets(self, part: str) -> Tensor:
        """Return the targets of a loaded split, `(N, ...)`, on the CPU."""
        raise ValueError(f"training_set cannot change {self.name}, whose targets are not known")

    def check_phases(self, phases: int) -> None:
        """Raise a `ValueError` where the data cannot be shown in so many phases."""
        if self.spec.task != "classification":
            raise ValueError(
                f"training_set.phases needs classes; the task of {self.name} is {self.spec.task}"
            )
        phase_classes(self.spec.num_outputs, phases)

    def groups(self, part: str, phases: int) -> list[Tensor]:
        """Return the indices of a split's samples that belong to each phase: by class, in order."""
        targets = self.targets(part)
        return [
            ((targets >= classes.start) & (targets < classes.stop)).nonzero()[:, 0]
            for classes in phase_classes(self.spec.num_outputs, phases)
        ]

    def _check_training_set(self) -> None:
        self.training_set.check()
        if self.training_set.label_noise > 0 and self.spec.task != "classification":
            raise ValueError(
                f"training_set.label_noise needs classes; the task of {self.name} is "
                f"{self.spec.task}"
            )
        if self.training_set.phases > 1:
            self.check_phases(self.training_set.phases)

    def _train_sampler(self, count: int, seed: int) -> EpochSampler:
        wanted = self.training_set
        if wanted.fraction == 1 and wanted.phases == 1:
            return EpochSampler(count, seed=seed, shuffle=True)
        indices = wanted.indices(self.targets("train"), self.split_seed or 0)
        groups, size = [indices], count
        if wanted.phases > 1:
            size = 0
            every = self.groups("train", wanted.phases)
            groups = [group[torch.isin(group, indices)] for group in every]
            if not all(map(len, groups)):
                raise ValueError(f"training_set.fraction={wanted.fraction} leaves a phase empty")
        return PartSampler(
            groups, seed=seed, size=size or None, epochs_per_phase=wanted.epochs_per_phase
        )

    def reference(self) -> dict[str, dict[str, float]]:
        """Return what a prediction that learns nothing reaches: metrics of "val" and of "test".

        Called after loading; empty where there is none.
        """
        return {}

    def limited_counts(self, train: int, val: int, test: int) -> Counts:
        """Apply the limits to the sizes of the splits; raise `ValueError` for a limit too large."""
        sizes = []
        for part, size in zip(PARTS, (train, val, test), strict=True):
            limit = getattr(self, f"limit_{part}")
            if limit is not None and limit > size:
                raise ValueError(
                    f"limit_{part} must be at most {size}, what {self.name} has there, not {limit}"
                )
            sizes.append(size if limit is None else limit)
        return Counts(*sizes)


class DrawnDataset(Dataset):
    """A data set whose validation part is drawn from the official training part.

    `val_size` is a fraction or a count; `split_seed` decides which samples are taken, which the
    limits keep, and which are the test set where there is no official one.
    """

    def __init__(
        self, *, val_size: float = 0.1, split_seed: int | None = 0, **options: Any
    ) -> None:
        super().__init__(**options)
        self.val_size = val_size
        self.split_seed = split_seed

    def check(self, *, world_size: int = 1) -> None:
        """Check the options."""
        check_part("val_size", self.val_size)
        super().check(world_size=world_size)

    def test_order(self, targets: Tensor, name: str) -> Tensor:
        """Return the order of all samples whose first become the test set, `(N,)`."""
        return split_order(targets, name, *([self.split_seed] if self.split_seed else []))
