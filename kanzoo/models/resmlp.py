"""Residual fully connected network."""

import math
from collections.abc import Collection
from typing import Any, ClassVar

from torch import Tensor, nn

from kanzoo.layers.factory import LayerFactory
from kanzoo.layers.options import check_sizes
from kanzoo.layers.transformer import FeedForward
from kanzoo.models.base import Architecture, InnerSizes, size_or


class Block(nn.Module):
    """x + a feed-forward part of the normalised x."""

    def __init__(self, width: int, hidden: int, norm: str, layers: LayerFactory) -> None:
        super().__init__()
        self.norm = layers.norm(norm, width)
        self.ffn = FeedForward("ffn", width, hidden, layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.ffn(self.norm(x))


class ResMLP(Architecture):
    """Pre-norm residual blocks on flattened inputs (2106.11959, section 3.2).

    Shapes: `(B, *in_shape) -> (B, num_outputs)`.
    """

    kinds: ClassVar[tuple[str, ...]] = ("image", "sequence", "table")
    roles: ClassVar[tuple[str, ...]] = ("stem", "ffn", "head")
    activated: ClassVar[tuple[str, ...]] = ("ffn", "head")
    fine: ClassVar[str | None] = "ffn_ratio"

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_outputs: int,
        layers: LayerFactory,
        *,
        width: int = 128,
        depth: int = 2,
        ffn_ratio: float = 1.0,
        ffn_width: int | None = None,
        norm: str = "layer",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes(width=width, depth=depth)
        hidden = size_or("ffn_width", ffn_width, "ffn_ratio", ffn_ratio, width)
        self.stem = layers.linear("stem", math.prod(in_shape), width, activate=False)
        self.blocks = nn.Sequential(*(Block(width, hidden, norm, layers) for _ in range(depth)))
        self.norm = layers.norm(norm, width)
        self.dropout = nn.Dropout(dropout)
        self.head = layers.linear("head", width, num_outputs)

    @classmethod
    def inner_sizes(cls, roles: Collection[str], options: dict[str, Any]) -> InnerSizes:
        if "ffn" not in roles:
            return {}
        given, ratio = options["ffn_width"], options["ffn_ratio"]
        return {"ffn_width": size_or("ffn_width", given, "ffn_ratio", ratio, options["width"])}

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.blocks(self.stem(x.flatten(1))))  # (B, width)
        return self.head(self.dropout(x))
