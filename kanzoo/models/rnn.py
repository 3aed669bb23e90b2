"""Recurrent network.

Axes: B batch, T steps, E width.
"""

from typing import ClassVar

from torch import Tensor, nn

from kanzoo.layers.factory import LayerFactory
from kanzoo.layers.layer import check_sizes
from kanzoo.layers.norm import make_norm
from kanzoo.layers.recurrent import find_cell
from kanzoo.layers.transformer import check_token_norm
from kanzoo.models.base import scaled
from kanzoo.models.sequence import SequenceModel


class RNN(SequenceModel):
    """`depth` recurrent layers, each on the normalised output of the one before.

    Shapes: tokens `(B, T) -> (B, T, num_outputs)`; `(B, T, F)` or `(B, C, H, W)
    -> (B, num_outputs)`, for any T. The first layer reads an embedding of `stem_ratio * width`.
    """

    roles: ClassVar[tuple[str, ...]] = ("stem", "recurrent", "head")
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
        norm: str = "layer",
        dropout: float = 0.0,
    ) -> None:
        check_sizes(width=width, depth=depth)
        check_token_norm("rnn", norm)
        recurrent = find_cell(cell)
        stem = scaled("stem_ratio", stem_ratio, width)
        super().__init__(in_shape, num_outputs, stem, layers)
        self.cells = nn.Sequential()
        for features in (stem, *[width] * (depth - 1)):
            self.cells.append(make_norm(norm, features))
            self.cells.append(recurrent(features, width, layers))
        self.norm = make_norm(norm, width)
        self.dropout = nn.Dropout(dropout)
        self.head = layers.linear("head", width, num_outputs, activate=False)

    def trunk(self, x: Tensor) -> Tensor:
        steps = x.transpose(0, 1).contiguous()  # (T, B, E)
        return self.dropout(self.norm(self.cells(steps).transpose(0, 1)))
