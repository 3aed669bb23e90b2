"""MLP-Mixer: patches mixed by a network over places, then by one over channels.

Axes: B batch, T patches, E width.
"""

from collections.abc import Collection
from typing import Any, ClassVar

from torch import Tensor, nn

from kanzoo.layers.factory import LayerFactory
from kanzoo.layers.options import check_sizes
from kanzoo.layers.patches import Patches
from kanzoo.layers.transformer import FeedForward, check_token_norm
from kanzoo.models.base import Architecture, InnerSizes, check_image, size_or


class Block(nn.Module):
    """x + mix of tokens, the same for all channels; then x + mix of channels, the same for tokens.

    Shapes: `(B, T, E) -> (B, T, E)`.
    """

    def __init__(
        self,
        tokens: int,
        token_hidden: int,
        width: int,
        channel_hidden: int,
        norm: str,
        layers: LayerFactory,
        dropout: float,
    ) -> None:
        super().__init__()
        self.norm1 = layers.norm(norm, width)
        self.tokens = FeedForward("token_mix", tokens, token_hidden, layers)
        self.norm2 = layers.norm(norm, width)
        self.channels = FeedForward("channel_mix", width, channel_hidden, layers)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.tokens(self.norm1(x).mT).mT)
        return x + self.dropout(self.channels(self.norm2(x)))


class Mixer(Architecture):
    """MLP-Mixer (2105.01601, figure 1) with mean pooling.

    Shapes: `(B, C, H, W) -> (B, num_outputs)`.
    """

    kinds: ClassVar[tuple[str, ...]] = ("image",)
    roles: ClassVar[tuple[str, ...]] = ("stem", "token_mix", "channel_mix", "head")
    activated: ClassVar[tuple[str, ...]] = ("token_mix", "channel_mix")
    fine: ClassVar[str | None] = "channel_ratio"

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_outputs: int,
        layers: LayerFactory,
        *,
        patch_size: int = 4,
        width: int = 64,
        depth: int = 4,
        token_ratio: float = 0.5,
        channel_ratio: float = 4.0,
        token_width: int | None = None,
        channel_width: int | None = None,
        norm: str = "layer",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes(patch_size=patch_size, width=width, depth=depth)
        check_image("mixer", in_shape)
        check_token_norm("mixer", norm)
        token_hidden = size_or("token_width", token_width, "token_ratio", token_ratio, width)
        channel_hidden = size_or(
            "channel_width", channel_width, "channel_ratio", channel_ratio, width
        )
        self.patches = Patches(in_shape, patch_size)
        self.stem = layers.linear("stem", self.patches.features, width, activate=False)
        count = self.patches.count
        self.blocks = nn.Sequential(
            *(
                Block(count, token_hidden, width, channel_hidden, norm, layers, dropout)
                for _ in range(depth)
            )
        )
        self.norm = layers.norm(norm, width)
        self.head = layers.linear("head", width, num_outputs, activate=False)

    @classmethod
    def inner_sizes(cls, roles: Collection[str], options: dict[str, Any]) -> InnerSizes:
        mixed = [kind for kind in ("token", "channel") if f"{kind}_mix" in roles]
        return {
            f"{kind}_width": size_or(
                f"{kind}_width",
                options[f"{kind}_width"],
                f"{kind}_ratio",
                options[f"{kind}_ratio"],
                options["width"],
            )
            for kind in mixed
        }

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(self.patches(x)))  # (B, T, E)
        return self.head(self.norm(x).mean(1))
