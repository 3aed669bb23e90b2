"""Parameters and FLOPs of networks, counted without computing anything."""

import copy
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kanzoo.layers import KANLinear
from kanzoo.layers.attention import Attention
from kanzoo.layers.conv import ConvLayer
from kanzoo.layers.expansion import Expansion
from kanzoo.layers.parameters import count_params
from kanzoo.layers.recurrent import Recurrent


class Cost(NamedTuple):
    """Trainable parameters, and forward FLOPs of one sample.

    `flops_sparse` leaves out the products with functions that are zero at any one input, of
    B-splines of order k all but k + 1.
    """

    params: int
    flops: int
    flops_sparse: int


def count_cost(net: nn.Module, in_shape: tuple[int, ...]) -> Cost:
    """The cost of a network, counted on a meta copy.

    Products and convolutions as PyTorch counts them (a multiplication and an addition are two), and
    every basis once per input value. Normalisation, softmax and additions are left out: they are
    the same in both twins.
    """
    network = nn.Sequential(copy.deepcopy(net).to("meta"))
    insert_stand_ins(network, STAND_INS)
    dense, sparse, _ = run_stand_ins(network, in_shape)
    return Cost(count_params(net), dense, sparse)


def count_flops(net: nn.Module, in_shape: tuple[int, ...]) -> int:
    """Forward FLOPs of one sample, all functions counted."""
    return count_cost(net, in_shape).flops


def run_stand_ins(
    net: nn.Module, in_shape: tuple[int, ...], *, ask_torch: bool = True
) -> tuple[int, int, int]:
    """FLOPs of a network of stand-ins for one sample, dense and sparse, and PyTorch's share.

    That is counted only if it is asked for, which takes long.
    """
    tokens = any(getattr(module, "takes_tokens", False) for module in net.modules())
    x = torch.empty((1, *in_shape), dtype=torch.int64 if tokens else None, device="meta")
    counted = [m for m in net.modules() if isinstance(m, Counted)]
    for module in counted:
        module.calls = []
    counter = FlopCounterMode(display=False) if ask_torch else nullcontext()
    with torch.no_grad(), counter:
        net.eval()(x)
    seen = counter.get_total_flops() if isinstance(counter, FlopCounterMode) else 0
    costs = [module.cost(call) for module in counted for call in module.calls]
    return seen + sum(d for d, _ in costs), seen + sum(s for _, s in costs), seen


def insert_stand_ins(net: nn.Module, stand_ins: "dict[type[nn.Module], type[Counted]]") -> None:
    """Replace what has a stand-in."""
    for name, child in net.named_children():
        for cls, stand_in in stand_ins.items():
            if isinstance(child, cls):
                child = stand_in(child)
                setattr(net, name, child)
                break
        if not isinstance(child, CountedConv):
            insert_stand_ins(child, stand_ins)


class Counted(nn.Module):
    """Stands for a module on the meta device: the shape of its output, and what its calls cost.

    `calls` are the sizes on which the cost of every call depends.
    """

    calls: list[tuple[int, ...]]

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.__dict__["calls"] = []  # plans make many of these, and `__setattr__` is slow

    def cost(self, call: tuple[int, ...]) -> tuple[int, int]:
        """FLOPs of a call that PyTorch does not see, and the same without products with zeros."""
        return 0, 0


def num_zeros(expansion: Expansion) -> int:
    """How many functions are zero at any one input."""
    return expansion.basis.num_functions - expansion.basis.num_nonzero


class _CountedExpansion(Counted):
    def __init__(self, module: Expansion) -> None:
        super().__init__(module)
        self.num_functions = module.num_functions
        self.zero_at_zero, self.keeps_zero = module.zero_at_zero, module.keeps_zero
        self.each = module.flops

    def cost(self, call: tuple[int, ...]) -> tuple[int, int]:
        return (call[0] * self.each,) * 2

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append((x.numel(),))
        return x.new_empty((self.num_functions, *x.shape))


class _CountedLinear(Counted):
    def __init__(self, module: KANLinear) -> None:
        super().__init__(module)
        expansion, self.out_features = module.expansion, module.out_features
        self.each = expansion.flops + 2 * expansion.num_functions * module.out_features
        self.unused = 2 * num_zeros(expansion) * module.out_features

    def cost(self, call: tuple[int, ...]) -> tuple[int, int]:
        return call[0] * self.each, call[0] * (self.each - self.unused)

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append((x.numel(),))
        return x.new_empty((*x.shape[:-1], self.out_features))


class CountedConv(Counted):
    """The layer itself, with a stand-in for its expansion: PyTorch counts the products."""

    def __init__(self, module: ConvLayer) -> None:
        super().__init__(module)
        self.share = num_zeros(module.expansion) / module.expansion.num_functions
        module.expansion = _CountedExpansion(module.expansion)  # type: ignore[assignment]
        module.backend = "dense"  # one convolution, which PyTorch sees
        self.layer = module

    def cost(self, call: tuple[int, ...]) -> tuple[int, int]:
        return 0, -round(call[0] * self.share)

    def forward(self, x: Tensor) -> Tensor:
        with FlopCounterMode(display=False) as counter:
            y: Tensor = self.layer(x)
        self.calls.append((counter.get_total_flops(),))
        return y


class CountedRecurrent(Counted):
    """Counts the layer on the state for all steps at once: a loop would take seconds."""

    def __init__(self, module: Recurrent) -> None:
        super().__init__(module)
        self.input, self.hidden = module.input, module.hidden
        self.width = module.width

    def forward(self, x: Tensor) -> Tensor:
        self.input(x)
        states = x.new_empty((*x.shape[:-1], self.width))
        self.hidden(states)
        return states


class CountedAttention(Counted):
    """The layers of `Attention`, and its two products of tokens with tokens."""

    def __init__(self, module: Attention) -> None:
        super().__init__(module)
        self.qkv, self.out, self.inner = module.qkv, module.out, module.inner

    def cost(self, call: tuple[int, ...]) -> tuple[int, int]:
        return (4 * call[0] * call[1] ** 2 * self.inner,) * 2

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append(tuple(x.shape[:2]))
        self.qkv(x)
        return self.out(x.new_empty((*x.shape[:2], self.inner)))  # type: ignore[no-any-return]


class Free(Counted):
    """Stands for what is not counted: PyTorch's own takes long on the meta device."""

    def forward(self, x: Tensor) -> Tensor:
        return x


NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
STAND_INS: dict[type[nn.Module], type[Counted]] = {
    Recurrent: CountedRecurrent,
    Attention: CountedAttention,
    KANLinear: _CountedLinear,
    ConvLayer: CountedConv,
    Expansion: _CountedExpansion,
    **dict.fromkeys(NORMS, Free),
}
