"""Images as sequences, row by row or pixel by pixel.

Axes: B samples, C channels, H height, W width.
"""

from typing import Any

import torch
from torch import Tensor

from kanzoo.checks import check_name
from kanzoo.data.base import DataSpec
from kanzoo.data.loader import Batch, Transform
from kanzoo.data.vision import CIFAR10, MNIST, Digits, Images


class Steps:
    """What another transform returns, as rows `(B, H, C W)` or pixels `(B, H W, C)`."""

    def __init__(self, images: Transform, steps: str) -> None:
        self.images = images
        self.steps = steps
        self.noise = images.noise

    def __call__(self, x: Tensor, y: Tensor, noise: Tensor | None) -> Batch:
        """Return sequences and the targets unchanged."""
        x, y = self.images(x, y, noise)
        if self.steps == "rows":
            return x.transpose(1, 2).flatten(2), y  # (B, H, C W)
        return x.flatten(2).transpose(1, 2).contiguous(), y  # (B, H W, C)


class SequentialImages(Images):
    """Any images, read from top left to bottom right.

    `steps` is "rows", H steps of C W features, or "pixels", H W steps of C (Le et al., 2015,
    1504.00941). Splits, normalisation and augmentation are those of the images.
    """

    domain = "sequence and text"

    def __init__(self, *, steps: str = "rows", **options: Any) -> None:
        super().__init__(**options)
        self.steps = steps

    @property
    def spec(self) -> DataSpec:
        """Length of the sequence and features of a step."""
        channels, height, width = self.in_shape
        rows = self.steps == "rows"
        shape = (height, channels * width) if rows else (height * width, channels)
        return DataSpec(shape, self.num_classes, "classification", self.class_names, "sequence")

    def check(self, *, world_size: int = 1) -> None:
        """Check the options."""
        super().check(world_size=world_size)
        check_name("steps", self.steps, ("rows", "pixels"))

    def make_transform(self, part: str, device: torch.device) -> Transform:
        """Return the images' transform, then the cut into steps."""
        return Steps(super().make_transform(part, device), self.steps)


class SequentialDigits(SequentialImages, Digits):
    """Scikit-learn's digits as sequences: 8 rows of 8, or 64 pixels."""


class SequentialMNIST(SequentialImages, MNIST):
    """MNIST as sequences: 28 rows of 28, or 784 pixels."""


class SequentialCIFAR10(SequentialImages, CIFAR10):
    """CIFAR-10 as sequences: 32 rows of 96, or 1,024 pixels of 3 channels."""
