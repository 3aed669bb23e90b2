"""Fully connected network on flattened inputs."""

import math
from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Any, ClassVar

from torch import Tensor, nn

from kanzoo.checks import MAX_FUNCTIONS, check_whole
from kanzoo.layers.factory import LayerFactory
from kanzoo.layers.options import check_sizes
from kanzoo.layers.products import Products
from kanzoo.models.base import Architecture, InnerSizes, size_or


class MLP(Architecture):
    """`depth` hidden layers, each normalised, then act+linear.

    Shapes: `(B, *in_shape) -> (B, num_outputs)`. The first hidden layer has `width` features, the
    others `hidden_width`, or `taper * width` if that is None; `widths` lists the features of all
    hidden layers instead, and leaves nothing for budget matching to solve. The last `mult` features
    of every hidden layer, or all if it has fewer, multiply two outputs of the linear layer each, in
    both twins (MultKAN, 2408.10205, section 2.1).
    """

    kinds: ClassVar[tuple[str, ...]] = ("image", "sequence", "table")
    roles: ClassVar[tuple[str, ...]] = ("stem", "hidden", "head")
    activated: ClassVar[tuple[str, ...]] = ("hidden", "head")
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
        hidden_width: int | None = None,
        widths: Sequence[int] | None = None,
        mult: int = 0,
        norm: str = "layer",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if widths is None:
            check_sizes(width=width, depth=depth)
            following = size_or("hidden_width", hidden_width, "taper", taper, width)
            widths = [width] + [following] * (depth - 1)
        else:
            widths = _checked(widths)
        products = _products(mult, widths)
        first = widths[0] + products[0]
        self.stem = layers.linear("stem", math.prod(in_shape), first, activate=False)
        self.hidden = nn.Sequential()
        if mult:
            self.hidden.append(Products(widths[0], products[0]))
        for (features, following), count in zip(pairwise(widths), products[1:], strict=True):
            self.hidden.append(layers.norm(norm, features))
            self.hidden.append(layers.linear("hidden", features, following + count))
            if mult:
                self.hidden.append(Products(following, count))
        self.norm = layers.norm(norm, widths[-1])
        self.dropout = nn.Dropout(dropout)
        self.head = layers.linear("head", widths[-1], num_outputs)

    @classmethod
    def step_of(cls, option: str, options: dict[str, Any]) -> int:
        if options.get("widths") is not None:
            raise ValueError(
                "model.widths fixes the size, so there is nothing to match: match=none"
            )
        return 1

    @classmethod
    def inner_sizes(cls, roles: Collection[str], options: dict[str, Any]) -> InnerSizes:
        following = "hidden" if options["depth"] > 1 else "head"
        if {"stem", following} <= set(roles):
            return None
        if "hidden" not in roles or options["depth"] < 2:
            return {}
        given, taper = options["hidden_width"], options["taper"]
        return {"hidden_width": size_or("hidden_width", given, "taper", taper, options["width"])}

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.flatten(1))  # (B, width)
        x = self.norm(self.hidden(x))
        return self.head(self.dropout(x))


def _products(mult: int, widths: Sequence[int]) -> list[int]:
    """How many features of every hidden layer are products."""
    check_whole("mult", mult, 0, MAX_FUNCTIONS)
    return [min(mult, features) for features in widths]


def _checked(widths: Sequence[int]) -> list[int]:
    if isinstance(widths, str) or not isinstance(widths, Sequence) or not widths:
        raise ValueError(f"widths must list the features of every hidden layer, got {widths!r}")
    for width in widths:
        check_sizes(widths=width)
    return list(widths)
