"""Data sets small enough to be held in memory: read once, split once, moved to the device once."""

from abc import abstractmethod
from math import sqrt
from typing import Any, ClassVar

import torch
from torch import Tensor

from kanzoo.data.base import PARTS, Counts, Dataset, DrawnDataset, Split
from kanzoo.data.loader import EpochSampler, Identity, Loader, MemoryLoader, Transform
from kanzoo.data.options import part_size
from kanzoo.data.seeding import split_order

RESIDENT_SHARE = 0.5  # of a device's free memory that samples may take


def free_memory(device: torch.device) -> float:
    """Bytes that are free on a device; more than there can be where it does not say."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else float("inf")


class InMemory(Dataset):
    """A data set held in memory; a subclass says how large its splits are and cuts them."""

    splits: dict[str, Split] | None = None

    @abstractmethod
    def cut(self) -> dict[str, Split]:
        """Read the data and return the splits; raise `ValueError` on a corrupt file."""

    def make_transform(self, part: str, device: torch.device) -> Transform:
        """Return what is done to a batch of a split on `device`; called after loading."""
        return Identity()

    def check(self, *, world_size: int = 1) -> None:
        """Check the options, the sizes too."""
        super().check(world_size=world_size)
        for part, size in self.counts()._asdict().items():
            if size < world_size:
                raise ValueError(
                    f"{part} has {size} samples for {world_size} processes; use at most {size}"
                )

    def load(self) -> None:
        """Read and cut the splits, once."""
        if self.splits is None:
            self.check()
            self.splits = self.cut()

    @property
    def loaded(self) -> dict[str, Split]:
        """The splits, known after loading."""
        assert self.splits is not None
        return self.splits

    def targets(self, part: str) -> Tensor:
        """Return the targets of a loaded split."""
        return self.loaded[part].y

    def make_loader(
        self, part: str, sampler: EpochSampler, device: torch.device, **options: Any
    ) -> Loader:
        """Return a loader of batches on `device`, where the split itself lies too if it fits."""
        x, y = self.loaded[part]
        if self._is_resident(device):
            x, y = x.to(device), y.to(device)
        return MemoryLoader(
            x, y, self.make_transform(part, device), sampler, device=device, **options
        )

    def _is_resident(self, device: torch.device) -> bool:
        if self.resident != "auto" or device.type == "cpu":
            return bool(self.resident)
        size = sum(tensor.nbytes for split in self.loaded.values() for tensor in split)
        return size <= RESIDENT_SHARE * free_memory(device)

    @property
    def reference_name(self) -> str:  # type: ignore[override]
        """What the reference predicts."""
        names = {
            "classification": "most frequent class",
            "regression": "training mean",
            "pde": "zero everywhere",
        }
        return names.get(self.spec.task, "")

    def reference(self) -> dict[str, dict[str, float]]:
        """Return what a prediction that learns nothing reaches on both splits."""
        parts = ("val", "test") if self.reference_name else ()
        return {part: self.reference_scores(part) for part in parts}

    def reference_scores(self, part: str) -> dict[str, float]:
        """Return the scores of the most frequent class, or of the mean, of the training split."""
        if self.spec.task == "pde":
            return {"l2": 1.0, "h1": 1.0}  # errors relative to the solution's own norm
        train, y = self.loaded["train"].y, self.loaded[part].y
        if self.spec.task == "classification":
            return {"accuracy": float((y == train.bincount().argmax()).double().mean())}
        errors = y.double() - train.double().mean(0)
        squares = errors.square().mean(0)
        r2 = float((1 - squares / y.double().var(0, correction=0)).mean())
        rmse = sqrt(float(squares.mean()))
        return {"rmse": rmse, "mae": float(errors.abs().mean()), "r2": r2}


class MemoryDataset(InMemory, DrawnDataset):
    """Samples in an official training and test part; a subclass says how many and reads them."""

    num_train: ClassVar[int]
    """Samples in the official training part."""
    num_test: ClassVar[int]
    """Samples in the official test part."""

    @abstractmethod
    def read(self) -> tuple[Split, Split]:
        """Return the official training and test parts; raise `ValueError` on a corrupt file."""

    def divide(self, x: Tensor, y: Tensor, name: str) -> tuple[Split, Split]:
        """Return training and test part of samples without an official one, drawn by a name."""
        order = self.test_order(y, name)
        test, train = order[: self.num_test].sort().values, order[self.num_test :].sort().values
        return Split(x[train], y[train]), Split(x[test], y[test])

    def counts(self) -> Counts:
        """Return the sizes of the splits, known without loading."""
        val = part_size("val_size", self.val_size, self.num_train)
        return self.limited_counts(self.num_train - val, val, self.num_test)

    def cut(self) -> dict[str, Split]:
        """Read both official parts and draw the validation data."""
        train, test = self.read()
        if (len(train.y), len(test.y)) != (self.num_train, self.num_test):
            raise ValueError(
                f"{self.name} is corrupt: {len(train.y)} training and {len(test.y)} test samples "
                f"instead of {self.num_train} and {self.num_test}; delete it and fetch it again"
            )
        counts = self.counts()
        order = split_order(train.y, "split", self.split_seed or 0)
        val_full = part_size("val_size", self.val_size, self.num_train)
        chosen = {
            "train": (train, order[val_full : val_full + counts.train]),
            "val": (train, order[: counts.val]),
            "test": (test, split_order(test.y, "test", 0)[: counts.test]),
        }
        splits = {}
        for part in PARTS:
            source, index = chosen[part]
            rows = index.sort().values  # in the order of the files, as an official test set is
            splits[part] = Split(source.x[rows], source.y[rows])
        return splits
