"""Verdicts of a study: what may be claimed about every arm against its baseline.

The unit is a seed: both arms of a pair share split, batches and seed, so only the differences
d_1..d_n over the seeds that finished in both arms are used, oriented so that positive = the arm
is better. A row is one (data, model, match, arm) at one point of the study's further axes and for
one metric; the family is every row of the study, whether its runs finished or not, so that a
crashed row cannot make the others look more significant.

The rule that decides, in this order:

1. fewer than `MIN_SEEDS` pairs -> `undecided`;
2. two one-sided paired t-tests (TOST) put the mean difference inside (-margin, +margin),
   Holm-adjusted p <= alpha -> `equivalent`, also where it is proved non-zero: too small to matter;
3. the two-sided paired t-test, Holm-adjusted p <= alpha -> `better` or `worse` by the mean's sign;
4. otherwise `undecided`, with the number of further seeds that would probably decide it.

Holm runs over the study once for the differences (3) and once for the equivalences (2): each of
the two kinds of claim is false somewhere in the study with probability at most alpha.

Why Student's t decides and not the permutation test: with n pairs the smallest two-sided
sign-flip p-value is 2 / 2^n, 0.0625 for n = 5, so it can never reject at 0.05 there. The t-test
assumes that differences over seeds are independent and roughly normal, or at least symmetric. The
exact sign-flip p-value, which needs no normality, stands beside it as `p_permutation`. Where all
differences are equal, t does not exist and the sign-flip test decides (`test` says which did).

Why `ci_low, ci_high` is the t-interval: BCa and percentile bootstrap intervals of a mean cover
84 % at n = 5 and 89 % at n = 10 instead of 95 %, the t-interval 94 to 96 % for symmetric
differences, and it agrees with the test that decides. The studentised bootstrap (Efron and
Tibshirani 1993, section 12.5) covers too, also for skewed differences, and stands beside it as
`bootstrap_low, bootstrap_high`. Intervals are per row, at level 1 - alpha, not adjusted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from kanzoo.study import inference
from kanzoo.study.inference import Array
from kanzoo.study.pairs import Pairs, pair_seeds

MIN_SEEDS = 5
MAX_SEEDS = 10_000
POWER = 0.8
TESTS = ("p", "low", "high", "equivalence", "permutation", "boot_low", "boot_high")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One arm against the baseline on one data set and model; None = it does not exist."""

    data: str
    model: str
    arm: str
    baseline: str
    match: str
    metric: str
    n_seeds: int
    mean_difference: float | None
    ci_low: float | None
    ci_high: float | None
    p_value: float | None
    p_adjusted: float | None
    margin: float
    verdict: str
    params_ratio: float | None
    flops_ratio: float | None
    step_time_ratio: float | None
    memory_ratio: float | None
    alpha: float
    test: str
    p_permutation: float | None
    p_equivalence: float | None
    p_equivalence_adjusted: float | None
    bootstrap_low: float | None
    bootstrap_high: float | None
    mean_arm: float | None
    std_arm: float | None
    mean_baseline: float | None
    std_baseline: float | None
    std_difference: float | None
    seeds_needed: int | None
    n_failed: int
    note: str
    axes: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for strict JSON; an entry for each further axis of the study."""
        values = asdict(self)
        axes = values.pop("axes")
        return {**values, **axes}


def verdicts(
    results: pd.DataFrame,
    baseline: str,
    *,
    margin: float | Mapping[str, float],
    alpha: float = 0.05,
    axes: Sequence[str] = (),
    seed: int = 0,
    n_resamples: int = 10_000,
) -> list[Verdict]:
    """A verdict per (data, model, match, *axes) and arm other than the baseline.

    margin: the smallest difference that matters, in units of the metric, or that of every metric by
    its name. axes: further columns of `results` that tell cells apart. A run without a finite
    test value counts as failed. A baseline that was run under one budget mode only serves every
    mode. Ratios are arm / baseline, of the medians over the paired seeds.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}; it must lie between 0 and 1")
    for value in margin.values() if isinstance(margin, Mapping) else [margin]:
        if not (np.isfinite(value) and value >= 0):
            raise ValueError(f"margin is {value}; it must be finite and not negative")
    if n_resamples < 1:
        raise ValueError(f"n_resamples is {n_resamples}; it must be positive")
    cells = pair_seeds(results, baseline, axes)
    margins = np.array([margin[c.metric] if isinstance(margin, Mapping) else margin for c in cells])
    tests = {key: np.full(len(cells), np.nan) for key in TESTS}
    for size in {cell.size for cell in cells if cell.size >= 2}:
        rows = [i for i, cell in enumerate(cells) if cell.size == size]
        d = np.stack([cells[i].differences for i in rows])  # (rows, n)
        tests["p"][rows], tests["low"][rows], tests["high"][rows] = inference.student(d, alpha)
        tests["equivalence"][rows] = inference.equivalence(d, margins[rows])
        tests["permutation"][rows] = inference.sign_flip(d, seed=seed, n_resamples=n_resamples)
        if size >= MIN_SEEDS:
            tests["boot_low"][rows], tests["boot_high"][rows] = inference.studentised_bootstrap(
                d, alpha, seed=seed, n_resamples=n_resamples
            )
    adjusted = {
        "p": inference.holm(tests["p"]),
        "equivalence": inference.holm(tests["equivalence"]),
    }
    words = [
        _decide(cell, adjusted["p"][i], adjusted["equivalence"][i], alpha)
        for i, cell in enumerate(cells)
    ]
    needed = _seeds_needed(cells, words, adjusted, margins, alpha)
    return [
        _verdict(
            cell,
            baseline,
            float(margins[i]),
            alpha,
            words[i],
            needed[i],
            {name: values[i] for name, values in tests.items()},
            {name: values[i] for name, values in adjusted.items()},
        )
        for i, cell in enumerate(cells)
    ]


def _decide(cell: Pairs, p: float, p_equivalence: float, alpha: float) -> str:
    if cell.size < MIN_SEEDS:
        return "undecided"
    if p_equivalence <= alpha:
        return "equivalent"
    if p <= alpha:
        return "better" if cell.mean > 0 else "worse"
    return "undecided"


def _seeds_needed(
    cells: list[Pairs],
    words: list[str],
    adjusted: dict[str, Array],
    margins: Array,
    alpha: float,
) -> list[int | None]:
    """Further seeds for a power of `POWER` at the level Holm's next step asks of a row.

    It takes the observed mean and standard deviation for the truth, so from 5 seeds it is an order
    of magnitude, not a promise. None: decided already, or more than `MAX_SEEDS`.
    """
    level = [alpha / max(1, len(cells) - int((adjusted[k] <= alpha).sum())) for k in adjusted]
    needed: list[int | None] = [None] * len(cells)
    rows = [i for i, word in enumerate(words) if word == "undecided" and cells[i].std > 0]
    mean = np.array([cells[i].mean for i in rows])
    std = np.array([cells[i].std for i in rows])
    start = np.array([max(MIN_SEEDS, cells[i].size + 1) for i in rows], dtype=float)
    low, high = start - 1, np.full(len(rows), float(MAX_SEEDS))  # low is too few, high enough
    while rows and (high - low > 1).any():
        middle = np.ceil((low + high) / 2)
        reached = inference.power(middle, mean, std, margins[rows], level) >= POWER
        low, high = np.where(reached, low, middle), np.where(reached, middle, high)
    for i, total in zip(rows, high, strict=True):
        needed[i] = int(total) - cells[i].size if total < MAX_SEEDS else None
    for i, word in enumerate(words):
        if word == "undecided" and not cells[i].std > 0:
            flips = 2 / level[0] if cells[i].mean else 1 / level[1]  # smallest p: 2 or 1 over 2^n
            total = MIN_SEEDS if cells[i].size < 2 else max(MIN_SEEDS, int(np.ceil(np.log2(flips))))
            needed[i] = max(1, total - cells[i].size)
    return needed


def _verdict(
    cell: Pairs, baseline: str, margin: float, alpha: float, word: str, needed: int | None,
    tests: dict[str, float], adjusted: dict[str, float],
) -> Verdict:  # fmt: skip
    data, model, match, arm = cell.key
    constant = cell.size > 1 and cell.std == 0
    small = word == "equivalent" and adjusted["p"] <= alpha
    notes = {
        f"{cell.size} paired seeds, {MIN_SEEDS} needed": cell.size < MIN_SEEDS,
        f"{cell.unpaired} seeds without a finished pair": cell.unpaired > 0,
        "all differences are equal, so the sign-flip test decides: do the seeds differ?": constant,
        "differs from zero, by less than the margin": small,
        f"more than {MAX_SEEDS} seeds needed": word == "undecided" and needed is None,
    }
    ours, theirs = cell.arm["test"], cell.base["test"]
    return Verdict(
        data=data, model=model, arm=arm, baseline=baseline, match=match,
        metric=cell.metric, n_seeds=cell.size, mean_difference=_plain(cell.mean),
        ci_low=_plain(tests["low"]), ci_high=_plain(tests["high"]),
        p_value=_plain(tests["p"]), p_adjusted=_plain(adjusted["p"]), margin=margin, verdict=word,
        params_ratio=_plain(cell.ratio("params")), flops_ratio=_plain(cell.ratio("flops")),
        step_time_ratio=_plain(cell.ratio("step_time_ms")),
        memory_ratio=_plain(cell.ratio("peak_memory_mb")),
        alpha=alpha, test="sign-flip" if constant else "paired t",
        p_permutation=_plain(tests["permutation"]), p_equivalence=_plain(tests["equivalence"]),
        p_equivalence_adjusted=_plain(adjusted["equivalence"]),
        bootstrap_low=_plain(tests["boot_low"]), bootstrap_high=_plain(tests["boot_high"]),
        mean_arm=_plain(ours.mean()), std_arm=_plain(ours.std()),
        mean_baseline=_plain(theirs.mean()), std_baseline=_plain(theirs.std()),
        std_difference=_plain(cell.std), seeds_needed=needed, n_failed=cell.unpaired,
        note="; ".join(note for note, applies in notes.items() if applies), axes=cell.axes,
    )  # fmt: skip


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
