"""Networks that are nothing but KAN layers one after another: what can be read as a formula.

Axes: N samples, C inputs and O outputs of a layer.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from kanzoo.layers.inputs import evaluating
from kanzoo.layers.kan import KANLayer, KANLinear
from kanzoo.layers.products import Products, multiply


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
class Link:
    """A layer of a stack, and how many of the nodes behind it are products of two outputs."""

    name: str
    layer: KANLinear
    products: int = 0

    @property
    def nodes(self) -> int:
        """The nodes behind the layer."""
        return self.layer.out_features - self.products

    def __call__(self, x: Tensor) -> Tensor:
        return multiply(self.layer(x), self.products)


@torch.no_grad()
def links_of(net: nn.Module, x: Tensor | None = None) -> list[Link]:
    """The layers of a network that is a stack of `KANLinear`, with or without product nodes.

    Checked on inputs x `(N, C)`, a few unless given: the layers one after another must give the
    network's outputs. Raises `ValueError` otherwise; a normalisation between layers is the most
    frequent reason.
    """
    named = {module: name for name, module in net.named_modules()}
    links: list[Link] = []
    plain = len(kan_layers(net)) > 0
    for module, name in named.items():
        if isinstance(module, KANLinear) and is_kan(module):
            links.append(Link(name, module))
        elif isinstance(module, Products) and links and not links[-1].products:
            links[-1] = Link(links[-1].name, links[-1].layer, module.products)
        elif isinstance(module, (KANLayer, Products)):
            plain = False
    plain = plain and all(a.nodes == b.layer.in_features for a, b in pairwise(links))
    if plain and x is None:
        like = links[0].layer.weight
        x = torch.linspace(-1, 1, 5 * links[0].layer.in_features, device=like.device).to(like)
        x = x.view(5, -1)
    if plain and x is not None:
        check_finite(x)
        y = x.flatten(1)
        plain = y.shape[1] == links[0].layer.in_features
    if plain and x is not None:
        with evaluating(net):
            expected = net(x)
        for link in links:
            y = link(y)
        if y.shape == expected.shape and torch.allclose(y, expected, rtol=1e-4, atol=1e-5):
            return links
    raise ValueError(
        "only a plain stack of KANLinear layers has a formula; this network has other parts too "
        "(for model=mlp: layers=kan model.norm=none)"
    )


def stack_of(net: nn.Module, x: Tensor) -> list[KANLinear]:
    """The KAN layers of a stack without product nodes, in their order: see `links_of`."""
    links = links_of(net, x)
    if any(link.products for link in links):
        raise ValueError("this works on stacks without product nodes only (model.mult=0)")
    return [link.layer for link in links]
