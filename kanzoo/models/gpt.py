"""Causal transformer.

Axes: B batch, T positions, E width.
"""

from collections.abc import Collection
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kanzoo.checks import check_name
from kanzoo.layers.factory import LayerFactory
from kanzoo.layers.options import check_sizes
from kanzoo.layers.transformer import Block, check_token_norm
from kanzoo.models.base import InnerSizes, size_or, transformer_sizes
from kanzoo.models.sequence import SequenceModel

POSITIONS = ("rotary", "learned")


class GPT(SequenceModel):
    """Decoder-only transformer (GPT-2), pre-norm, with rotary (2104.09864) or learned positions.

    Shapes: tokens `(B, T) -> (B, T, num_outputs)`; `(B, T, F)` or `(B, C, H, W)
    -> (B, num_outputs)`. T is at most that of `in_shape`. Tokens are embedded in both twins.
    """

    roles: ClassVar[tuple[str, ...]] = ("stem", "attn", "ffn", "head")
    activated: ClassVar[tuple[str, ...]] = ("ffn",)
    fine: ClassVar[str | None] = "ffn_ratio"

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_outputs: int,
        layers: LayerFactory,
        *,
        width: int = 64,
        depth: int = 4,
        heads: int = 4,
        ffn_ratio: float = 4.0,
        ffn_width: int | None = None,
        attn_width: int | None = None,
        ffn: str = "plain",
        positions: str = "rotary",
        norm: str = "layer",
        dropout: float = 0.0,
    ) -> None:
        check_sizes(width=width, depth=depth, heads=heads)
        check_token_norm("gpt", norm)
        check_name("positions", positions, POSITIONS)
        hidden = size_or("ffn_width", ffn_width, "ffn_ratio", ffn_ratio, width)
        super().__init__(in_shape, num_outputs, width, layers)
        self.limit = self.length
        rotary = self.length if positions == "rotary" else None
        self.positions = (
            nn.Parameter(0.02 * torch.randn(self.length, width)) if rotary is None else None
        )
        inside: dict[str, Any] = {"attn_width": attn_width, "ffn": ffn}
        inside |= {"causal": True, "rotary": rotary}
        self.blocks = nn.Sequential(
            *(Block(width, heads, hidden, norm, layers, dropout, **inside) for _ in range(depth))
        )
        self.norm = layers.norm(norm, width)
        self.head = layers.linear("head", width, num_outputs, activate=False)

    @classmethod
    def step_of(cls, option: str, options: dict[str, Any]) -> int:
        if option not in ("width", "attn_width"):
            return 1
        # Rotary positions turn pairs of features.
        return int(options["heads"]) * (2 if options["positions"] == "rotary" else 1)

    @classmethod
    def inner_sizes(cls, roles: Collection[str], options: dict[str, Any]) -> InnerSizes:
        return transformer_sizes(roles, options)

    def trunk(self, x: Tensor) -> Tensor:
        if self.positions is not None:
            x = x + self.positions[: x.shape[1]]
        return self.norm(self.blocks(x))
