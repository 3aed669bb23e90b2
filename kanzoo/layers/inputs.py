"""What the layers of a network get to see."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

MOST_NUMBERS = 2**22  # of the inputs that are kept of a layer which is called many times


@torch.no_grad()
def layer_inputs(net: nn.Module, x: Tensor, layers: Iterable[nn.Module]) -> dict[nn.Module, Tensor]:
    """What every layer gets to see when the network sees x, in all its calls: as one batch.

    The network runs in evaluation mode, which needs no random numbers; layers that are not called
    are left out.
    """
    seen: dict[nn.Module, _Calls] = {}

    def keep(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.setdefault(layer, _Calls()).add(inputs[0].detach())

    handles = [layer.register_forward_pre_hook(keep) for layer in layers]
    try:
        with evaluating(net):
            net(x)
    finally:
        for handle in handles:
            handle.remove()
    return {layer: calls.joined() for layer, calls in seen.items()}


def outside_shares(net: nn.Module, x: Tensor) -> dict[str, float]:
    """The share of inputs outside the grid of every layer that has one, when a network sees x."""
    layers = {m: name for name, m in net.named_modules() if getattr(m, "has_grid", False)}
    seen = layer_inputs(net, x, layers) if layers else {}
    return {layers[layer]: layer.outside_share(inputs) for layer, inputs in seen.items()}  # type: ignore[operator]


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; every module then returns to the mode that it had."""
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


class _Calls:
    """The inputs of a layer that is called once, or at every step of a sequence.

    Where they are many, every second, fourth, .. sample of every call is kept, and at last every
    second, fourth, .. call. A call whose samples have another shape is left out.
    """

    def __init__(self) -> None:
        self.inputs: list[Tensor] = []
        self.numbers = 0
        self.count = 0
        self.sample_step = 1  # every so manyth sample of a call is kept
        self.call_step = 1  # and of every so manyth call

    def add(self, x: Tensor) -> None:
        first = self.inputs[0] if self.inputs else x
        if x.shape[1:] != first.shape[1:]:
            return
        self.count += 1
        if (self.count - 1) % self.call_step:
            return
        self.inputs.append(x[:: self.sample_step])
        self.numbers += self.inputs[-1].numel()
        while self.numbers > MOST_NUMBERS and len(self.inputs) > 1:
            if len(first) > 1:
                self.sample_step *= 2
                self.inputs = [part[::2].clone() for part in self.inputs]
            else:
                self.call_step *= 2
                self.inputs = self.inputs[::2]
            first = self.inputs[0]
            self.numbers = sum(part.numel() for part in self.inputs)

    def joined(self) -> Tensor:
        """All as one batch; a single call as it is."""
        return self.inputs[0] if len(self.inputs) == 1 else torch.cat(self.inputs)
