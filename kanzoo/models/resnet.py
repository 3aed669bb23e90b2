"""Pre-activation residual network for small images."""

from collections.abc import Collection
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from kanzoo.layers.factory import LayerFactory
from kanzoo.layers.options import check_sizes
from kanzoo.models.base import Architecture, InnerSizes, check_image, scaled


class Block(nn.Module):
    """x + conv(norm(conv(norm(x)))), every convolution an act+conv (1603.05027, fig. 1b).

    Where the shape changes, the shortcut averages pixels and pads channels with zeros, so that it
    has no parameters in either twin (1512.03385, option A).
    """

    def __init__(
        self,
        in_channels: int,
        inner: int,
        out_channels: int,
        stride: int,
        norm: str,
        layers: LayerFactory,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.new_channels = out_channels - in_channels
        self.norm1 = layers.norm(norm, in_channels, channels_first=True)
        self.conv1 = layers.conv(
            "conv", in_channels, inner, 3, stride=stride, padding=1, bias=False
        )
        self.norm2 = layers.norm(norm, inner, channels_first=True)
        self.conv2 = layers.conv("conv", inner, out_channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.norm2(self.conv1(self.norm1(x))))
        if self.stride > 1:
            x = F.avg_pool2d(x, self.stride, ceil_mode=True)
        if self.new_channels:
            x = F.pad(x, (0, 0, 0, 0, 0, self.new_channels))
        return x + y


class ResNet(Architecture):
    """CIFAR-style network of 6 n + 2 layers: three stages of n blocks, widths w, 2 w, 4 w.

    Shapes: `(B, C, H, W) -> (B, num_outputs)`. `expansion` scales the channels inside the blocks.
    """

    kinds: ClassVar[tuple[str, ...]] = ("image",)
    roles: ClassVar[tuple[str, ...]] = ("stem", "conv", "head")
    activated: ClassVar[tuple[str, ...]] = ("conv", "head")
    fine: ClassVar[str | None] = "expansion"

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_outputs: int,
        layers: LayerFactory,
        *,
        width: int = 16,
        depth: int = 8,
        expansion: float = 1.0,
        norm: str = "batch",
    ) -> None:
        super().__init__()
        check_sizes(width=width, depth=depth)
        check_image("resnet", in_shape)
        if depth < 8 or (depth - 2) % 6:
            nearest = max(8, 6 * round((depth - 2) / 6) + 2)
            raise ValueError(
                f"depth must be 6 n + 2 (8, 14, 20, ...), got {depth}; nearest is {nearest}"
            )
        per_stage = (depth - 2) // 6
        self.stem = layers.conv("stem", in_shape[0], width, 3, padding=1, activate=False)
        self.blocks = nn.Sequential()
        channels = width
        num_blocks = 3 * per_stage
        for index in range(num_blocks):
            stage = index // per_stage
            out_channels = width * 2**stage
            stride = 2 if stage > 0 and index % per_stage == 0 else 1
            inner = scaled("expansion", expansion, out_channels, (index + 0.5) / num_blocks)
            self.blocks.append(Block(channels, inner, out_channels, stride, norm, layers))
            channels = out_channels
        self.norm = layers.norm(norm, channels, channels_first=True)
        self.head = layers.linear("head", channels, num_outputs)

    @classmethod
    def inner_sizes(cls, roles: Collection[str], options: dict[str, Any]) -> InnerSizes:
        return {"expansion": options["expansion"]} if "conv" in roles else {}

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.blocks(self.stem(x)))  # (B, 4 width, H / 4, W / 4)
        return self.head(x.mean((-2, -1)))
