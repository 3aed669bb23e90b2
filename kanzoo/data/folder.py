"""Images in one folder per class, too many to be held in memory."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kanzoo.checks import check_value, check_whole
from kanzoo.data.base import Counts, DataSpec, DrawnDataset
from kanzoo.data.loader import EpochSampler, Loader
from kanzoo.data.options import check_part, part_size
from kanzoo.data.seeding import split_order
from kanzoo.data.transform import ImageTransform
from kanzoo.data.workers import Sample, WorkerLoader

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
# Mean and deviation of the pixels of ImageNet's training images, red, green, blue.
MEAN = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64) * 255
DEVIATION = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64) * 255


def class_folders(folder: Path) -> list[str]:
    """Return the names of the subfolders, sorted; their positions are the classes."""
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def image_paths(folder: Path) -> Iterator[str]:
    """Yield the images anywhere under `folder`, in the order of the file system."""
    for parent, _, names in os.walk(folder, followlinks=True):
        yield from (os.path.join(parent, n) for n in names if n.lower().endswith(IMAGE_SUFFIXES))


class ImageFolder(DrawnDataset):
    """Images in `root/train/CLASS/`, likewise in `root/val` and `root/test` where these exist.

    Without a `val` (or `test`) folder, `val_size` (`test_size`) of the training images take its
    place. Images become RGB, `image_size` x `image_size`: a random resized crop and flip with
    `augment` in training, else resized and cut from the centre. `num_workers` processes decode for
    each split.
    """

    domain = "vision"

    def __init__(
        self,
        *,
        root: str | Path,
        image_size: int = 224,
        augment: bool = True,
        test_size: float = 0.1,
        num_workers: int = 2,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.root = root
        self.image_size = image_size
        self.augment = augment
        self.test_size = test_size
        self.num_workers = num_workers
        self.samples: dict[str, list[Sample]] | None = None

    @property
    def spec(self) -> DataSpec:
        """The size asked for, and the classes that `root/train` lists."""
        classes = self.classes()
        shape = (3, self.image_size, self.image_size)
        return DataSpec(shape, len(classes), "classification", tuple(classes))

    def part_folder(self, part: str) -> Path:
        """Return the absolute folder of a split."""
        return Path(self.root).absolute() / part

    def classes(self) -> list[str]:
        """Return the class names; raise `ValueError` where `root/train` holds fewer than two."""
        folder = self.part_folder("train")
        classes = class_folders(folder) if folder.is_dir() else []
        if len(classes) < 2:
            reason = f"it holds {len(classes)}" if folder.is_dir() else "it does not exist"
            raise ValueError(
                f"{self.name}: {folder} must hold a folder of images for each of at least two "
                f"classes, but {reason}; let root name the folder above it"
            )
        return classes

    def check(self, *, world_size: int = 1) -> None:
        """Check the options, and that every class has an image to train on."""
        super().check(world_size=world_size)
        check_whole("image_size", self.image_size, 1)
        check_whole("num_workers", self.num_workers, 0)
        check_value("augment", self.augment, bool)
        check_part("test_size", self.test_size)
        if not isinstance(self.root, str | Path) or not str(self.root):
            raise ValueError(f"root must name a folder, not {self.root!r}")
        classes = self.classes()
        for name in classes:
            if next(image_paths(self.part_folder("train") / name), None) is None:
                raise ValueError(
                    f"{self.name}: {self.part_folder('train') / name} holds no image; "
                    f"known file types are {', '.join(IMAGE_SUFFIXES)}"
                )
        for part in ("val", "test"):
            folder = self.part_folder(part)
            unknown = set(class_folders(folder)) - set(classes) if folder.is_dir() else set()
            if unknown:
                raise ValueError(
                    f"{self.name}: {folder / min(unknown)} is no class of training; "
                    f"allowed are {', '.join(classes)}"
                )

    def draw_by(self, seed: int) -> None:
        """Draw a test set too where there is no folder of one."""
        self.test_set = "official" if self.part_folder("test").is_dir() else "resampled"
        super().draw_by(seed)

    def load(self) -> None:
        """List the images and cut the splits; pixels are read by the loaders."""
        if self.samples is not None:
            return
        self.check()
        images = {part: self.list_images(part) for part in ("train", "val", "test")}
        for part, size in (("test", self.test_size), ("val", self.val_size)):
            if not self.part_folder(part).is_dir():
                images["train"], images[part] = self.carve(images["train"], part, size)
            elif not images[part]:
                raise ValueError(f"{self.name}: {self.part_folder(part)} holds no image")
        counts = self.limited_counts(*(len(images[part]) for part in ("train", "val", "test")))
        self.samples = {
            part: self.subset(images[part], part, keep)
            if len(images[part]) > keep
            else images[part]
            for part, keep in counts._asdict().items()
        }

    def list_images(self, part: str) -> list[Sample]:
        """Return the images of a split, sorted by class and path."""
        folder = self.part_folder(part)
        return [
            (path, label)
            for label, name in enumerate(self.classes())
            for path in sorted(image_paths(folder / name))
        ]

    def carve(
        self, samples: list[Sample], part: str, size: float
    ) -> tuple[list[Sample], list[Sample]]:
        """Return what stays in training and what becomes `part`."""
        number = part_size(f"{part}_size", size, len(samples))
        taken = self.subset(samples, f"carve {part}", number)
        chosen = set(taken)
        return [sample for sample in samples if sample not in chosen], taken

    def subset(self, samples: list[Sample], purpose: str, number: int) -> list[Sample]:
        """Return a stratified part of the samples that `split_seed` decides, in their order."""
        labels = torch.tensor([label for _, label in samples])
        seed = 0 if purpose == "test" else self.split_seed or 0  # one test set for all seeds
        order = split_order(labels, purpose, seed)[:number]
        return [samples[index] for index in order.sort().values.tolist()]

    def counts(self) -> Counts:
        """Return the sizes of the splits, which are known after loading."""
        self.load()
        assert self.samples is not None
        return Counts(**{part: len(samples) for part, samples in self.samples.items()})

    def targets(self, part: str) -> Tensor:
        """Return the classes of a loaded split."""
        assert self.samples is not None
        return torch.tensor([label for _, label in self.samples[part]])

    def make_loader(
        self, part: str, sampler: EpochSampler, device: torch.device, **options: Any
    ) -> Loader:
        """Return a loader with workers of its own, which start with the first batch."""
        assert self.samples is not None
        return WorkerLoader(
            self.samples[part],
            ImageTransform(MEAN, DEVIATION, device=device),
            sampler,
            size=self.image_size,
            augment=self.augment and part == "train",
            num_workers=self.num_workers,
            device=device,
            **options,
        )
