"""Fully connected network on flattened inputs."""

import math
from itertools import pairwise
from typing import ClassVar

from torch import Tensor, nn

from kanzoo.layers.factory import LayerFactory
from kanzoo.layers.kan import check_sizes
from kanzoo.layers.norm import make_norm
from kanzoo.models.base import Architecture, scaled


class MLP(Architecture):
    """`depth` hidden layers, each normalised, then act+linear.

    Shapes: `(B, *in_shape) -> (B, num_outputs)`. The first hidden layer has `width` features, the
    others `taper * width`.
    """

    kinds: ClassVar[tuple[str, ...]] = ("image", "sequence", "table")
    roles: ClassVar[tuple[str, ...]] = ("stem", "hidden", "head")
    fine: ClassVar[str | None] = "taper"

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_outputs: int,
        layers: LayerFactory,
        *,
        width: int = 256,
        depth: int = 2,
        taper: float = 1.0,
        norm: str = "layer",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes(width=width, depth=depth)
        rest = scaled("taper", taper, width)
        widths = [width] + [rest] * (depth - 1)
        self.stem = layers.linear("stem", math.prod(in_shape), width, activate=False)
        self.hidden = nn.Sequential()
        for features, following in pairwise(widths):
            self.hidden.append(make_norm(norm, features))
            self.hidden.append(layers.linear("hidden", features, following))
        self.norm = make_norm(norm, widths[-1])
        self.dropout = nn.Dropout(dropout)
        self.head = layers.linear("head", widths[-1], num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.flatten(1))  # (B, width)
        x = self.norm(self.hidden(x))
        return self.head(self.dropout(x))
