"""Budgets: parameters and FLOPs of a network, and the size of a KAN that equals its twin's."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kanzoo.layers.expansion import Expansion
from kanzoo.layers.kan import KANLinear
from kanzoo.layers.recurrent import Recurrent

MATCHES = ("params", "flops", "none")
MAX_WIDTH = 2**16
CLOSE = 0.01  # relative mismatch with which the search ends


def count_flops(net: nn.Module, in_shape: tuple[int, ...]) -> int:
    """Forward FLOPs of one sample, counted on a meta copy: nothing is computed.

    Products and convolutions as PyTorch counts them (a multiplication and an addition are two), and
    every basis once per input value. Normalisation, softmax and additions are left out: they are
    the same in both twins.
    """
    return count_and_spoil(copy.deepcopy(net).to("meta"), in_shape)


def count_and_spoil(net: nn.Module, in_shape: tuple[int, ...]) -> int:
    """`count_flops` of a network on the meta device that is of no use afterwards."""
    counted = _put_stand_ins(net.eval())
    dtype = torch.int64 if getattr(net, "takes_tokens", False) else torch.get_default_dtype()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(torch.empty((1, *in_shape), dtype=dtype, device="meta"))
    return int(counter.get_total_flops()) + sum(module.total for module in counted)


class _Counted(nn.Module):
    """Stands for a module on the meta device: the shape of its output, and what all calls cost."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.total = 0


class _CountedExpansion(_Counted):
    def __init__(self, module: Expansion) -> None:
        super().__init__(module)
        self.num_functions = module.num_functions
        self.zero_at_zero, self.keeps_zero = module.zero_at_zero, module.keeps_zero
        self.flops = module.flops

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.total += x.numel() * self.flops
        return x.new_empty((self.num_functions, *x.shape))


class _CountedLinear(_Counted):
    def __init__(self, module: KANLinear) -> None:
        super().__init__(module)
        products = 2 * module.expansion.num_functions * module.out_features
        self.flops = module.expansion.flops + products
        self.out_features = module.out_features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.total += x.numel() * self.flops
        return x.new_empty((*x.shape[:-1], self.out_features))


class _CountedRecurrent(_Counted):
    """Counts the layer on the state for all steps at once: a loop would take seconds."""

    def __init__(self, module: Recurrent) -> None:
        super().__init__(module)
        self.input, self.hidden = module.input, module.hidden
        self.width = module.width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.input(x)
        states = x.new_empty((*x.shape[:-1], self.width))
        self.hidden(states)
        return states


class _Free(_Counted):
    """Stands for what is not counted: PyTorch's own takes long on the meta device."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def _put_stand_ins(net: nn.Module) -> list[_Counted]:
    """Replace the parts of a network that have a stand-in; returns those."""
    counted = []
    for name, child in net.named_children():
        for cls, stand_in in STAND_INS.items():
            if isinstance(child, cls):
                child = stand_in(child)
                counted.append(child)
                setattr(net, name, child)
                break
        counted += _put_stand_ins(child)
    return counted


STAND_INS: dict[type[nn.Module], type[_Counted]] = {
    Recurrent: _CountedRecurrent,
    KANLinear: _CountedLinear,
    Expansion: _CountedExpansion,
    nn.LayerNorm: _Free,
    nn.GroupNorm: _Free,
    nn.modules.batchnorm._BatchNorm: _Free,
}


@dataclass(frozen=True)
class Match:
    """Solved options, and how near they come: `ratio` is the KAN's cost over its twin's."""

    options: dict[str, Any]
    ratio: float


def match_budget(
    cost: Callable[[dict[str, Any]], int],
    target: int,
    options: dict[str, Any],
    *,
    coarse: str,
    step: int = 1,
    fine: str | None = None,
) -> Match:
    """Options whose cost is nearest to `target`.

    The coarse option is solved first, a multiple of `step`, all else as given; then the fine one
    trims between a quarter and four times its value. Where its steps are too coarse, neighbouring
    multiples are trimmed too. Cost must rise with both.
    """

    def error(value: int) -> float:
        return abs(math.log(value / target))

    def with_coarse(multiple: int) -> dict[str, Any]:
        return {**options, coarse: multiple * step}

    def coarse_cost(multiple: float) -> int:
        if multiple * step > MAX_WIDTH:
            raise ValueError(f"no {coarse} below {MAX_WIDTH} reaches the twin's budget of {target}")
        return cost(with_coarse(int(multiple)))

    high = _search(coarse_cost, target, max(1, options[coarse] // step), whole=True)
    near = [with_coarse(int(multiple)) for multiple in (high, high - 1) if multiple > 0]
    if fine is None:
        best = min(near, key=lambda o: error(cost(o)))
        return Match(best, cost(best) / target)
    near.sort(key=lambda o: error(cost(o)))
    near += [with_coarse(int(multiple)) for multiple in (high - 2, high + 1) if multiple > 0]
    best = near[0]
    for start in near:
        best = min((best, _trim(cost, target, start, fine)), key=lambda o: error(cost(o)))
        if error(cost(best)) < CLOSE:
            break
    return Match(best, cost(best) / target)


def _trim(
    cost: Callable[[dict[str, Any]], int], target: int, options: dict[str, Any], fine: str
) -> dict[str, Any]:
    """Search the fine option; the best of all that were tried, since cost is a staircase in it."""
    tried = [options]

    def fine_cost(value: float) -> int:
        trial = {**options, fine: round(value, 4)}
        try:
            found = cost(trial)
        except ValueError:  # so small that a layer has no features left
            return 0
        tried.append(trial)
        return found

    _search(fine_cost, target, options[fine], ends=(options[fine] / 4, options[fine] * 4))
    return min(tried, key=lambda o: abs(math.log(cost(o) / target)))


def _search(
    cost: Callable[[float], int],
    target: int,
    start: float,
    *,
    whole: bool = False,
    ends: tuple[float, float] = (0, math.inf),
) -> float:
    """The least value, a whole one or to four decimals, of which the rising cost reaches `target`.

    Costs are nearly powers: the next value to try lies on a line through the logarithms of those
    next to the target, and in the middle where that leaves one of the two for a second time.
    """
    (low, high), low_cost, high_cost = ends, 0, 0
    value, moved = start, 0
    unit = 1.0 if whole else 1e-4
    for _ in range(64):
        reached = cost(value)
        if not whole and reached and abs(math.log(reached / target)) < CLOSE / 10:
            return value
        stuck = moved == (side := 1 if reached < target else -1)
        moved = side
        if reached < target:
            low, low_cost = value, reached
        else:
            high, high_cost = value, reached
        if high - low <= unit * 1.5:
            break
        if not low_cost or not high_cost:  # on one side of all that is known: a square, and more
            further = 1.1 if reached < target else 1 / 1.1
            value *= further * math.sqrt(target / reached) if reached else 2
        elif stuck or low_cost == high_cost:
            value = math.sqrt(low * high)
        else:
            share = math.log(target / low_cost) / math.log(high_cost / low_cost)
            value = low * (high / low) ** share
        value = round(value) if whole else round(value, 4)
        value = min(max(value, low + unit), high - unit)
    return high
