"""Budgets: the sizes with which a KAN costs what its twin does."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

MATCHES = ("params", "flops", "width", "none")
SCOPES = ("roles", "network")
MATCH_BY = ("size", "grid")
MAX_WIDTH = 2**16
CLOSE = 0.01  # relative mismatch with which the search ends
RANGE = (1 / 64, 8)  # of an inner size, relative to the twin's

Options = dict[str, Any]
CostOf = Callable[[Options], int]


@dataclass(frozen=True)
class Match:
    """Solved options, and how near they come: `ratio` is the KAN's cost over its twin's."""

    options: Options
    ratio: float


def match_budget(
    cost: CostOf,
    target: int,
    options: Options,
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

    def with_coarse(multiple: int) -> Options:
        return {**options, coarse: multiple * step}

    def coarse_cost(multiple: float) -> int:
        if multiple * step > MAX_WIDTH:
            raise ValueError(f"no {coarse} below {MAX_WIDTH} reaches the twin's budget of {target}")
        return cost(with_coarse(int(multiple)))

    high = _search(coarse_cost, target, max(1, options[coarse] // step), integer=True)
    near = [with_coarse(int(multiple)) for multiple in (high, high - 1) if multiple > 0]
    if fine is None:
        best = min(near, key=lambda o: error(cost(o)))
        return Match(best, cost(best) / target)
    near.sort(key=lambda o: error(cost(o)))
    near += [with_coarse(int(multiple)) for multiple in (high - 2, high + 1) if multiple > 0]
    best = near[0]
    for start in near:
        ends = (start[fine] / 4, start[fine] * 4)
        trimmed, *_ = _trim(cost, target, start, fine, ends)
        best = min((best, trimmed), key=lambda o: error(cost(o)))
        if error(cost(best)) < CLOSE:
            break
    return Match(best, cost(best) / target)


def match_inner(
    cost: CostOf,
    target: int,
    options: Options,
    sizes: dict[str, int | float],
    steps: dict[str, int],
    guess: CostOf | None = None,
) -> Match | None:
    """Options whose inner sizes, and nothing else, make their cost nearest to `target`.

    `sizes` are those of the twin: whole numbers, to be multiples of their `steps`, or one ratio.
    All are scaled alike, then each alone is tried at its best; of what is within 1 % the one with
    the most equal scales is taken. `guess` is a quick cost to search with. None if no sizes within
    a range reach the target, or if there are none.
    """
    if not sizes:
        return None
    if all(isinstance(size, float) for size in sizes.values()):
        ((name, ratio),) = sizes.items()
        ends = (ratio * RANGE[0], ratio * RANGE[1])
        best, least, most = _trim(cost, target, options, name, ends)
    else:
        search = _Inner(guess or cost, target, options, sizes, steps)
        best, least, most = search.best(), search.cost(search.ends[0]), search.cost(search.ends[1])
        if cost(best) != (guess or cost)(best):
            return match_inner(cost, target, options, sizes, steps)
    if least > target * (1 + CLOSE) or most < target / (1 + CLOSE):
        return None
    return Match(best, cost(best) / target)


class _Inner:
    """The search for whole inner sizes, as multiples of their steps."""

    def __init__(
        self,
        cost: CostOf,
        target: int,
        options: Options,
        sizes: dict[str, int | float],
        steps: dict[str, int],
    ) -> None:
        self.names = tuple(sizes)
        self.sizes, self.steps = tuple(sizes.values()), tuple(steps[name] for name in sizes)
        self.count, self.target, self.options = cost, target, options
        self.known: dict[tuple[int, ...], int] = {}
        self.ends = self.scaled(RANGE[0]), self.scaled(RANGE[1])

    def scaled(self, scale: float) -> tuple[int, ...]:
        """The twin's sizes times a scale, as multiples."""
        pairs = zip(self.sizes, self.steps, strict=True)
        return tuple(max(1, round(scale * size / step)) for size, step in pairs)

    def with_sizes(self, multiples: tuple[int, ...]) -> Options:
        values = [m * step for m, step in zip(multiples, self.steps, strict=True)]
        return {**self.options, **dict(zip(self.names, values, strict=True))}

    def cost(self, multiples: tuple[int, ...]) -> int:
        if multiples not in self.known:
            self.known[multiples] = self.count(self.with_sizes(multiples))
        return self.known[multiples]

    def best(self) -> Options:
        low: float = RANGE[0]
        high: float = RANGE[1]
        while self.scaled(low) != self.scaled(high) and high / low > 1 + 1e-4:
            middle = math.sqrt(low * high)
            if self.cost(self.scaled(middle)) < self.target:
                low = middle
            else:
                high = middle
        candidates = set()
        for base in {self.scaled(low), self.scaled(high)}:
            for index in range(len(base)):
                shifts = [(0,) if i == index else (-1, 0, 1) for i in range(len(base))]
                for shift in product(*shifts):
                    start = tuple(max(1, b + s) for b, s in zip(base, shift, strict=True))
                    candidates |= self.alone(start, index)
        return self.with_sizes(min(candidates, key=self.rank))

    def alone(self, base: tuple[int, ...], index: int) -> set[tuple[int, ...]]:
        """The two neighbouring values of one size between which the cost reaches the target."""

        def moved(multiple: int) -> tuple[int, ...]:
            return (*base[:index], multiple, *base[index + 1 :])

        low, high = self.ends[0][index], self.ends[1][index]
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.cost(moved(middle)) < self.target else (low, middle)
        return {moved(low), moved(high)}

    def rank(self, multiples: tuple[int, ...]) -> tuple[float, ...]:
        error = abs(math.log(self.cost(multiples) / self.target))
        parts = zip(multiples, self.steps, self.sizes, strict=True)
        scales = [math.log(m * step / size) for m, step, size in parts]
        return (error // CLOSE, max(scales) - min(scales), error)


def _trim(
    cost: CostOf, target: int, options: Options, fine: str, ends: tuple[float, float]
) -> tuple[Options, int, int]:
    """Search the fine option: the best of all that were tried, since cost is a staircase in it.

    Returns the least and the highest cost of them too.
    """
    tried = {cost(options): options}

    def fine_cost(value: float) -> int:
        trial = {**options, fine: round(value, 4)}
        try:
            reached = cost(trial)
        except ValueError:  # so small that a layer has no features left
            return 0
        tried.setdefault(reached, trial)
        return reached

    _search(fine_cost, target, options[fine], ends=ends)
    best = min(tried, key=lambda reached: abs(math.log(reached / target)))
    return tried[best], min(tried), max(tried)


def _search(
    cost: Callable[[float], int],
    target: int,
    start: float,
    *,
    integer: bool = False,
    ends: tuple[float, float] = (0, math.inf),
) -> float:
    """The least value, a whole one or to four decimals, of which the rising cost reaches `target`.

    Costs are nearly powers: the next value to try lies on a line through the logarithms of those
    next to the target, and in the middle where that leaves one of the two for a second time.
    """
    (low, high), low_cost, high_cost = ends, 0, 0
    value, moved = start, 0
    unit = 1.0 if integer else 1e-4
    for _ in range(64):
        reached = cost(value)
        if not integer and reached and abs(math.log(reached / target)) < CLOSE / 10:
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
        value = round(value) if integer else round(value, 4)
        value = min(max(value, low + unit), high - unit)
    return high
