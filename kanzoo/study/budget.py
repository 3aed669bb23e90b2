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


def count_params(net: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


def count_flops(net: nn.Module, in_shape: tuple[int, ...]) -> int:
    """Forward FLOPs of one sample, counted on a meta copy: nothing is computed.

    Products and convolutions as PyTorch counts them (a multiplication and an addition are two), and
    every basis once per input value. Normalisation, softmax and additions are left out: they are
    the same in both twins.
    """
    net = copy.deepcopy(net).to("meta").eval()
    counted = _put_stand_ins(net)
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
        self.zero_at_zero = module.zero_at_zero
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

    low, high = 1, 2
    while cost(with_coarse(high)) < target:
        if high * step > MAX_WIDTH:
            raise ValueError(f"no {coarse} below {MAX_WIDTH} reaches the twin's budget of {target}")
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost(with_coarse(middle)) < target else (low, middle)
    near = [with_coarse(multiple) for multiple in range(max(1, low - 1), high + 2)]
    near.sort(key=lambda o: error(cost(o)))
    best = near[0]
    for start in near:
        if fine is None:
            break
        best = min((best, _trim(cost, target, start, fine)), key=lambda o: error(cost(o)))
        if error(cost(best)) < CLOSE:
            break
    return Match(best, cost(best) / target)


def _trim(
    cost: Callable[[dict[str, Any]], int], target: int, options: dict[str, Any], fine: str
) -> dict[str, Any]:
    """Bisect the fine option; the best of all that were tried, since cost is a staircase in it."""
    low, high = options[fine] / 4, options[fine] * 4
    best, best_cost = options, cost(options)
    for _ in range(14):
        middle = round(math.sqrt(low * high), 4)
        trial = {**options, fine: middle}
        try:
            trial_cost = cost(trial)
        except ValueError:  # so small that a layer has no features left
            low = middle
            continue
        if abs(math.log(trial_cost / target)) < abs(math.log(best_cost / target)):
            best, best_cost = trial, trial_cost
        low, high = (middle, high) if trial_cost < target else (low, middle)
    return best
