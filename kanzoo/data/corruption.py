"""Corruption of test inputs, of graded severity: what a network meets that it was not trained on.

Inputs are those that the network sees, normalised to about unit variance. What is drawn depends on
the batch's number only, so that all networks meet the same inputs.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from kanzoo.checks import Positive, PositiveShare, check_value
from kanzoo.data.seeding import keyed_generator


def noise(x: Tensor, severity: float, batch_index: int) -> Tensor:
    """Add Gaussian noise with a standard deviation of `severity`."""
    generator = keyed_generator("corruption", batch_index)
    return x + severity * torch.randn(x.shape, generator=generator).to(x)


def contrast(x: Tensor, severity: float, batch_index: int) -> Tensor:
    """Move every sample towards its own mean, by a share of `severity` in [0, 1]."""
    mean = x.flatten(1).mean(1).view(-1, *[1] * (x.ndim - 1))
    return x + severity * (mean - x)


def blur(x: Tensor, severity: float, batch_index: int) -> Tensor:
    """Convolve images `(B, C, H, W)` with a Gaussian of a deviation of `severity` pixels."""
    radius = max(1, round(3 * severity))
    distance = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    weights = (-0.5 * (distance / severity) ** 2).exp()
    weights = (weights / weights.sum()).expand(x.shape[1], 1, -1)  # (C, 1, 2 radius + 1)
    x = F.pad(x, (radius, radius, radius, radius), mode="replicate")
    x = F.conv2d(x, weights[..., None], groups=x.shape[1])
    return F.conv2d(x, weights[..., None, :], groups=x.shape[1])


def occlusion(x: Tensor, severity: float, batch_index: int) -> Tensor:
    """Set a square of images to zero, the mean; its side is `severity` in [0, 1] of the image's."""
    generator = keyed_generator("corruption", batch_index)
    height, width = x.shape[-2:]
    tall, wide = max(1, round(severity * height)), max(1, round(severity * width))
    draw = torch.rand(len(x), 2, generator=generator).to(x.device)
    top = (draw[:, 0] * (height - tall + 1)).long()[:, None]
    left = (draw[:, 1] * (width - wide + 1)).long()[:, None]
    rows, columns = (torch.arange(n, device=x.device) for n in (height, width))
    inside = ((rows >= top) & (rows < top + tall))[:, None, :, None]  # (B, 1, H, 1)
    inside = inside & ((columns >= left) & (columns < left + wide))[:, None, None, :]
    return x.masked_fill(inside, 0.0)


CORRUPTIONS: dict[str, Callable[[Tensor, float, int], Tensor]] = {
    "noise": noise,
    "contrast": contrast,
    "blur": blur,
    "occlusion": occlusion,
}
SHARES = ("contrast", "occlusion")  # severities are shares
IMAGES = ("blur", "occlusion")  # for images only


def make_corruption(kind: str, severity: float) -> Callable[[Tensor, int], Tensor]:
    """A corruption of inputs `(B, ...)`, given the number of the batch."""
    return partial(_apply, CORRUPTIONS[kind], severity)


def _apply(
    corrupt: Callable[[Tensor, float, int], Tensor], severity: float, x: Tensor, batch_index: int
) -> Tensor:
    return corrupt(x, severity, batch_index)


def check_corruptions(severities: dict[str, list[float]], in_shape: tuple[int, ...]) -> None:
    """Raise a `ValueError` of one line for a severity that cannot be, or data it does not fit."""
    for kind, values in severities.items():
        if values and kind in IMAGES and len(in_shape) != 3:
            raise ValueError(f"evaluation.{kind} is for images, not inputs of shape {in_shape}")
        for value in values:
            allowed = PositiveShare if kind in SHARES else Positive
            check_value(f"every severity of evaluation.{kind}", value, allowed)
        if len(set(values)) < len(values):
            raise ValueError(f"evaluation.{kind} lists a severity twice: {values}")
