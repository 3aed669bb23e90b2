"""Networks that are nothing but KAN layers one after another: what can be read as a formula.

Axes: N samples, C inputs and O outputs of a layer.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from kanzoo.layers.kan import KANLayer, KANLinear


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


@torch.no_grad()
def seen_inputs(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """What every KAN layer gets to see, in evaluation mode, when the network sees x."""
    seen: dict[str, Tensor] = {}
    handles = []
    for name, layer in kan_layers(net).items():

        def keep(_: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
            seen[name] = inputs[0].detach()

        handles.append(layer.register_forward_pre_hook(keep))
    training = net.training
    net.eval()
    try:
        net(x)
    finally:
        net.train(training)
        for handle in handles:
            handle.remove()
    return seen


@torch.no_grad()
def stack_of(net: nn.Module, x: Tensor) -> list[KANLinear]:
    """The KAN layers of a network that is nothing but a stack of `KANLinear`, in their order.

    Checked on inputs x `(N, C)`: the layers one after another must give the network's outputs.
    Raises `ValueError` otherwise; a normalisation between layers is the most frequent reason.
    """
    layers = list(kan_layers(net).values())
    check_finite(x)
    plain = [layer for layer in layers if isinstance(layer, KANLinear)]
    fits = len(plain) == len(layers) and all(
        first.out_features == second.in_features for first, second in pairwise(plain)
    )
    if fits and x.flatten(1).shape[1] == plain[0].in_features:
        training = net.training
        net.eval()
        expected = net(x)
        net.train(training)
        y = x.flatten(1)
        for layer in plain:
            y = layer(y)
        if y.shape == expected.shape and torch.allclose(y, expected, rtol=1e-4, atol=1e-5):
            return plain
    raise ValueError(
        "only a plain stack of KANLinear layers has a formula; this network has other parts too "
        "(for model=mlp: layers=kan model.norm=none)"
    )
