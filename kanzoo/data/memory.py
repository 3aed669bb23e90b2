"""Data sets small enough to be held in memory: read once, split once, moved to the device once."""

from abc import abstractmethod
from typing import ClassVar

import torch

from kanzoo.data.base import Counts, Dataset, Split
from kanzoo.data.loader import EpochSampler, Identity, Loader, MemoryLoader, Transform
from kanzoo.data.options import part_size
from kanzoo.data.seeding import split_order


class MemoryDataset(Dataset):
    """A data set held in memory; a subclass says how large it is and how to read it."""

    num_train: ClassVar[int]
    """Samples in the official training part."""
    num_test: ClassVar[int]
    """Samples in the official test part."""

    splits: dict[str, Split] | None = None

    @abstractmethod
    def read(self) -> tuple[Split, Split]:
        """Return the official training and test parts; raise `ValueError` on a corrupt file."""

    def make_transform(self, device: torch.device) -> Transform:
        """Return what is done to a batch on `device`; called after loading."""
        return Identity()

    def counts(self) -> Counts:
        """Return the sizes of the splits, known without loading."""
        val = part_size("val_size", self.val_size, self.num_train)
        return self.limited_counts(self.num_train - val, val, self.num_test)

    def check(self, *, world_size: int = 1) -> None:
        """Check the options, the sizes too."""
        super().check(world_size=world_size)
        for part, size in self.counts()._asdict().items():
            if size < world_size:
                raise ValueError(
                    f"{part} has {size} samples for {world_size} processes; use at most {size}"
                )

    def load(self) -> None:
        """Read both official parts and cut the fixed splits out of them."""
        if self.splits is not None:
            return
        self.check()
        train, test = self.read()
        if (len(train.y), len(test.y)) != (self.num_train, self.num_test):
            raise ValueError(
                f"{self.name} is corrupt: {len(train.y)} training and {len(test.y)} test samples "
                f"instead of {self.num_train} and {self.num_test}; delete it and fetch it again"
            )
        counts = self.counts()
        order = split_order(train.y, "split", self.split_seed)
        val_full = part_size("val_size", self.val_size, self.num_train)
        chosen = {
            "train": (train, order[val_full : val_full + counts.train]),
            "val": (train, order[: counts.val]),
            "test": (test, split_order(test.y, "test", self.split_seed)[: counts.test]),
        }
        self.splits = {}
        for part, (source, index) in chosen.items():
            kept = (
                index.sort().values
            )  # the order of the files, so that the whole test set equals the official one
            self.splits[part] = Split(source.x[kept], source.y[kept])

    def make_loader(
        self, part: str, sampler: EpochSampler, *, device: torch.device, rank: int, world_size: int
    ) -> Loader:
        """Return a loader over this split's tensors on `device`."""
        assert self.splits is not None
        x, y = self.splits[part]
        return MemoryLoader(
            x.to(device),
            y.to(device),
            self.make_transform(device),
            sampler,
            batch_size=self.batch_size,
            training=part == "train",
            rank=rank,
            world_size=world_size,
        )
