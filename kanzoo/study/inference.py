"""Tests and intervals for paired differences.

`d` are differences of shape (rows, n), a row a comparison and a column a seed; `mean`, `se` and
`df` are those of estimates, one a row (`kanzoo.study.variance`). Every function returns one value a
row; what may be claimed from them is decided in `kanzoo.study.stats`. Formulas and sources:
`docs/statistics.md`.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]

POWER = 0.8
SKEW_LEVEL = 0.05
_BLOCK = 300_000  # numbers resampled at once: bounds the memory whatever the study's size
SAME = 1e-4  # deviations up to which differences are the same: scores are rounded numbers
_ROWS = 200  # rows whose resamples are kept at once


class Tests(NamedTuple):
    """p-values of one row: different from 0, beyond the margin, inside the margin."""

    different: Array
    beyond: Array
    inside: Array


def student(mean: Array, se: Array, df: Array, margin: Array | float) -> Tests:
    """Student's t-tests of a mean against 0 and against the margin.

    `different`: two-sided. `beyond`: that the mean lies outside [-margin, margin], in its own
    direction, by half the level as a two-sided interval would. `inside`: two one-sided tests
    (Schuirmann 1987), the larger p. An estimate without error (`se` = 0) is left to `exact`.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        different = 2 * stats.t.sf(np.abs(mean) / se, df)
        beyond = np.minimum(1.0, 2 * stats.t.sf((np.abs(mean) - margin) / se, df))
        inside = stats.t.sf((margin - np.abs(mean)) / se, df)
    return Tests(different, beyond, inside)


def exact(mean: Array, n: int, margin: Array | float) -> Tests:
    """The same where all n differences are equal: p of the sign-flip test, 2 / 2^n or 1."""
    two, one = 2.0 * 0.5**n, 0.5**n
    size = np.abs(mean)
    return Tests(
        np.where(size == 0, 1.0, two),
        np.where(size > margin, two, 1.0),
        np.where(size < margin, one, 1.0),
    )


def interval(mean: Array, se: Array, df: Array, alpha: float) -> tuple[Array, Array]:
    """Student's interval of a mean at level 1 - alpha."""
    half = stats.t.ppf(1 - alpha / 2, df) * se
    return mean - half, mean + half


def detectable(se: Array, df: Array, level: float) -> Array:
    """The true difference that a two-sided t-test at `level` finds with probability `POWER`.

    By the usual sum of two quantiles, (t_(1 - level/2) + t_power) se.
    """
    return np.asarray((stats.t.ppf(1 - level / 2, df) + stats.t.ppf(POWER, df)) * se)


def sign_flip(d: Array, *, seed: int = 0, n_resamples: int = 10_000) -> Array:
    """Two-sided paired permutation test of mean zero, exact while 2^n <= n_resamples."""
    return np.asarray(
        stats.permutation_test(
            (d,), lambda x, axis: x.mean(axis), permutation_type="samples", vectorized=True,
            n_resamples=n_resamples, batch=_batch(d), axis=-1, rng=np.random.default_rng(seed),
        ).pvalue
    )  # fmt: skip


def bootstrap_t(
    d: Array, mean: Array, se: Array, margin: Array, alpha: float, *, seed: int = 0,
    n_resamples: int = 10_000,
) -> tuple[Tests, Array, Array]:  # fmt: skip
    """The tests of `student` and an interval by the studentised bootstrap over seeds.

    The distribution of t is that of resampled differences (Efron and Tibshirani 1993, 12.5) instead
    of Student's; `se` may be larger than theirs. Resamples of equal values have an infinite t;
    where they are too many, the interval is open at an end. NaN where all differences are equal.
    """
    out = np.full((5, len(d)), np.nan)
    for start in range(0, len(d), _ROWS):
        rows = np.arange(start, min(start + _ROWS, len(d)))
        rows = rows[(np.ptp(d[rows], axis=-1) > 0) & (se[rows] > 0)]
        if len(rows):
            drawn = _resampled_t(d[rows], alpha, seed, n_resamples)
            out[:, rows] = _by_bootstrap(drawn, mean[rows], se[rows], margin[rows], alpha)
    return Tests(*out[:3]), out[3], out[4]


def _resampled_t(d: Array, alpha: float, seed: int, n_resamples: int) -> Array:
    n = d.shape[-1]
    z = (d - d.mean(-1, keepdims=True)) / d.std(-1, ddof=1, keepdims=True)

    def t(x: Array, axis: int) -> Array:
        mean, std = x.mean(axis), x.std(axis, ddof=1)
        is_same = np.ptp(x, axis) < SAME
        std[is_same] = 0.0
        # Where all that was drawn equals the mean of all, t is 0, not 0 / 0.
        is_none = np.abs(mean) < np.where(is_same, SAME, 1e-12)
        return np.where(is_none, 0.0, mean / (std / np.sqrt(n)))

    with np.errstate(all="ignore"), warnings.catch_warnings():
        # Of an interval that is not used.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        return np.asarray(
            stats.bootstrap(
                (z,), t, vectorized=True, axis=-1,
                n_resamples=n_resamples, batch=_batch(d), method="percentile",
                confidence_level=1 - alpha, rng=np.random.default_rng(seed),
            ).bootstrap_distribution
        )  # fmt: skip


def _by_bootstrap(drawn: Array, mean: Array, se: Array, margin: Array, alpha: float) -> Array:
    def above(t: Array) -> Array:
        return np.asarray((drawn >= t[:, None]).mean(-1))

    def below(t: Array) -> Array:
        return np.asarray((drawn <= t[:, None]).mean(-1))

    with np.errstate(all="ignore"):
        different = 2 * np.minimum(above(mean / se), below(mean / se))
        beyond = np.where(mean > 0, above((mean - margin) / se), below((mean + margin) / se))
        inside = np.maximum(above((mean + margin) / se), below((mean - margin) / se))
        low, high = np.quantile(drawn, [alpha / 2, 1 - alpha / 2], axis=-1)
        # Between two infinite values the quantile is not a number.
        low = np.where(np.isnan(low), -np.inf, low)
        high = np.where(np.isnan(high), np.inf, high)
    tests = np.minimum(1.0, np.stack([different, 2 * beyond, inside]))
    return np.concatenate([tests, [mean - high * se, mean - low * se]])


def skewness(d: Array) -> tuple[Array, Array]:
    """Sample skewness g1 and its standard deviation under normality, for n >= 3 differences."""
    n = d.shape[-1]
    varied, g = np.ptp(d, axis=-1) > 0, np.zeros(len(d))
    g[varied] = stats.skew(d[varied], axis=-1)
    return g, np.full(len(d), np.sqrt(6 * (n - 2) / ((n + 1) * (n + 3))))


def are_skewed(g: Array, std: Array) -> NDArray[np.bool_]:
    """Whether skewness lies beyond what chance explains, by its normal approximation."""
    return np.abs(g) > stats.norm.isf(SKEW_LEVEL / 2) * std


def holm(p: Array) -> Array:
    """Holm's step-down adjusted p-values; a NaN counts as a hypothesis with p = 1 and stays NaN."""
    filled = np.where(np.isnan(p), 1.0, p)
    order = np.argsort(filled, kind="stable")
    factors = np.arange(len(p), 0, -1)
    adjusted = np.empty_like(filled)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(filled[order] * factors))
    return np.where(np.isnan(p), np.nan, adjusted)


def _batch(d: Array) -> int:
    return max(1, _BLOCK // d.size)
