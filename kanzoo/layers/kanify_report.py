"""What the KAN layers of a network cost, next to the linear operators that they contain."""

import math
from dataclasses import dataclass
from typing import Any

from torch import nn

from kanzoo.layers.conv import ConvLayer, KANConv
from kanzoo.layers.layer import KANLayer
from kanzoo.layers.parameters import count_params


@dataclass(frozen=True)
class LayerCost:
    """One layer, as ordinary linear operator ("before") and as KAN layer ("after").

    `flops` are per input position: a row of a linear layer, a pixel of a convolution.
    """

    name: str
    layer: str
    shape: str
    basis: str
    params_before: int
    params_after: int
    flops_before: int
    flops_after: int


@dataclass(frozen=True)
class KanifyReport:
    """The KAN layers of a network, and the parameters of the network without and with them.

    As text it is a plain table.
    """

    layers: tuple[LayerCost, ...]
    params_before: int
    params_after: int

    def __str__(self) -> str:
        head = ("name", "layer", "shape", "basis", "parameters", "FLOPs per position")
        rows = [
            (
                cost.name,
                cost.layer,
                cost.shape,
                cost.basis,
                _change(cost.params_before, cost.params_after),
                _change(cost.flops_before, cost.flops_after),
            )
            for cost in self.layers
        ]
        before = sum(cost.flops_before for cost in self.layers)
        after = sum(cost.flops_after for cost in self.layers)
        params = [sum(getattr(c, f"params_{when}") for c in self.layers) for when in WHEN]
        rows.append(("these layers", "", "", "", _change(*params), _change(before, after)))
        network = _change(self.params_before, self.params_after)
        rows.append(("the network", "", "", "", network, ""))
        widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
        lines = (
            "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
            for row in (head, *rows)
        )
        return "\n".join(lines)


WHEN = ("before", "after")


def kanify_report(module: nn.Module) -> KanifyReport:
    """Name, shape, parameters and FLOPs of every KAN layer in a network, before and after.

    "Before" is the layer with its last function alone, which after `kanify` is the old layer.
    """
    names: dict[KANLayer, list[str]] = {}
    for name, part in module.named_modules(remove_duplicate=False):
        if isinstance(part, KANLayer):
            names.setdefault(part, []).append(name)
    layers = tuple(_cost(" = ".join(known), layer) for layer, known in names.items())
    after = count_params(module, frozen=True)
    added = sum(cost.params_after - cost.params_before for cost in layers)
    return KanifyReport(layers, after - added, after)


def _cost(name: str, layer: Any) -> LayerCost:
    expansion = layer.expansion
    bias = 0 if layer.bias is None else layer.bias.numel()
    weight = layer.weight.numel()
    plain = weight // expansion.num_functions
    # A convolution computes an output pixel for every so many input pixels.
    stride = math.prod(layer.stride) if isinstance(layer, KANConv) else 1
    shape = f"{layer.in_features} -> {layer.out_features}"
    if isinstance(layer, ConvLayer):
        shape = f"{shape}, {'x'.join(map(str, layer.kernel_size))}"
    return LayerCost(
        name,
        type(layer).__name__,
        shape,
        expansion.factory.name,
        params_before=plain + bias,
        params_after=weight + bias + count_params(expansion, frozen=True),
        flops_before=round(2 * plain / stride),
        flops_after=round(2 * weight / stride) + layer.in_features * expansion.flops,
    )


def _change(before: int, after: int) -> str:
    ratio = f" ({after / before:.2f}x)" if before else ""
    return f"{before:,} -> {after:,}{ratio}"
