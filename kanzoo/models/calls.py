"""What networks of an architecture cost, without running each of them."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from kanzoo.layers.attention import Attention
from kanzoo.layers.factory import LayerFactory
from kanzoo.layers.recurrent import Recurrent
from kanzoo.models.base import Architecture
from kanzoo.models.budget import Options
from kanzoo.models.cost import (
    NORMS,
    Cost,
    Counted,
    CountedAttention,
    CountedRecurrent,
    Free,
    insert_stand_ins,
    run_stand_ins,
)
from kanzoo.models.memory import counting
from kanzoo.models.planned import PlannedLayer, PlannedNorm, counting_layers
from kanzoo.models.quadratic import Quadratic

STAND_INS: dict[type[nn.Module], type[Counted]] = {
    Recurrent: CountedRecurrent,
    Attention: CountedAttention,
    **dict.fromkeys(NORMS, Free),
}


class Calls:
    """Which layers of a kind of network are called on how many positions.

    That depends on the structure of a network and on its inputs, and hardly ever on the numbers of
    features. What a number of features is free of is learned: networks in which it differs, and the
    calls do not. Between those nothing needs to be run.
    """

    def __init__(self) -> None:
        self.sizes: dict[str, Any] | None = None
        self.calls: list[list[tuple[int, ...]]] = []
        self.free: set[str] = set()
        self.is_complete = False  # nothing costs but layers that are counted here

    def flops(self, net: nn.Module, in_shape: tuple[int, ...], sizes: dict[str, Any]) -> list[int]:
        """Dense and sparse FLOPs of a network of the kind with some sizes."""
        insert_stand_ins(net, STAND_INS)
        counted = [module for module in net.modules() if isinstance(module, Counted)]
        differ = set()
        if self.sizes is not None:
            differ = {name for name, value in sizes.items() if self.sizes[name] != value}
        if self.is_complete and differ <= self.free:
            costs = [
                m.cost(call) for m, calls in zip(counted, self.calls, strict=True) for call in calls
            ]
            return [sum(column) for column in zip(*costs, strict=True)]
        run_stand_ins(net, in_shape)  # so that PyTorch does not count new small layers
        dense, sparse, seen = run_stand_ins(net, in_shape, ask_torch=not self.is_complete)
        calls = [module.calls for module in counted]
        if self.sizes is None:
            self.sizes, self.calls, self.is_complete = sizes, calls, seen == 0
        elif calls == self.calls:
            self.free |= differ
        return [dense, sparse]


def count_planned(
    net: nn.Module,
    in_shape: tuple[int, ...],
    calls: Calls,
    sizes: dict[str, Any],
) -> Cost:
    """The cost of a network that was built of `CountingLayers`, which is of no use afterwards."""
    params, others = 0, set()
    for module in net.modules():
        if isinstance(module, PlannedLayer | PlannedNorm):
            params += module.params
        else:
            others |= {p for p in module._parameters.values() if p is not None and p.requires_grad}
    params += sum(p.numel() for p in others)
    return Cost(params, *calls.flops(net, in_shape, sizes))


@dataclass(frozen=True)
class Shape:
    """An architecture and what decides its sizes from outside."""

    cls: type[Architecture]
    in_shape: tuple[int, ...]
    num_outputs: int

    def cost(self, layers: LayerFactory, options: Options) -> Cost:
        """Everything that a network costs; its layers are not built."""
        return _count(self, layers, _items(options))

    def one_cost(self, counted: str, layers: LayerFactory, options: Options) -> int:
        """The number that is made equal, "params" or "flops"."""
        cost = self.cost(layers, options)
        return cost.flops if counted == "flops" else cost.params

    def quick(
        self, counted: str, layers: LayerFactory, options: Options, inner: Options
    ) -> Quadratic | None:
        """Costs by a polynomial in the coarse option and the inner sizes, where they are whole."""
        if not self.cls.coarse or any(isinstance(size, float) for size in inner.values()):
            return None
        names = tuple({self.cls.coarse: 0, **inner})
        rest = {name: value for name, value in options.items() if name not in names}
        steps = tuple(self.cls.step_of(name, options) for name in names)
        return _quadratic(self, counted, layers, names, steps, _items(rest))


def _items(options: Options) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted((name, _hashable(value)) for name, value in options.items()))


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


@cache
def _count(shape: Shape, layers: LayerFactory, options: tuple[tuple[str, Any], ...]) -> Cost:
    with torch.random.fork_rng(devices=[]), torch.device("meta"), counting(dict(options)):
        counted = counting_layers(layers)
        net = shape.cls(shape.in_shape, shape.num_outputs, counted, **dict(options))
        sizes = {name: value for name, value in options if _is_size(shape.cls, name)}
        rest = tuple(option for option in options if option[0] not in sizes)
        calls = _calls(shape, rest)
        return count_planned(net, shape.in_shape, calls, sizes)


def _is_size(cls: type[Architecture], option: str) -> bool:
    return option in (cls.coarse, cls.fine) or option.endswith(("_width", "_ratio"))


@cache
def _calls(shape: Shape, structure: tuple[tuple[str, Any], ...]) -> Calls:
    return Calls()


@cache
def _quadratic(
    shape: Shape,
    counted: str,
    layers: LayerFactory,
    names: tuple[str, ...],
    steps: tuple[int, ...],
    rest: tuple[tuple[str, Any], ...],
) -> Quadratic:
    def cost(sizes: Options) -> int:
        return shape.one_cost(counted, layers, {**dict(rest), **sizes})

    return Quadratic(cost, names, steps)
