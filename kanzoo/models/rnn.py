"""Recurrent network.

Axes: B batch, T steps, E width.
"""

from collections.abc import Collection
from typing import Any, ClassVar

from torch import Tensor, nn

from kanzoo.layers.factory import LayerFactory
from kanzoo.layers.options import check_sizes
from kanzoo.layers.recurrent import find_cell
from kanzoo.layers.transformer import check_token_norm
from kanzoo.models.base import InnerSizes, scaled, size_or
from kanzoo.models.sequence import SequenceModel


class RNN(SequenceModel):
    """`depth` recurrent layers, each on the normalised output of the one before.

    Shapes: tokens `(B, T) -> (B, T, num_outputs)`; `(B, T, F)` or `(B, C, H, W)
    -> (B, num_outputs)`, for any T. The first layer reads an embedding of `stem_ratio * width`, the
    states have `hidden_width` features, as many as `width` if that is None.
    """

    roles: ClassVar[tuple[str, ...]] = ("stem", "recurrent", "head")
    activated: ClassVar[tuple[str, ...]] = ("recurrent",)
    fine: ClassVar[str | None] = "stem_ratio"

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_outputs: int,
        layers: LayerFactory,
        *,
        cell: str = "lstm",
        width: int = 128,
        depth: int = 1,
        stem_ratio: float = 1.0,
        hidden_width: int | None = None,
        norm: str = "layer",
        dropout: float = 0.0,
    ) -> None:
        check_sizes(width=width, depth=depth)
        check_token_norm("rnn", norm)
        recurrent = find_cell(cell)
        stem = scaled("stem_ratio", stem_ratio, width)
        hidden = size_or("hidden_width", hidden_width, "width", 1.0, width)
        super().__init__(in_shape, num_outputs, stem, layers)
        self.cells = nn.Sequential()
        for features in (stem, *[hidden] * (depth - 1)):
            self.cells.append(layers.norm(norm, features))
            self.cells.append(recurrent(features, hidden, layers))
        self.norm = layers.norm(norm, hidden)
        self.dropout = nn.Dropout(dropout)
        self.head = layers.linear("head", hidden, num_outputs, activate=False)

    @classmethod
    def inner_sizes(cls, roles: Collection[str], options: dict[str, Any]) -> InnerSizes:
        if {"stem", "recurrent"} <= set(roles):
            return None
        size = options["hidden_width"] or options["width"]
        return {"hidden_width": size} if "recurrent" in roles else {}

    def trunk(self, x: Tensor) -> Tensor:
        steps = x.transpose(0, 1).contiguous()  # (T, B, E)
        return self.dropout(self.norm(self.cells(steps).transpose(0, 1)))
