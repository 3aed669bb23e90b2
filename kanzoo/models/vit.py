"""Vision transformer on patches.

Axes: B batch, T patches, P pixels along a side of a patch, E width.
"""

from collections.abc import Collection
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kanzoo.layers.factory import LayerFactory
from kanzoo.layers.options import check_sizes
from kanzoo.layers.patches import Patches
from kanzoo.layers.transformer import Block, check_token_norm
from kanzoo.models.base import Architecture, InnerSizes, check_image, size_or, transformer_sizes


class ViT(Architecture):
    """Vision transformer (2010.11929) with learned positions and mean pooling.

    Shapes: `(B, C, H, W) -> (B, num_outputs)`.
    """

    kinds: ClassVar[tuple[str, ...]] = ("image",)
    roles: ClassVar[tuple[str, ...]] = ("stem", "attn", "ffn", "head")
    activated: ClassVar[tuple[str, ...]] = ("ffn",)
    fine: ClassVar[str | None] = "ffn_ratio"

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_outputs: int,
        layers: LayerFactory,
        *,
        patch_size: int = 4,
        width: int = 64,
        depth: int = 4,
        heads: int = 4,
        ffn_ratio: float = 4.0,
        ffn_width: int | None = None,
        attn_width: int | None = None,
        ffn: str = "plain",
        norm: str = "layer",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes(patch_size=patch_size, width=width, depth=depth, heads=heads)
        check_image("vit", in_shape)
        check_token_norm("vit", norm)
        hidden = size_or("ffn_width", ffn_width, "ffn_ratio", ffn_ratio, width)
        self.patches = Patches(in_shape, patch_size)
        self.stem = layers.linear("stem", self.patches.features, width, activate=False)
        self.positions = nn.Parameter(0.02 * torch.randn(self.patches.count, width))
        self.blocks = nn.Sequential(
            *(
                Block(width, heads, hidden, norm, layers, dropout, attn_width=attn_width, ffn=ffn)
                for _ in range(depth)
            )
        )
        self.norm = layers.norm(norm, width)
        self.head = layers.linear("head", width, num_outputs, activate=False)

    @classmethod
    def step_of(cls, option: str, options: dict[str, Any]) -> int:
        return int(options["heads"]) if option in ("width", "attn_width") else 1

    @classmethod
    def inner_sizes(cls, roles: Collection[str], options: dict[str, Any]) -> InnerSizes:
        return transformer_sizes(roles, options)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(self.patches(x)) + self.positions)  # (B, T, E)
        return self.head(self.norm(x).mean(1))
