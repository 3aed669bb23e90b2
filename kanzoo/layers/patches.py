"""Images as sequences of square patches.

Axes: B batch, T patches, P pixels along a side of a patch.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class Patches(nn.Module):
    """The patches of an image, row by row: `(B, C, H, W) -> (B, T, C P P)`."""

    def __init__(self, in_shape: tuple[int, ...], size: int) -> None:
        super().__init__()
        channels, height, width = in_shape
        if height % size or width % size:
            raise ValueError(f"patch_size={size} must divide images of {height} x {width}")
        self.size = size
        self.count = (height // size) * (width // size)
        self.features = channels * size**2

    def forward(self, x: Tensor) -> Tensor:
        return F.unfold(x, self.size, stride=self.size).mT
