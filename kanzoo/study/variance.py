"""How sure a mean difference is: its standard error from seeds, splits and test items.

Differences are (n,), one a seed, or a table (n, m) of seeds by test items. Which estimate fits
depends on where the test sets of the seeds come from; formulas and sources: `docs/statistics.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kanzoo.study.inference import Array

BLOCKS = 50  # stretches of a test set whose neighbours depend on each other


@dataclass(frozen=True)
class Estimate:
    """A mean difference, its standard error and degrees of freedom, and what these stand on."""

    mean: float
    se: float
    df: float
    method: str


def over_seeds(d: Array) -> Estimate:
    """Seeds alone: the paired t-test."""
    d = _without_rounding(d)
    return Estimate(float(d.mean()), float(d.std(ddof=1) / np.sqrt(len(d))), len(d) - 1.0, "seeds")


def over_splits(d: Array, num_train: float, num_test: float) -> Estimate:
    """Random splits of one sample: their training sets overlap (Nadeau and Bengio 2003, eq. 9).

    The variance of the mean is (1/n + num_test/num_train) s^2 in place of s^2/n.
    """
    plain = over_seeds(d)
    inflated = np.sqrt(1 + len(d) * num_test / num_train)
    return Estimate(plain.mean, float(plain.se * inflated), plain.df, "splits")


def over_seeds_and_items(rows: Sequence[Array] | Array) -> Estimate:
    """One test set for all seeds, a row (m,) each: two-way random effects without replication.

    d[s, i] = mean + seed_s + item_i + residual_si. The variance of the mean is estimated by
    (MS_seed + MS_item - MS_residual) / (n m), not less than by either alone, its degrees of freedom
    by Satterthwaite's formula (1946).
    """
    n, m = len(rows), len(rows[0])  # large together: sums are taken a row at a time
    mean = float(np.mean([row.mean() for row in rows]))
    items, size, total = np.zeros(m), 0.0, 0.0
    ms_seed = m / (n - 1) * sum(float(row.mean() - mean) ** 2 for row in rows)
    for row in rows:
        centred = row - mean
        items += centred / n
        total += float(centred @ centred)
        size += float(row @ row)
    ms_item = n * float(items @ items) / (m - 1)
    rest = max(0.0, total - (n - 1) * ms_seed - (m - 1) * ms_item)
    ms_rest = rest / ((n - 1) * (m - 1))
    if total <= 1e-20 * size:
        return Estimate(mean, 0.0, n - 1.0, "seeds and items")
    combined = ms_seed + ms_item - ms_rest
    if combined <= max(ms_seed, ms_item):
        ms, df = max((ms_seed, n - 1.0), (ms_item, m - 1.0))
        return Estimate(mean, float(np.sqrt(ms / (n * m))), df, "seeds and items")
    parts = ms_seed**2 / (n - 1) + ms_item**2 / (m - 1) + ms_rest**2 / ((n - 1) * (m - 1))
    se = float(np.sqrt(combined / (n * m)))
    return Estimate(mean, se, combined**2 / parts, "seeds and items")


def in_blocks(values: Array, count: int = BLOCKS) -> Array:
    """Means over `count` equal stretches of the last axis, (..., count); a remainder is spread."""
    length = values.shape[-1]
    if length <= count:
        return values
    edges = np.arange(count) * length // count
    sizes = np.diff([*edges, length])
    means = np.add.reduceat(values, edges, axis=-1) / sizes
    return np.asarray(means * (sizes * count / length))  # so that their mean is that of all


def _without_rounding(d: Array) -> Array:
    equal = np.ptp(d) <= 1e-12 * np.abs(d).max(initial=0.0)
    return np.full(len(d), np.median(d)) if equal else d
