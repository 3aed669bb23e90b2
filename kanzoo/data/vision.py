"""Images held in memory as uint8: digits, MNIST, Fashion-MNIST, CIFAR-10, CIFAR-100."""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from kanzoo.checks import check_value
from kanzoo.data.base import DataSpec, Split
from kanzoo.data.files import File, read_cifar, read_idx
from kanzoo.data.loader import Transform
from kanzoo.data.memory import MemoryDataset
from kanzoo.data.remote import Downloaded
from kanzoo.data.transform import ImageTransform, channel_statistics


class Images(MemoryDataset):
    """Images `(C, H, W)` with class labels; a subclass sets the constants and `read`.

    Pixels are normalised per channel with the statistics of the training split. `augment` shifts
    every training image by up to `padding` pixels and mirrors half of them where `flip` is set.
    """

    in_shape: ClassVar[tuple[int, int, int]]
    num_classes: ClassVar[int] = 10
    class_names: ClassVar[tuple[str, ...]] = ()
    padding: ClassVar[int]
    flip: ClassVar[bool] = False
    domain = "vision"

    def __init__(self, *, augment: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.augment = augment
        self.statistics: tuple[Tensor, Tensor] | None = None

    @property
    def spec(self) -> DataSpec:
        """Shape of an image, number and names of the classes."""
        return DataSpec(self.in_shape, self.num_classes, "classification", self.class_names)

    def check(self, *, world_size: int = 1) -> None:
        """Check the options."""
        super().check(world_size=world_size)
        check_value("augment", self.augment, bool)

    def load(self) -> None:
        """Read and split the images, and compute the statistics of the training split."""
        super().load()
        if self.statistics is None:
            self.statistics = channel_statistics(self.loaded["train"].x)

    def make_transform(self, part: str, device: torch.device) -> Transform:
        """Return normalisation and, in training where asked for, augmentation."""
        assert self.statistics is not None
        return ImageTransform(
            *self.statistics,
            augment=self.augment and part == "train",
            padding=self.padding,
            flip=self.flip,
            device=device,
        )


class Digits(Images):
    """1,797 handwritten digits of 8 x 8 pixels that come with scikit-learn.

    There is no official test set: 360 stratified samples that `split_seed` draws serve as one, so
    that with the default `val_size` of 360 the splits hold 1,077, 360 and 360 samples.
    """

    test_set = "resampled"

    in_shape = (1, 8, 8)
    num_train, num_test = 1437, 360
    class_names = tuple("0123456789")
    padding = 1

    def __init__(self, *, val_size: float = 360, **options: Any) -> None:
        super().__init__(val_size=val_size, **options)

    def read(self) -> tuple[Split, Split]:
        """Return the scans, their 17 grey levels spread over 0 to 255."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        x = torch.from_numpy(digits.images).mul(255 / 16).round().to(torch.uint8)[:, None]
        y = torch.from_numpy(digits.target).long()
        return self.divide(x, y, "digits")


class DownloadedImages(Downloaded, Images):
    """Images in torchvision's layout under `root`, fetched through it where they are missing."""

    source: ClassVar[str]
    """The class of `torchvision.datasets` that downloads this data set."""

    def read(self) -> tuple[Split, Split]:
        """Fetch what is missing, verify the checksums and read both official parts."""
        self.provide()
        return self.read_files()

    def fetch(self, root: Path) -> None:
        """Download into `root` through torchvision."""
        from torchvision import datasets

        getattr(datasets, self.source)(root, download=True)

    @abstractmethod
    def read_files(self) -> tuple[Split, Split]:
        """Read the verified files."""


class MNIST(DownloadedImages):
    """70,000 handwritten digits (LeCun et al., 1998)."""

    in_shape = (1, 28, 28)
    num_train, num_test = 60_000, 10_000
    class_names = tuple("0123456789")
    padding = 2
    source = "MNIST"
    folder = "MNIST/raw"
    files: ClassVar[Mapping[str, File]] = {
        "train-images-idx3-ubyte": File(47_040_016, "6bbc9ace898e44ae57da46a324031adb"),
        "train-labels-idx1-ubyte": File(60_008, "a25bea736e30d166cdddb491f175f624"),
        "t10k-images-idx3-ubyte": File(7_840_016, "2646ac647ad5339dbf082846283269ea"),
        "t10k-labels-idx1-ubyte": File(10_008, "27ae3e4e09519cfbb04c329615203637"),
    }

    def read_files(self) -> tuple[Split, Split]:
        """Read images `(N, 1, 28, 28)` and labels of both parts."""
        x_train, y_train, x_test, y_test = (read_idx(self.path / name) for name in self.files)
        return (
            Split(x_train.reshape(-1, *self.in_shape), y_train.long()),
            Split(x_test.reshape(-1, *self.in_shape), y_test.long()),
        )


class FashionMNIST(MNIST):
    """70,000 pictures of clothes in the format of MNIST (Xiao et al., 2017)."""

    class_names = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    flip = True
    source = "FashionMNIST"
    folder = "FashionMNIST/raw"
    files: ClassVar[Mapping[str, File]] = {
        name: File(known.size) for name, known in MNIST.files.items()
    }


class CIFAR10(DownloadedImages):
    """60,000 colour photographs of 32 x 32 pixels in 10 classes (Krizhevsky, 2009)."""

    in_shape = (3, 32, 32)
    num_train, num_test = 50_000, 10_000
    class_names: ClassVar[tuple[str, ...]] = (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )
    padding = 4
    flip = True
    source = "CIFAR10"
    folder = "cifar-10-batches-py"
    files: ClassVar[Mapping[str, File]] = {
        "data_batch_1": File(31_035_704, "c99cafc152244af753f735de768cd75f"),
        "data_batch_2": File(31_035_320, "d4bba439e000b95fd0a9bffe97cbabec"),
        "data_batch_3": File(31_035_999, "54ebc095f3ab1f0389bbae665268c751"),
        "data_batch_4": File(31_035_696, "634d18415352ddfa80567beed471001a"),
        "data_batch_5": File(31_035_623, "482c414d41f54cd18b22e5b47cb7c3cb"),
        "test_batch": File(31_035_526, "40351d587109b95175f43aff81a1287e"),
    }
    label_key: ClassVar[str] = "labels"

    def read_files(self) -> tuple[Split, Split]:
        """Read images `(N, 3, 32, 32)` and labels; the last file is the test part."""
        batches = [read_cifar(self.path / name, self.label_key) for name in self.files]
        x, y = (torch.cat(tensors) for tensors in zip(*batches[:-1], strict=True))
        return Split(x, y), Split(*batches[-1])


class CIFAR100(CIFAR10):
    """60,000 colour photographs of 32 x 32 pixels in 100 classes (Krizhevsky, 2009)."""

    num_classes = 100
    class_names: ClassVar[tuple[str, ...]] = ()
    source = "CIFAR100"
    folder = "cifar-100-python"
    files: ClassVar[Mapping[str, File]] = {
        "train": File(155_249_918, "16019d7e3df5f24257cddd939b257f8d"),
        "test": File(None, "f0ef6b0ae62326f3e7ffdfab6717acfc"),
    }
    label_key = "fine_labels"
