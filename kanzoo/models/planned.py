"""Costs of networks that are being planned: their layers are counted, not built."""

import copy
import math
from dataclasses import fields
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kanzoo.checks import check_name
from kanzoo.layers import KANLinear, norm
from kanzoo.layers.conv import ConvLayer, KANConv2d
from kanzoo.layers.expansion import Expansion
from kanzoo.layers.factory import LayerFactory
from kanzoo.layers.layer import KANLayer
from kanzoo.layers.options import check_sizes
from kanzoo.layers.parameters import count_params
from kanzoo.models.cost import (
    Counted,
    CountedConv,
    Free,
    num_zeros,
)


class CountingLayers(LayerFactory):
    """A factory whose layers only know what they cost.

    One layer of every kind is built at the least size, which refuses options that cannot be; the
    costs at all sizes follow from it: products are proportional to both numbers of features, the
    evaluation of the basis to the inputs.
    """

    def linear(
        self,
        role: str,
        in_features: int,
        out_features: int,
        *,
        activate: bool = True,
        bias: bool = True,
    ) -> Any:
        return PlannedLayer(
            _least(self, "linear", role, activate, ()), in_features, out_features, bias
        )

    def conv(
        self,
        role: str,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        operator: type[ConvLayer] = KANConv2d,
        activate: bool = True,
        **options: Any,
    ) -> Any:
        bias = options.pop("bias", True)
        kind = (("kernel_size", kernel_size), ("operator", operator), *sorted(options.items()))
        least = _least(self, "conv", role, activate, kind)
        return PlannedLayer(least, in_channels, out_channels, bias)

    def norm(self, name: str, features: int, *, channels_first: bool = False) -> nn.Module:
        return PlannedNorm(name, features)


@cache
def counting_layers(layers: LayerFactory) -> CountingLayers:
    """The factory of the same layers that only counts."""
    known = {field.name: getattr(layers, field.name) for field in fields(layers) if field.init}
    return CountingLayers(**known)


@cache
def _least(
    layers: CountingLayers, kind: str, role: str, activate: bool, options: tuple[Any, ...]
) -> KANLayer:
    """The layer of a kind with as few features as it can have."""
    features = dict(options).get("groups", 1) * (2 if layers.squash == "layer" else 1)
    make = LayerFactory.linear if kind == "linear" else LayerFactory.conv
    layer: KANLayer = make(  # type: ignore[operator]
        layers, role, features, features, activate=activate, bias=False, **dict(options)
    )
    return layer.eval()


def _unit(layer: KANLayer) -> int:
    """The features of a small layer in each of its groups."""
    return layer.in_features // (layer.groups if isinstance(layer, ConvLayer) else 1)


@cache
def _measured(layer: KANLayer, pixels: tuple[int, ...]) -> tuple[int, int, tuple[int, ...]]:
    """FLOPs of the basis a feature, of the products an edge, and the pixels of the output."""
    expansion, unit = layer.expansion, _unit(layer)
    if isinstance(layer, KANLinear):
        positions = math.prod(pixels)
        return positions * expansion.flops, 2 * positions * expansion.num_functions, pixels
    assert isinstance(layer, ConvLayer)
    stand_in = CountedConv(copy.deepcopy(layer))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        y = stand_in(torch.empty((1, layer.in_features, *pixels), device="meta"))
    basis: Any = stand_in.layer.expansion
    evaluations = sum(basis.cost(call)[0] for call in basis.calls)
    return evaluations // unit, counter.get_total_flops() // unit**2, tuple(y.shape[2:])


@cache
def _edge_params(layer: KANLayer) -> int:
    """Trainable parameters of all edges of a layer without bias."""
    return count_params(layer) - count_params(layer.expansion)


@cache
def _basis_params(layer: KANLayer, features: int) -> int:
    """Trainable parameters of the expansion of so many features."""
    small = layer.expansion
    if not any(True for _ in small.parameters()):
        return 0
    with torch.device("meta"):
        large = Expansion(features, small.factory, residual=small.residual, squash=small.squash)
    return count_params(large)


class PlannedNorm(Free):
    """Normalisation of so many features."""

    params: int

    def __init__(self, name: str, features: int) -> None:
        check_name("norm", name, norm.NORMS)
        super().__init__(None)
        self.__dict__["params"] = 0 if name == "none" else 2 * features


class PlannedLayer(Counted):
    """A layer of any size of the kind of the small one."""

    small: KANLayer
    out_features: int
    inputs: int
    edges: int
    params: int
    has_bias: bool

    def __init__(
        self, small: KANLayer, in_features: int, out_features: int, has_bias: bool
    ) -> None:
        super().__init__(None)
        if not (
            type(in_features) is type(out_features) is int and min(in_features, out_features) > 0
        ):
            check_sizes(in_features=in_features, out_features=out_features)
        unit = _unit(small)
        groups = small.in_features // unit
        if in_features % groups or out_features % groups:
            raise ValueError(f"groups={groups} must divide {in_features} and {out_features}")
        if small.expansion.squash == "layer" and in_features < 2:
            raise ValueError("squash 'layer' needs at least 2 features: it turns a single one to 0")
        inputs = in_features // groups
        edges = inputs * (out_features // groups)
        params = _edge_params(small) // unit**2 * edges + (out_features if has_bias else 0)
        # Not as a submodule, and many of these are made.
        self.__dict__ |= {
            "small": small,
            "out_features": out_features,
            "inputs": inputs,
            "edges": edges,
            "params": params + _basis_params(small, in_features),
            "has_bias": has_bias,
        }

    @property
    def bias(self) -> Tensor | None:
        """What an architecture may want to initialise."""
        return torch.empty(self.out_features, device="meta") if self.has_bias else None

    def cost(self, call: tuple[int, ...]) -> tuple[int, int]:
        small = self.small
        basis, products, _ = _measured(small, call[1:])
        products *= self.edges
        dense = call[0] * (basis * self.inputs + products)
        zeros = products * num_zeros(small.expansion) // small.expansion.num_functions
        return dense, dense - call[0] * zeros

    def forward(self, x: Tensor) -> Tensor:
        # A linear layer takes all but the features for pixels.
        is_linear = isinstance(self.small, KANLinear)
        lead, pixels = (1, x.shape[:-1]) if is_linear else (x.shape[0], x.shape[2:])
        self.calls.append((lead, *pixels))
        _, _, shape = _measured(self.small, tuple(pixels))
        sides = (*shape, self.out_features) if is_linear else (lead, self.out_features, *shape)
        return x.new_empty(sides)
