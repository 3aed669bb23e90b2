"""Recurrent layers whose gates come from the layer factory.

Axes: T steps, first, so that a step is contiguous; B batch, H width, G gates.

All gates of all steps are one layer on the inputs, computed at once, plus one layer on the state of
the step before. Made of ordinary layers these are the cells of `torch.nn`.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from kanzoo.checks import check_name
from kanzoo.layers.factory import LayerFactory


class Recurrent(nn.Module, ABC):
    """What recurrent layers share: the loop over time. Roles: `recurrent`.

    Shapes: `(T, B, in_features) -> (T, B, width)`. States start at zero and stay within [-1, 1].
    """

    gates: ClassVar[int] = 1
    states: ClassVar[int] = 1
    hidden_bias: ClassVar[bool] = False

    def __init__(self, in_features: int, width: int, layers: LayerFactory) -> None:
        super().__init__()
        self.width = width
        total = self.gates * width
        self.input = layers.linear("recurrent", in_features, total, activate=False)
        self.hidden = layers.linear(
            "recurrent", width, total, activate=False, bias=self.hidden_bias
        )
        self.init_bias()

    def init_bias(self) -> None:
        """Biases that start at other values than zero."""

    @abstractmethod
    def step(self, part: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """The next state, its output first, from the input part `(B, G H)` of the gates."""

    def forward(self, x: Tensor) -> Tensor:
        parts = self.input(x)
        zero = parts.new_zeros(x.shape[1], self.width)
        state: tuple[Tensor, ...] = (zero,) * self.states
        outputs = []
        for part in parts.unbind(0):
            state = self.step(part, *state)
            outputs.append(state[0])
        return torch.stack(outputs)


class Elman(Recurrent):
    """h' = tanh(f(x) + g(h)) (Elman, 1990)."""

    def step(self, part: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        (h,) = state
        return (torch.tanh(part + self.hidden(h)),)


class GRU(Recurrent):
    """Gated recurrent unit (1406.1078), the reset after the product as in `torch.nn.GRU`.

    r, z = sigmoid(f_rz(x) + g_rz(h)), n = tanh(f_n(x) + r g_n(h)), h' = n + z (h - n).
    """

    gates = 3
    hidden_bias = True  # inside of what is reset

    def step(self, part: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        (h,) = state
        sizes = (2 * self.width, self.width)
        part, part_n = part.split(sizes, -1)
        hidden, hidden_n = self.hidden(h).split(sizes, -1)
        r, z = torch.sigmoid(part + hidden).chunk(2, -1)
        n = torch.tanh(torch.addcmul(part_n, r, hidden_n))
        return (torch.lerp(n, h, z),)


class LSTM(Recurrent):
    """Long short-term memory with forget gates (Gers et al., 2000).

    i, f, o = sigmoid, g = tanh of f(x) + g(h); c' = f c + i g, h' = o tanh(c'). The bias of the
    forget gate starts at 1, so that gradients reach far back (Jozefowicz et al., 2015).
    """

    gates = 4
    states = 2

    @torch.no_grad()
    def init_bias(self) -> None:
        assert self.input.bias is not None
        nn.init.ones_(self.input.bias[self.width : 2 * self.width])

    def step(self, part: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        h, c = state
        gates = part + self.hidden(h)
        gates, g = gates.split((3 * self.width, self.width), -1)
        i, f, o = torch.sigmoid(gates).chunk(3, -1)
        c = torch.addcmul(f * c, i, torch.tanh(g))
        return o * torch.tanh(c), c


CELLS: dict[str, type[Recurrent]] = {"elman": Elman, "gru": GRU, "lstm": LSTM}


def find_cell(name: str) -> type[Recurrent]:
    """The recurrent layer of that name."""
    check_name("cell", name, CELLS)
    return CELLS[name]
