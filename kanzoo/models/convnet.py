"""Plain convolutional network for small images."""

from collections.abc import Collection
from typing import Any, ClassVar

from torch import Tensor, nn

from kanzoo.layers.factory import LayerFactory
from kanzoo.layers.options import check_sizes
from kanzoo.models.base import Architecture, InnerSizes, check_image, scaled

STAGES = 3


class ConvNet(Architecture):
    """VGG-style network (1409.1556): three stages of `depth` convolutions, max-pooling between.

    Shapes: `(B, C, H, W) -> (B, num_outputs)`. The stem has `width` channels, the stages
    `taper * width` times 1, 2 and 4. Every convolution is normalised before it and an act+conv.
    """

    kinds: ClassVar[tuple[str, ...]] = ("image",)
    roles: ClassVar[tuple[str, ...]] = ("stem", "conv", "head")
    activated: ClassVar[tuple[str, ...]] = ("conv", "head")
    fine: ClassVar[str | None] = "taper"

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_outputs: int,
        layers: LayerFactory,
        *,
        width: int = 32,
        depth: int = 2,
        taper: float = 1.0,
        norm: str = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes(width=width, depth=depth)
        check_image("convnet", in_shape)
        self.stem = layers.conv("stem", in_shape[0], width, 3, padding=1, activate=False)
        self.convs = nn.Sequential()
        channels = width
        for index in range(STAGES * depth):
            stage = index // depth
            if stage > 0 and index % depth == 0:
                self.convs.append(nn.MaxPool2d(2, ceil_mode=True))
            threshold = (index + 0.5) / (STAGES * depth)
            following = scaled("taper", taper, width * 2**stage, threshold)
            self.convs.append(layers.norm(norm, channels, channels_first=True))
            self.convs.append(layers.conv("conv", channels, following, 3, padding=1, bias=False))
            channels = following
        self.norm = layers.norm(norm, channels, channels_first=True)
        self.dropout = nn.Dropout(dropout)
        self.head = layers.linear("head", channels, num_outputs)

    @classmethod
    def inner_sizes(cls, roles: Collection[str], options: dict[str, Any]) -> InnerSizes:
        if {"stem", "conv"} <= set(roles):
            return None
        return {"taper": options["taper"]} if "conv" in roles else {}

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.convs(self.stem(x)))  # (B, 4 width, H / 4, W / 4)
        return self.head(self.dropout(x.mean((-2, -1))))
