"""Planned looks at a growing study, and what each may spend of the level.

A study that is looked at after 5, 10 and 20 seeds has three chances of a false verdict. The level
is therefore spent over the looks (Lan and DeMets 1983) by the function of O'Brien and Fleming's
type, on each side 2 - 2 Phi(z / sqrt(t)) at the share t of the seeds: little at first, nearly all
at the end. The share is that of the seeds that there are, which failed runs may have made fewer
than were planned; the last look spends what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import optimize, stats

from kanzoo.study.inference import Array

NODES = 120  # of the integration over where a study may stand
_LEVELS = np.concatenate([np.geomspace(1e-12, 0.5, 60), np.linspace(0.52, 0.999, 15)])


@dataclass(frozen=True)
class Looks:
    """The numbers of seeds at which verdicts are planned, and the number that has ended now.

    counts: the pairs that there were at each look so far, where they are not those planned.
    """

    planned: tuple[int, ...]
    seeds: int
    counts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_looks(self.planned, self.seeds)

    @property
    def number(self) -> int:
        """Which of the looks this is, from 1; 0 before the first."""
        return sum(self.seeds >= planned for planned in self.planned)

    @property
    def next(self) -> int | None:
        """The seeds of the next look, None after the last."""
        return next((planned for planned in self.planned if planned > self.seeds), None)

    def two_sided(self, p: Array) -> Array:
        """The least level of the whole procedure at which this look rejects, given its p-values."""
        if self.number == 0 or len(self.planned) == 1:
            return p
        nominal = self._table()
        logs = np.interp(np.log(np.clip(p, 1e-300, 1.0)), np.log(nominal), np.log(_LEVELS))
        return np.where(p >= nominal[-1], np.maximum(p, _LEVELS[-1]), np.exp(logs))

    def nominal(self, level: float) -> float:
        """The level of this look alone where the whole procedure has `level`."""
        if self.number == 0 or len(self.planned) == 1:
            return level
        return float(np.exp(np.interp(np.log(level), np.log(_LEVELS), np.log(self._table()))))

    def _table(self) -> Array:
        counts = self.counts or self.planned[: self.number]
        is_last = self.number == len(self.planned)
        # Of looks at the same pairs the last one says all, and one at no pairs says nothing.
        each = tuple(sorted({n / self.planned[-1] for n in counts if n > 0})) or (1.0,)
        return _nominal_table(each, is_last)

    def one_sided(self, p: Array) -> Array:
        """The same for one-sided tests: half of what two sides would spend of twice the level."""
        return np.minimum(1.0, self.two_sided(np.minimum(1.0, 2 * p)) / 2)


def check_looks(planned: Sequence[int], seeds: int) -> None:
    """Raise a `ValueError` of one line for looks that cannot be, or seeds between two of them."""
    if not planned or any(isinstance(n, bool) or not isinstance(n, int) or n < 2 for n in planned):
        raise ValueError(f"study.looks must list numbers of seeds from 2, got {list(planned)}")
    if list(planned) != sorted(set(planned)):
        raise ValueError(f"study.looks must increase, got {list(planned)}")
    if seeds > planned[0] and seeds not in planned:
        raise ValueError(
            f"study.seeds must be one of the planned looks {', '.join(map(str, planned))}, or "
            f"fewer than the first, got {seeds}; study.looks plans others, before any run"
        )


def spent(level: float, share: float) -> float:
    """How much of a two-sided level may be spent up to a share of the seeds, half on each side."""
    return float(4 * stats.norm.sf(stats.norm.isf(level / 4) / np.sqrt(share)))


def nominal_levels(level: float, shares: Sequence[float], is_last: bool = True) -> Array:
    """The two-sided nominal level of every look, so that all together reject with `level`.

    shares: of the planned seeds, at each look so far. If the last of these `is_last`, it spends
    what is left of the level, whatever its share.
    Under the null the sum of differences is a Brownian motion at the shares: its density inside
    the bounds is carried from look to look (Armitage, McPherson and Rowe 1969).
    """
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    until = [spent(level, share) for share in shares]
    budget = np.diff([0.0, *until[:-1], level if is_last else until[-1]])
    where, density = np.zeros(1), np.ones(1)  # points of the sum, and their probabilities
    before, levels = 0.0, []
    for share, allowed in zip(shares, budget, strict=True):
        step = np.sqrt(share - before)
        bound = _bound(where, density, step, max(allowed, 1e-15))
        levels.append(2 * stats.norm.sf(bound / np.sqrt(share)))
        points = bound * nodes
        kernel = stats.norm.pdf((points[:, None] - where) / step) / step
        density = (kernel @ density) * weights * bound
        where, before = points, share
    return np.asarray(levels)


def _bound(where: Array, density: Array, step: float, allowed: float) -> float:
    def excess(bound: float) -> float:
        upper = stats.norm.sf((bound - where) / step) @ density
        lower = stats.norm.cdf((-bound - where) / step) @ density
        return float(np.log(max(upper + lower, 1e-300)) - np.log(allowed))

    high = float(np.abs(where).max() + 40 * step)
    return float(optimize.brentq(excess, 0.0, high)) if excess(0.0) > 0 else 0.0


@cache
def _nominal_table(shares: tuple[float, ...], is_last: bool) -> Array:
    """Nominal levels of the last of these looks for the levels of `_LEVELS`, increasing."""
    nominal = [nominal_levels(float(level), shares, is_last)[-1] for level in _LEVELS]
    return np.maximum.accumulate(np.maximum(nominal, 1e-290))
