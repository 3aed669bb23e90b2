"""Vision transformer on patches.

Axes: B batch, T patches, E width.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kanzoo.layers.attention import Attention
from kanzoo.layers.factory import LayerFactory
from kanzoo.layers.kan import check_sizes
from kanzoo.layers.norm import make_norm
from kanzoo.models.base import Architecture


class Block(nn.Module):
    """Pre-norm transformer block: attention, then a feed-forward part of two layers."""

    def __init__(
        self, width: int, heads: int, hidden: int, norm: str, layers: LayerFactory, dropout: float
    ) -> None:
        super().__init__()
        self.norm1 = make_norm(norm, width)
        self.attn = Attention(width, heads, layers)
        self.norm2 = make_norm(norm, width)
        self.fc1 = layers.linear("ffn", width, hidden, activate=False)
        self.fc2 = layers.linear("ffn", hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attn(self.norm1(x)))
        return x + self.dropout(self.fc2(self.fc1(self.norm2(x))))


class ViT(Architecture):
    """Vision transformer (2010.11929) with learned positions and mean pooling.

    Shapes: `(B, C, H, W) -> (B, num_outputs)`.
    """

    kinds: ClassVar[tuple[str, ...]] = ("image",)
    roles: ClassVar[tuple[str, ...]] = ("stem", "attn", "ffn", "head")
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
        norm: str = "layer",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes(patch_size=patch_size, width=width, depth=depth, heads=heads)
        if len(in_shape) != 3:
            raise ValueError(f"vit needs images (C, H, W), got inputs of shape {in_shape}")
        if norm == "batch":
            raise ValueError("norm of vit must be layer or none: tokens have no batch statistics")
        channels, height, breadth = in_shape
        if height % patch_size or breadth % patch_size:
            raise ValueError(f"patch_size={patch_size} must divide images of {height} x {breadth}")
        hidden = round(ffn_ratio * width)
        if hidden < 1:
            raise ValueError(f"ffn_ratio={ffn_ratio} leaves no features of width={width}")
        self.patch_size = patch_size
        tokens = (height // patch_size) * (breadth // patch_size)
        self.stem = layers.linear("stem", channels * patch_size**2, width, activate=False)
        self.positions = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.blocks = nn.Sequential(
            *(Block(width, heads, hidden, norm, layers, dropout) for _ in range(depth))
        )
        self.norm = make_norm(norm, width)
        self.head = layers.linear("head", width, num_outputs, activate=False)

    @classmethod
    def coarse_step(cls, options: dict[str, Any]) -> int:
        return int(options["heads"])

    def forward(self, x: Tensor) -> Tensor:
        patches = F.unfold(x, self.patch_size, stride=self.patch_size).mT  # (B, T, C P P)
        x = self.blocks(self.stem(patches) + self.positions)  # (B, T, E)
        return self.head(self.norm(x).mean(1))
