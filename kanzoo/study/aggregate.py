"""Over tasks: what several comparisons of one arm with the baseline say together.

A task is a data set with an architecture at one budget. Its effect y is the mean difference in
units of the baseline's standard deviation over seeds, or the log ratio of errors, and v the
variance of y. Formulas and sources: `docs/statistics.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from kanzoo.study.inference import Array


@dataclass(frozen=True)
class Pooled:
    """A random-effects mean over tasks; None where there are too few tasks.

    Attributes
    ----------
    tau : float
        Standard deviation of true effects between tasks.
    low, high : float
        Hartung and Knapp's interval of the mean.
    new_low, new_high, p_new : float
        Prediction interval of the effect on a new task, and the probability that it is positive.
    q, i2 : float
        Cochran's Q, and the share of the variance that is between tasks (Higgins and Thompson).
    """

    num_tasks: int
    mean: float
    se: float | None
    low: float | None
    high: float | None
    p_value: float | None
    tau: float | None
    new_low: float | None
    new_high: float | None
    p_new: float | None
    q: float | None
    i2: float | None


def random_effects(y: Array, v: Array, alpha: float = 0.05) -> Pooled:
    """Pool effects `y` (k,) of variances `v` (k,): REML, Hartung-Knapp, k - 2 for a new task."""
    k = len(y)
    if k == 0:
        raise ValueError("there is no task to aggregate over")
    if k < 3:
        return Pooled(k, float(y.mean()), *[None] * 10)
    tau2 = reml(y, v)
    w = 1 / (v + tau2)
    mean = float(w @ y / w.sum())
    se = float(np.sqrt(w @ (y - mean) ** 2 / ((k - 1) * w.sum())))
    half = float(stats.t.ppf(1 - alpha / 2, k - 1)) * se
    wide = float(np.sqrt(tau2 + se**2))
    reach = float(stats.t.ppf(1 - alpha / 2, k - 2)) * wide
    fixed = 1 / v
    q = float(fixed @ (y - fixed @ y / fixed.sum()) ** 2)
    typical = (k - 1) * fixed.sum() / (fixed.sum() ** 2 - (fixed**2).sum())
    return Pooled(
        k, mean, se, mean - half, mean + half,
        float(2 * stats.t.sf(abs(mean) / se, k - 1)) if se else None,
        float(np.sqrt(tau2)), mean - reach, mean + reach,
        float(stats.t.cdf(mean / wide, k - 2)) if wide else float(mean > 0),
        q, float(tau2 / (tau2 + typical)),
    )  # fmt: skip


def reml(y: Array, v: Array) -> float:
    """Restricted maximum likelihood of the variance between tasks (Viechtbauer 2005)."""

    def loss(tau2: float) -> float:
        w = 1 / (v + tau2)
        mean = w @ y / w.sum()
        return float(-np.log(w).sum() + np.log(w.sum()) + w @ (y - mean) ** 2)

    top = float(10 * y.var(ddof=1)) or 1.0
    optimum = optimize.minimize_scalar(
        lambda root: loss(root**2), bounds=(0.0, np.sqrt(top)), method="bounded",
        options={"xatol": 1e-10},
    )  # fmt: skip
    return float(optimum.x**2) if loss(optimum.x**2) < loss(0.0) else 0.0


def count_wins(y: Array, low: Array, high: Array, margin: Array) -> dict[str, int]:
    """Tasks by their intervals: won or lost beyond the margin, tied inside it, else open."""
    won, lost = int((low > margin).sum()), int((high < -margin).sum())
    tied = int(((low > -margin) & (high < margin)).sum())
    return {"wins": won, "ties": tied, "losses": lost, "open": len(y) - won - tied - lost}


def iqm(scores: Sequence[Array]) -> float:
    """Interquartile mean over all runs of all tasks, each task one array of runs."""
    return float(stats.trim_mean(np.concatenate(scores), 0.25))


def stratified_bootstrap(
    scores: Sequence[Array], alpha: float = 0.05, *, seed: int = 0, n_resamples: int = 2000
) -> tuple[float, float]:
    """Interval of `iqm`: runs are resampled within each task (Agarwal et al. 2021)."""
    rng = np.random.default_rng(seed)
    drawn = np.concatenate(
        [np.asarray(s)[rng.integers(len(s), size=(n_resamples, len(s)))] for s in scores], axis=1
    )
    values = stats.trim_mean(drawn, 0.25, axis=1)
    low, high = np.quantile(values, [alpha / 2, 1 - alpha / 2])
    return float(low), float(high)


def performance_profile(scores: Sequence[Array], levels: Array) -> Array:
    """Share of runs with a score above each level, every task weighing the same (ibid.)."""
    return np.mean([(np.asarray(s)[:, None] > levels).mean(0) for s in scores], axis=0)


def improvement(ours: Sequence[Array], theirs: Sequence[Array]) -> float:
    """Probability that a run of ours beats one of theirs on a task, the mean over tasks (ibid.)."""
    shares = []
    for a, b in zip(ours, theirs, strict=True):
        above = np.subtract.outer(np.asarray(a), np.asarray(b))
        shares.append(float(((above > 0) + 0.5 * (above == 0)).mean()))
    return float(np.mean(shares))


@dataclass(frozen=True)
class Ranks:
    """Average ranks of arms over tasks, 1 the best, and the difference that is no chance.

    `p_value` is that of Friedman's test in Iman and Davenport's form, `critical` the difference of
    two average ranks by Nemenyi's test (Demsar 2006).
    """

    ranks: dict[str, float]
    num_tasks: int
    p_value: float | None
    critical: float | None


def average_ranks(scores: dict[str, Array], alpha: float = 0.05) -> Ranks:
    """Rank arms by their scores on the same tasks, (k,) each, larger being better."""
    table = np.stack([np.asarray(s) for s in scores.values()], axis=1)  # (tasks, arms)
    n, k = table.shape
    ranks = stats.rankdata(-table, axis=1).mean(0)
    named = dict(zip(scores, map(float, ranks), strict=True))
    if n < 2 or k < 2:
        return Ranks(named, n, None, None)
    chi2 = 12 * n / (k * (k + 1)) * (float(ranks @ ranks) - k * (k + 1) ** 2 / 4)
    rest = n * (k - 1) - chi2
    f = (n - 1) * chi2 / rest if rest > 0 else np.inf
    p = float(stats.f.sf(f, k - 1, (k - 1) * (n - 1)))
    q = float(stats.studentized_range.ppf(1 - alpha, k, np.inf)) / np.sqrt(2)
    return Ranks(named, n, p, float(q * np.sqrt(k * (k + 1) / (6 * n))))
