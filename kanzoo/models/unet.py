"""Encoder-decoder with skip connections, from an image to an output for every pixel.

Axes: B batch, C channels, H and W pixels.
"""

from collections.abc import Collection
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kanzoo.layers import KANConvTranspose2d
from kanzoo.layers.factory import LayerFactory
from kanzoo.layers.options import check_sizes
from kanzoo.models.base import Architecture, InnerSizes, check_image, scaled


class Convs(nn.Sequential):
    """Two 3x3 convolutions, each normalised before it and an act+conv, with `inner` between."""

    def __init__(
        self, in_channels: int, inner: int, out_channels: int, norm: str, layers: LayerFactory
    ) -> None:
        super().__init__()
        for channels, following in ((in_channels, inner), (inner, out_channels)):
            self.append(layers.norm(norm, channels, channels_first=True))
            self.append(layers.conv("conv", channels, following, 3, padding=1, bias=False))


class Up(nn.Sequential):
    """Twice as many pixels along both sides: a normalised act+transposed convolution."""

    def __init__(
        self, in_channels: int, out_channels: int, norm: str, layers: LayerFactory
    ) -> None:
        super().__init__()
        self.append(layers.norm(norm, in_channels, channels_first=True))
        self.append(
            layers.conv(
                "conv",
                in_channels,
                out_channels,
                2,
                operator=KANConvTranspose2d,
                stride=2,
                bias=False,
            )
        )


class UNet(Architecture):
    """U-Net (1505.04597) with padding: what the encoder sees at every scale, the decoder gets too.

    Shapes: `(B, C, H, W) -> (B, num_outputs, H, W)` for H and W that 2^depth divides. Scale l has
    `2^l * width` channels; `expansion` scales those inside a pair of convolutions.
    """

    kinds: ClassVar[tuple[str, ...]] = ("dense",)
    roles: ClassVar[tuple[str, ...]] = ("stem", "conv", "head")
    activated: ClassVar[tuple[str, ...]] = ("conv", "head")
    fine: ClassVar[str | None] = "expansion"

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_outputs: int,
        layers: LayerFactory,
        *,
        width: int = 32,
        depth: int = 2,
        expansion: float = 1.0,
        norm: str = "batch",
    ) -> None:
        super().__init__()
        check_sizes(width=width, depth=depth)
        check_image("unet", in_shape)
        self.depth = depth
        self.check_sides(in_shape)
        pairs = 2 * depth + 1
        sizes = [width * 2**scale for scale in range(depth + 1)]

        def convs(index: int, in_channels: int, out_channels: int) -> Convs:
            inner = scaled("expansion", expansion, out_channels, (index + 0.5) / pairs)
            return Convs(in_channels, inner, out_channels, norm, layers)

        self.stem = layers.conv("stem", in_shape[0], width, 3, padding=1, activate=False)
        self.down = nn.ModuleList(
            convs(scale, sizes[max(scale - 1, 0)], size) for scale, size in enumerate(sizes)
        )
        self.up, self.merge = nn.ModuleList(), nn.ModuleList()
        for scale in reversed(range(depth)):
            self.up.append(Up(sizes[scale + 1], sizes[scale], norm, layers))
            self.merge.append(convs(2 * depth - scale, 2 * sizes[scale], sizes[scale]))
        self.norm = layers.norm(norm, width, channels_first=True)
        self.head = layers.conv("head", width, num_outputs, 1)

    @classmethod
    def inner_sizes(cls, roles: Collection[str], options: dict[str, Any]) -> InnerSizes:
        return {"expansion": options["expansion"]} if "conv" in roles else {}

    def check_sides(self, shape: tuple[int, ...]) -> None:
        """Raise `ValueError` for images that cannot be halved `depth` times."""
        *_, height, breadth = shape
        if height % 2**self.depth or breadth % 2**self.depth:
            raise ValueError(
                f"depth={self.depth} of unet needs images whose sides {2**self.depth} divides, "
                f"got {height} x {breadth}"
            )

    def forward(self, x: Tensor) -> Tensor:
        self.check_sides(tuple(x.shape))
        x = self.stem(x)
        skips = []
        for scale, convs in enumerate(self.down):
            x = convs(F.max_pool2d(x, 2) if scale else x)  # (B, 2^scale width, H / 2^scale, ...)
            skips.append(x)
        skips.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([skips.pop(), up(x)], 1))
        return self.head(self.norm(x))
