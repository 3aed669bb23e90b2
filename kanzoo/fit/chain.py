"""Networks that are KAN layers one after another: what can be read as a formula or a graph.

Axes: N samples, C inputs and O outputs of a layer.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from kanzoo.layers import KANLayer, KANLinear
from kanzoo.layers.inputs import evaluating
from kanzoo.layers.products import Products, multiply

NORMS = (nn.LayerNorm, nn.BatchNorm1d, nn.RMSNorm)


def is_kan(layer: nn.Module) -> bool:
    """Whether a layer has trainable edge functions; "activation, then linear" has not."""
    return isinstance(layer, KANLayer) and layer.has_edges


def kan_layers(net: nn.Module) -> dict[str, KANLayer]:
    """All layers with trainable edge functions, by name; `ValueError` where there is none."""
    layers = {
        name: module
        for name, module in net.named_modules()
        if isinstance(module, KANLayer) and is_kan(module)
    }
    if not layers:
        raise ValueError(
            "the network has no KAN layers (it is an MLP), so there are no edge functions to read"
        )
    return layers


def check_finite(x: Tensor, what: str = "the inputs") -> None:
    """Raise `ValueError` if there are no rows, or values that are not finite."""
    if not len(x):
        raise ValueError(f"{what} have no rows")
    bad = ~x.isfinite()
    if bad.any():
        raise ValueError(f"{what} hold {int(bad.sum())} values that are NaN or infinite")


@dataclass(frozen=True)
class Stage:
    """A layer of a chain, what normalises its inputs, and how many nodes are products, of what."""

    name: str
    layer: KANLinear
    norm: str | None = None
    products: int = 0
    product_name: str = ""

    @property
    def num_nodes(self) -> int:
        """The nodes behind the layer."""
        return self.layer.out_features - self.products

    def __call__(self, x: Tensor) -> Tensor:
        return multiply(self.layer(x), self.products)


@torch.no_grad()
def chain(
    net: nn.Module,
    x: Tensor | None = None,
    *,
    allow_norms: bool = False,
    allow_products: bool = True,
) -> list[Stage]:
    """The layers of a network that is `KANLinear` layers one after another, in their order.

    Product nodes behind a layer, and normalisations before one, are allowed as far as asked for.
    Checked on inputs x `(N, C)`, a few unless given: each layer must get what the one before
    returns, and the last return what the network does. Raises `ValueError` otherwise.
    """
    layers = kan_layers(net)
    first = next(iter(layers.values()))
    if x is None:
        x = torch.linspace(-1, 1, 5 * first.in_features).view(5, -1).to(first.weight)
    check_finite(x)
    calls, result = _calls(net, x)
    value, norm, stages = x.flatten(1), None, list[Stage]()
    for name, module, before, after in calls:
        if before.shape != value.shape or not torch.equal(before, value):
            break
        value = after
        if isinstance(module, KANLinear):
            stages.append(Stage(name, module, norm))
            norm = None
        elif isinstance(module, Products):
            if norm is not None or not stages or stages[-1].products:
                break
            stages[-1] = replace(stages[-1], products=module.products, product_name=name)
        else:
            norm = type(module).__name__
    readable = norm is None and value.shape == result.shape and torch.equal(value, result)
    readable &= 0 < len(stages) == len({stage.name for stage in stages})
    if not allow_norms:
        readable &= all(stage.norm is None and is_kan(stage.layer) for stage in stages)
    if not readable:
        without = "" if allow_norms else " without normalisation between them"
        option = "" if allow_norms else " model.norm=none"
        raise ValueError(
            f"only a chain of fully connected KAN layers{without} can be read like this; the "
            f"network has other parts too (for model=mlp: layers=kan{option})"
        )
    if not allow_products and any(stage.products for stage in stages):
        raise ValueError("this works on stacks without product nodes only (model.mult=0)")
    return stages


def _calls(net: nn.Module, x: Tensor) -> tuple[list[tuple[str, nn.Module, Tensor, Tensor]], Tensor]:
    """Name, module, input and output of every call of what a chain may hold, and the result."""
    calls: list[tuple[str, nn.Module, Tensor, Tensor]] = []
    handles = []
    for name, module in net.named_modules():
        if isinstance(module, (KANLinear, Products, *NORMS)):

            def keep(module: nn.Module, args: Any, output: Tensor, name: str = name) -> None:
                calls.append((name, module, args[0], output))

            handles.append(module.register_forward_hook(keep))
    try:
        with evaluating(net):
            return calls, net(x)
    finally:
        for handle in handles:
            handle.remove()
