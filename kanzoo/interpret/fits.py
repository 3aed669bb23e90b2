"""The elementary functions that an edge resembles, on what it sees of the data."""

from collections.abc import Iterable

import torch
from torch import Tensor

from kanzoo.interpret.formula.library import EdgeFit, fit_edge
from kanzoo.layers import KANLayer

SIMPLE = ("x", "x^2", "x^3", "sin", "exp", "tanh", "abs")  # that pictures compare edges with


@torch.no_grad()
def fit_values(
    layer: KANLayer,
    values: Tensor,
    source: int,
    target: int,
    tap: tuple[int, ...] | None = None,
    functions: Iterable[str] | None = None,
) -> list[EdgeFit]:
    """Fits of functions of the library to an edge on the values `(N, C)` of its layer's inputs.

    The cheapest first, as `fit_edge`. `source` and `target` count all channels.
    """
    inside = source % (layer.in_features // getattr(layer, "groups", 1))
    x = values[:, source]
    y = layer.edge(inside, target, x, tap)
    return fit_edge(x.double().cpu().numpy(), y.double().cpu().numpy(), functions)
