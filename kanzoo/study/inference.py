"""Tests and intervals for paired differences.

Every function takes differences of shape (rows, n), a row a comparison and a column a seed, and
returns one value a row; what may be claimed from them is decided in `kanzoo.study.stats`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]

_BLOCK = 300_000  # numbers resampled at once: bounds the memory whatever the study's size


def student(d: Array, alpha: float) -> tuple[Array, Array, Array]:
    """Two-sided paired t-test and its interval at level 1 - alpha: p, low, high.

    Where all differences of a row are equal, t does not exist: p is then the sign-flip test's,
    2 / 2^n (1 for a difference of zero), and the interval is the single point.
    """
    n = d.shape[-1]
    mean, error = d.mean(-1), d.std(-1, ddof=1) / np.sqrt(n)
    constant = np.ptp(d, axis=-1) == 0
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stats.t.sf(np.abs(mean) / error, n - 1)
    p = np.where(constant, np.where(mean == 0, 1.0, 2.0 * 0.5**n), p)
    half = np.where(constant, 0.0, stats.t.ppf(1 - alpha / 2, n - 1) * error)
    return p, mean - half, mean + half


def equivalence(d: Array, margin: Array | float) -> Array:
    """TOST (Schuirmann 1987): the larger p of mean > -margin and mean < margin, by paired t-tests.

    Where all differences of a row are equal: 1 / 2^n inside the margin, 1 outside.
    """
    n = d.shape[-1]
    mean, error = d.mean(-1), d.std(-1, ddof=1) / np.sqrt(n)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = stats.t.sf((margin - np.abs(mean)) / error, n - 1)
    exact = np.where(np.abs(mean) < margin, 0.5**n, 1.0)
    return np.where(np.ptp(d, axis=-1) == 0, exact, p)


def sign_flip(d: Array, *, seed: int = 0, n_resamples: int = 10_000) -> Array:
    """Two-sided paired permutation test of mean zero, exact while 2^n <= n_resamples."""
    return np.asarray(
        stats.permutation_test(
            (d,), lambda x, axis: x.mean(axis), permutation_type="samples", vectorized=True,
            n_resamples=n_resamples, batch=_batch(d), axis=-1, rng=np.random.default_rng(seed),
        ).pvalue
    )  # fmt: skip


def studentised_bootstrap(
    d: Array, alpha: float, *, seed: int = 0, n_resamples: int = 10_000
) -> tuple[Array, Array]:
    """Bootstrap-t interval of the mean, NaN where too many resamples have no spread."""
    ends, n = np.full((2, len(d)), np.nan), d.shape[-1]
    varied = np.ptp(d, axis=-1) > 0
    if not varied.any():
        return ends[0], ends[1]
    d = d[varied]
    mean = d.mean(-1, keepdims=True)
    error = d.std(-1, ddof=1) / np.sqrt(n)

    def t(x: Array, axis: int) -> Array:
        return np.asarray(x.mean(axis) / (x.std(axis, ddof=1) / np.sqrt(n)))

    with np.errstate(all="ignore"):
        t_star = stats.bootstrap(
            (d - mean,), t, vectorized=True, axis=-1, n_resamples=n_resamples, batch=_batch(d),
            method="percentile", confidence_level=1 - alpha, rng=np.random.default_rng(seed),
        ).confidence_interval  # fmt: skip
        low, high = mean[:, 0] - t_star.high * error, mean[:, 0] - t_star.low * error
    ends[:, varied] = np.where(np.isfinite(low) & np.isfinite(high), (low, high), np.nan)
    return ends[0], ends[1]


def holm(p: Array) -> Array:
    """Holm's step-down adjusted p-values; a NaN counts as a hypothesis with p = 1 and stays NaN."""
    filled = np.where(np.isnan(p), 1.0, p)
    order = np.argsort(filled, kind="stable")
    factors = np.arange(len(p), 0, -1)
    adjusted = np.empty_like(filled)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(filled[order] * factors))
    return np.where(np.isnan(p), np.nan, adjusted)


def power(
    n: Array, mean: Array, std: Array, margin: Array | float, level: Sequence[float]
) -> Array:
    """Probability that n pairs decide, if mean and std of the differences are as given.

    level: that of the two-sided t-test and that of TOST. The larger of the two powers, both by the
    noncentral t distribution (for TOST the usual approximation, Diletti et al. 1991).
    """
    scale = np.sqrt(n) / std
    ratio = np.abs(mean) * scale
    different = stats.nct.sf(stats.t.ppf(1 - level[0] / 2, n - 1), n - 1, ratio)
    critical = stats.t.ppf(1 - level[1], n - 1)
    inside = stats.nct.cdf(-critical, n - 1, ratio - margin * scale)
    inside = inside - stats.nct.cdf(critical, n - 1, ratio + margin * scale)
    return np.asarray(np.fmax(different, np.fmax(inside, 0.0)))


def _batch(d: Array) -> int:
    return max(1, _BLOCK // d.size)
