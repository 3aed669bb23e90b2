"""Other packages' KAN layers, where they are installed (extra `peers`).

`fkan` is left out: it has trainable activations per layer, no layer with a function per edge.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

from torch import Tensor, nn

MAX_PYKAN_EDGES = 60_000  # beyond, one step of pykan takes seconds and gigabytes


@dataclass(frozen=True)
class Peer:
    """A package whose linear layer of a size `make` builds; None where that cannot be measured."""

    name: str
    basis: str
    module: str
    make: Callable[[int, int, int], nn.Module | None]

    def build(self, inputs: int, outputs: int, grid_size: int, conv: bool) -> nn.Module | None:
        return None if conv else self.make(inputs, outputs, grid_size)


class _FirstOutput(nn.Module):
    """A layer that returns its output and more, reduced to the output."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


def _inkan(inputs: int, outputs: int, grid_size: int) -> nn.Module:
    return importlib.import_module("inkan").KANLayer(
        inputs, outputs, grid_size, grid_range=(-3.0, 3.0)
    )


def _flashkan(inputs: int, outputs: int, grid_size: int) -> nn.Module:
    return importlib.import_module("flashkan").KANLayer(
        inputs, outputs, grid_size, grid_range=(-3.0, 3.0)
    )


def _pykan(inputs: int, outputs: int, grid_size: int) -> nn.Module | None:
    if inputs * outputs > MAX_PYKAN_EDGES:
        return None
    layer = importlib.import_module("kan.KANLayer").KANLayer
    return _FirstOutput(layer(inputs, outputs, grid_size, grid_range=[-3, 3], save_plot_data=False))


PEERS = (
    Peer("inkan", "bspline", "inkan", _inkan),
    Peer("flashkan", "bspline", "flashkan", _flashkan),
    Peer("pykan", "bspline", "kan", _pykan),
)


def installed() -> list[Peer]:
    """The peers that can be imported here."""
    return [peer for peer in PEERS if find_spec(peer.module) is not None]
