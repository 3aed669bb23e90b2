"""A trained factor of every edge beside the coefficients of its basis.

Axes: C input channels, O output channels, K functions of the basis, R of the residual, 0 or 1.
"""

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from kanzoo.layers.layer import KANLayer

Layer = TypeVar("Layer", bound=KANLayer)


class EdgeScale(nn.Module):
    """w_s of every edge, whose function is w_b b(x) + w_s sum_k c_k phi_k(x).

    Source: KAN, 2404.19756, eq. 2.10. It adds no function: products w_s c_k are what a layer
    otherwise has as weights. But both are trained, from w_s = 1, so that steps are others.
    `(.., K + R, ..) -> (.., K + R, ..)`, shaped as the weight.
    """

    scale: nn.Parameter  # as the weight, with a single function

    def __init__(self, layer: KANLayer) -> None:
        super().__init__()
        self.dim = layer.function_dim
        self.functions = layer.expansion.basis.num_functions
        self.scale = nn.Parameter(torch.ones_like(layer.weight.narrow(self.dim, 0, 1)))

    def forward(self, weight: Tensor) -> Tensor:
        basis = weight.narrow(self.dim, 0, self.functions)
        rest = weight.narrow(self.dim, self.functions, weight.shape[self.dim] - self.functions)
        return torch.cat([basis * self.scale, rest], self.dim)


def with_edge_scale(layer: Layer) -> Layer:
    """The layer, its weight from now on computed with a trained factor of every edge."""
    if layer.expansion.basis.num_functions:
        parametrize.register_parametrization(layer, "weight", EdgeScale(layer))
    return layer
