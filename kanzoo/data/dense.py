"""Noisy images with a target at every pixel: the clean image, or a class.

Axes: N or B samples, C channels, H height, W width.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kanzoo.checks import Positive, check_value
from kanzoo.data.base import DataSpec, Split
from kanzoo.data.loader import Batch, Identity, Transform
from kanzoo.data.seeding import keyed_generator
from kanzoo.data.transform import crop_and_flip
from kanzoo.data.vision import CIFAR10, MNIST, Digits, Images

NOISE_VALUES = 2**22
BRIGHT = 0.5  # a pixel at least so bright belongs to the digit
Target = Callable[[Tensor, Tensor], Tensor]


class Noise:
    """White Gaussian noise: every image gets a stretch of one long draw that `key` decides.

    Where the stretch begins is drawn for every image and epoch, so that an epoch needs one random
    number an image, instead of one a pixel.
    """

    def __init__(self, std: float, key: str, device: torch.device) -> None:
        values = torch.randn(NOISE_VALUES, generator=keyed_generator("pixel noise", key))
        self.values = (std * values).to(device)

    def __call__(self, clean: Tensor, start: Tensor) -> Tensor:
        """Return noisy images; `start` `(B,)` is uniform in [0, 1)."""
        first = (start * NOISE_VALUES).long()[:, None]
        pixels = torch.arange(clean[0].numel(), device=clean.device)
        return clean + self.values[(first + pixels) % NOISE_VALUES].view_as(clean)


class Corrupt:
    """From uint8 images and labels to noisy images, in [0, 1] but for the noise, and targets."""

    def __init__(
        self, noise: Noise, target: Target, *, augment: bool, padding: int, flip: bool
    ) -> None:
        self.noise = 4 if augment else 1
        self.corrupt = noise
        self.target = target
        self.augment = augment
        self.padding = padding
        self.flip = flip

    def __call__(self, x: Tensor, y: Tensor, noise: Tensor | None) -> Batch:
        """Return float32 `(B, C, H, W)` and what `target` makes of the clean image."""
        assert noise is not None
        if self.augment:
            x = crop_and_flip(x, noise[:, 1:], padding=self.padding, flip=self.flip)
        clean = x.float() / 255
        return self.corrupt(clean, noise[:, 0]), self.target(clean, y)


class NoisyImages(Images):
    """Images in [0, 1] with white Gaussian noise of deviation `noise_std`, not clipped.

    Training images get other noise in every epoch, validation and test images always the same.
    Pixels are not normalised: a network that returns its input reaches the reference of denoising.
    """

    def __init__(self, *, noise_std: float = 0.5, **options: Any) -> None:
        super().__init__(**options)
        self.noise_std = noise_std

    @abstractmethod
    def target(self, clean: Tensor, labels: Tensor) -> Tensor:
        """Return the targets of clean images `(B, C, H, W)` with class labels `(B,)`."""

    def check(self, *, world_size: int = 1) -> None:
        """Check the options."""
        super().check(world_size=world_size)
        check_value("noise_std", self.noise_std, Positive)

    def cut(self) -> dict[str, Split]:
        """Read and split the images, and spoil those of validation and test once for all."""
        splits = super().cut()
        for part in ("val", "test"):
            x, y = splits[part]
            spoil = self.make_corruption(part, torch.device("cpu"))
            start = torch.rand(len(x), 1, generator=keyed_generator("noise of", part))
            splits[part] = Split(*spoil(x, y, start))
        return splits

    def make_corruption(self, part: str, device: torch.device) -> Corrupt:
        """Return what spoils the images of a split; no split shares its noise with another."""
        return Corrupt(
            Noise(self.noise_std, part, device),
            self.target,
            augment=self.augment and part == "train",
            padding=self.padding,
            flip=self.flip,
        )

    def make_transform(self, part: str, device: torch.device) -> Transform:
        """Return the corruption for training; the other splits are spoilt already."""
        return self.make_corruption(part, device) if part == "train" else Identity()


class Denoise(NoisyImages):
    """The target is the clean image `(C, H, W)` in [0, 1]."""

    reference_name = "noisy input"

    @property
    def spec(self) -> DataSpec:
        """As many outputs a pixel as channels."""
        return DataSpec(self.in_shape, self.in_shape[0], "denoise", kind="dense")

    def target(self, clean: Tensor, labels: Tensor) -> Tensor:
        """Return the clean images."""
        return clean

    def reference_scores(self, part: str) -> dict[str, float]:
        """Return the mean over images of the noisy input's peak signal-to-noise ratio in dB."""
        noisy, clean = self.loaded[part]
        mse = (noisy - clean).double().square().flatten(1).mean(1)
        return {"psnr": float((-10 * mse.log10()).mean())}


class Segment(NoisyImages):
    """The target is a class at every pixel `(H, W)`: 0 background, 1 + the digit where ink is."""

    reference_name = "all background"

    @property
    def spec(self) -> DataSpec:
        """Background and every digit."""
        names = ("background", *self.class_names)
        return DataSpec(self.in_shape, 1 + self.num_classes, "segmentation", names, "dense")

    def target(self, clean: Tensor, labels: Tensor) -> Tensor:
        """Return the class of every pixel."""
        bright = clean[:, 0] >= BRIGHT
        return torch.where(bright, 1 + labels[:, None, None], 0)

    def reference_scores(self, part: str) -> dict[str, float]:
        """Return the scores of background everywhere, the mean over the classes that occur."""
        target = self.loaded[part].y
        share = float((target == 0).double().mean())
        return {"mean_iou": share / len(target.unique()), "accuracy": share}


class DigitsDenoise(Denoise, Digits):
    """Scikit-learn's digits, to be denoised."""


class MNISTDenoise(Denoise, MNIST):
    """MNIST, to be denoised."""


class CIFAR10Denoise(Denoise, CIFAR10):
    """CIFAR-10, to be denoised."""


class DigitsSegment(Segment, Digits):
    """Scikit-learn's digits, to be segmented."""


class MNISTSegment(Segment, MNIST):
    """MNIST, to be segmented."""
