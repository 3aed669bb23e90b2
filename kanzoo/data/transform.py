"""Image batches on the device: random crop and flip of uint8 pixels, then normalisation.

Axes: B samples, C channels, H height, W width.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from kanzoo.data.loader import Batch


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the standard deviation of every channel of uint8 images `(N, C, H, W)`.

    Exact, from the counts of the 256 values; a constant channel gets deviation 1.
    """
    counts = torch.stack([torch.bincount(c.flatten(), minlength=256) for c in images.unbind(1)])
    share = counts.double() / counts.sum(dim=1, keepdim=True)  # (C, 256)
    values = torch.arange(256, dtype=torch.float64)
    mean = share @ values
    variance = (share * (values - mean[:, None]).square()).sum(dim=1)
    return mean, torch.where(variance > 0, variance, 1.0).sqrt()


def crop(images: Tensor, top: Tensor, left: Tensor, padding: int) -> Tensor:
    """Cut from every zero-padded image a window of its size, at `top` and `left`, each `(B,)`."""
    height, width = images.shape[-2:]
    padded = F.pad(images, (padding,) * 4)
    windows = padded.unfold(2, height, 1).unfold(
        3, width, 1
    )  # (B, C, 2p + 1, 2p + 1, H, W), a view
    sample = torch.arange(len(images), device=images.device)
    return windows[sample, :, top, left]  # (B, C, H, W)


def crop_and_flip(images: Tensor, noise: Tensor, *, padding: int, flip: bool) -> Tensor:
    """Shift each image by up to `padding` pixels and, with `flip`, mirror it half of the time.

    `noise` `(B, 3)`, uniform in [0, 1), decides on row, column and mirroring of each image.
    """
    offset = (noise[:, :2] * (2 * padding + 1)).long()  # 0 to 2 * padding
    images = crop(images, offset[:, 0], offset[:, 1], padding)
    if not flip:
        return images
    return torch.where((noise[:, 2] < 0.5)[:, None, None, None], images.flip(-1), images)


class ImageTransform:
    """Normalise uint8 images `(B, C, H, W)` per channel, in training after augmentation."""

    def __init__(
        self,
        mean: Tensor,
        deviation: Tensor,
        *,
        augment: bool = False,
        padding: int = 0,
        flip: bool = False,
        device: torch.device | None = None,
    ) -> None:
        self.noise = 3 if augment else 0
        self.padding = padding
        self.flip = flip
        self.scale = (1 / deviation).float()[:, None, None].to(device)  # (C, 1, 1)
        self.shift = (-mean / deviation).float()[:, None, None].to(device)  # (C, 1, 1)

    def __call__(self, x: Tensor, y: Tensor, noise: Tensor | None) -> Batch:
        """Return float32 images and the targets unchanged."""
        if noise is not None:
            x = crop_and_flip(x, noise, padding=self.padding, flip=self.flip)
        return torch.addcmul(self.shift, x.float(), self.scale), y
