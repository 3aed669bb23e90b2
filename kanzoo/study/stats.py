"""Verdicts of a study: what may be claimed about every arm against its baseline.

Both arms of a pair share split, batches and seed, so only the differences d_1..d_n over the seeds
are used, oriented so that positive = the arm is better; a run that diverged has the score of a
prediction without skill. A row is one (data, model, match, arm) at one point of the study's further
axes and for one metric, or a contrast. The rule, with p-values adjusted for planned looks
(`kanzoo.study.looks`) and by Holm over the rows of a family:

1. before the first planned look, or with fewer than `MIN_SEEDS` pairs: `undecided`;
2. two one-sided tests put the mean inside (-margin, +margin): `equivalent`, also where it is proved
   non-zero: too small to matter;
3. the mean differs from 0: `better` or `worse`, and `beyond the margin` where it differs from the
   margin too, else `possibly negligible`;
4. otherwise `undecided`.

Each kind of claim is false somewhere in a family with probability at most alpha. The standard error
is that of `kanzoo.study.variance`, by where the test sets come from. A row whose differences are
skewed is flagged and decided by the larger p of Student's t and the studentised bootstrap. Where
all differences are equal, the sign-flip test decides. Why so: `docs/statistics.md`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kanzoo.study import inference
from kanzoo.study.decomposition import decompose
from kanzoo.study.inference import Array
from kanzoo.study.looks import Looks
from kanzoo.study.pairs import contrasts, interactions, pair_seeds, with_scale
from kanzoo.study.rows import MIN_SEEDS, Row, at_look, make_row, make_verdict
from kanzoo.study.verdict import Verdict

NUMBERS = (
    *("ci_low", "ci_high", "p_value", "p_beyond", "p_equivalence", "p_sequential"),
    *("p_adjusted", "p_beyond_adjusted", "p_equivalence_adjusted"),
    *("bootstrap_low", "bootstrap_high"),
)  # of a verdict, in the order in which they are worked out


def verdicts(
    results: pd.DataFrame,
    baseline: str,
    *,
    margin: float | Mapping[str, float],
    ratio_margin: float = 0.1,
    alpha: float = 0.05,
    axes: Sequence[str] = (),
    looks: Looks | None = None,
    first_seed: int = 0,
    against: Sequence[Sequence[str]] = (),
    changes: Mapping[str, str] | None = None,
    parts: Mapping[str, tuple[str, str]] | None = None,
    seed: int = 0,
    n_resamples: int = 10_000,
) -> list[Verdict]:
    """A verdict per (data, model, match, *axes) and arm other than the baseline, and per contrast.

    Parameters
    ----------
    results : DataFrame
        A row a run. A run without a finite test value counts as failed. A baseline that was run
        under one budget mode only serves every mode. `is_tuned`, where it is a column, tells what
        was tuned.
    margin, ratio_margin : float
        The smallest difference that matters, in units of the metric (or that of every metric by its
        name), and the smallest relative one where errors span decades.
    axes : sequence of str
        Further columns of `results` that tell cells apart.
    looks : Looks
        The planned looks and the seeds that were declared; by default this is the only look. A row
        is judged by its last complete look, of the seeds from `first_seed` on.
    against : sequence of (arm, other)
        Further comparisons between two arms.
    changes : mapping of axis to value
        Along which axes the differences are compared with those at a value.
    parts : mapping of name to (arm, other)
        Steps that add up to a difference, see `kanzoo.study.decomposition`.

    Ratios of costs are arm / baseline, of the medians over the paired seeds.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}; it must lie between 0 and 1")
    for value in margin.values() if isinstance(margin, Mapping) else [margin]:
        if not (np.isfinite(value) and value >= 0):
            raise ValueError(f"margin is {value}; it must be finite and not negative")
    if n_resamples < 1:
        raise ValueError(f"n_resamples is {n_resamples}; it must be positive")
    cells = pair_seeds(results, baseline, axes)
    cells += contrasts(results, against, axes)
    cells += decompose(results, parts or {}, axes)
    cells = with_scale(cells)
    cells += interactions([p for p in cells if not p.contrast], changes or {})
    count = max([MIN_SEEDS, *(p.size + p.unpaired + p.waiting for p in cells)])
    only = Looks((count,), count)
    rows = []
    for p in cells:
        absolute = margin[p.metric] if isinstance(margin, Mapping) else margin
        least = float(np.log1p(ratio_margin)) if p.scale == "log ratio" else absolute
        kept, look = (p, only) if looks is None else at_look(p, looks, first_seed)
        rows.append(make_row(kept, least, look))
    return _judge(rows, alpha, seed, n_resamples)


def flags(d: Sequence[Array], groups: Sequence[Hashable]) -> tuple[NDArray[np.bool_], Array]:
    """Which rows are skewed, alone or together with the other rows of their group.

    A row is an array of differences; fewer than 3 show no skew. Returned with their skewness.
    """
    flagged = np.zeros(len(d), dtype=bool)
    g, std = np.zeros((2, len(d)))
    for at, rows in _by_size(d):
        if rows.shape[1] >= 3:
            g[at], std[at] = inference.skewness(rows)
            flagged[at] = inference.are_skewed(g[at], std[at])
    members: dict[Hashable, list[int]] = {}
    for i, group in enumerate(groups):
        if std[i] > 0:
            members.setdefault(group, []).append(i)
    for rows_of_group in members.values():
        at = np.array(rows_of_group)
        flagged[at] |= inference.are_skewed(
            np.array([g[at].mean()]), np.array([np.linalg.norm(std[at]) / len(at)])
        )
    return flagged, g


@dataclass(frozen=True)
class Tested:
    """p-values (3, rows) in the order of `inference.Tests`, and intervals (2, rows)."""

    p: Array
    interval: Array
    bootstrap: Array


def compute_tests(
    d: Sequence[Array], mean: Array, se: Array, df: Array, margin: Array,
    flagged: NDArray[np.bool_], alpha: float, *, seed: int = 0, n_resamples: int = 10_000,
) -> Tested:  # fmt: skip
    """Tests and intervals of rows before any correction for their number or for looks.

    Where a row is flagged, the larger p of Student's t and the studentised bootstrap, and the wider
    interval, which may be open at an end.
    """
    p = np.stack(inference.student(mean, se, df, margin))
    ends = np.stack(inference.interval(mean, se, df, alpha))
    bootstrap = np.full((2, len(d)), np.nan)
    for at, rows in _by_size(d):
        size = rows.shape[1]
        still = at[se[at] == 0]
        p[:, still] = inference.exact(mean[still], size, margin[still])
        if size < MIN_SEEDS or not n_resamples:
            continue
        tests, *bootstrap[:, at] = inference.bootstrap_t(
            rows, mean[at], se[at], margin[at], alpha, seed=seed, n_resamples=n_resamples
        )
        wide, wide_at = flagged[at], at[flagged[at]]
        p[:, wide_at] = np.fmax(p[:, wide_at], np.stack(tests)[:, wide])
        ends[0, wide_at] = np.fmin(ends[0, wide_at], bootstrap[0, wide_at])
        ends[1, wide_at] = np.fmax(ends[1, wide_at], bootstrap[1, wide_at])
    return Tested(p, ends, bootstrap)


def adjust(p: Array, families: Sequence[Hashable], looks: Sequence[Looks]) -> tuple[Array, Array]:
    """p-values (3, rows) for the look of each row, and these by Holm within every family."""
    sequential = np.empty_like(p)
    for look in set(looks):
        same = np.array([other == look for other in looks])
        different, beyond, inside = p[:, same]
        both = look.two_sided(different), look.two_sided(beyond)
        sequential[:, same] = np.stack([*both, look.one_sided(inside)])
    adjusted = sequential.copy()
    members: dict[Hashable, list[int]] = {}
    for i, family in enumerate(families):
        members.setdefault(family, []).append(i)
    for at in members.values():
        for kind in range(len(p)):
            adjusted[kind, at] = inference.holm(sequential[kind, at])
    return sequential, adjusted


def decide(mean: float, adjusted: Array, alpha: float) -> tuple[str, str]:
    """Word and direction of a row from its adjusted p-values."""
    different, beyond, inside = adjusted
    if inside <= alpha:
        return "equivalent", ""
    if different <= alpha:
        word = "beyond the margin" if beyond <= alpha else "possibly negligible"
        return word, "better" if mean > 0 else "worse"
    return "undecided", ""


def _judge(rows: list[Row], alpha: float, seed: int, n_resamples: int) -> list[Verdict]:
    if not rows:
        return []
    d = [row.pairs.differences for row in rows]
    mean, se, df = (np.array([getattr(r.decides, k) for r in rows]) for k in ("mean", "se", "df"))
    flagged, skewness = flags(d, [(row.pairs.key[3], row.pairs.contrast) for row in rows])
    flagged |= np.array([row.pairs.is_collapsed for row in rows])
    margin = np.array([row.margin for row in rows])
    options = {"seed": seed, "n_resamples": n_resamples}
    tested = compute_tests(d, mean, se, df, margin, flagged, alpha, **options)
    permutation = np.full(len(rows), np.nan)
    for at, block in _by_size(d):
        if block.shape[1] >= 2:
            permutation[at] = inference.sign_flip(block, **options)
    families = [row.pairs.family for row in rows]
    sequential, adjusted = adjust(tested.p, families, [row.looks for row in rows])
    rivals = Counter(f for f, p in zip(families, adjusted[0], strict=True) if not p <= alpha)
    judged = []
    for i, row in enumerate(rows):
        can = row.pairs.size >= MIN_SEEDS and row.looks.number > 0
        word, direction = decide(mean[i], adjusted[:, i], alpha) if can else ("undecided", "")
        level = row.looks.nominal(alpha / max(1, rivals[families[i]]))
        numbers = dict(zip(NUMBERS, np.concatenate(
            [tested.interval[:, i], tested.p[:, i], sequential[:1, i], adjusted[:, i],
             tested.bootstrap[:, i]]), strict=True))  # fmt: skip
        numbers |= {
            "p_permutation": permutation[i],
            "skewness": skewness[i] if len(d[i]) >= 3 else np.nan,
            "detectable": inference.detectable(se[i], df[i], level) if se[i] > 0 else np.nan,
        }
        judged.append(make_verdict(row, numbers, word, direction, bool(flagged[i]), alpha))
    return judged


def _by_size(d: Sequence[Array]) -> list[tuple[NDArray[np.intp], Array]]:
    """Rows of equally many differences, as their numbers and an array (rows, n)."""
    sizes = np.array([len(row) for row in d], dtype=int)
    groups = [(size, np.flatnonzero(sizes == size)) for size in sorted(set(sizes.tolist()))]
    return [(at, np.stack([d[int(i)] for i in at])) for size, at in groups if size > 0]
