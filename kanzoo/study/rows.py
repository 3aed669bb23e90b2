"""One comparison of a study: its estimates, and the verdict that is made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from kanzoo.study import inference, variance
from kanzoo.study.inference import Array
from kanzoo.study.looks import Looks
from kanzoo.study.pairs import MAY_LACK, Pairs, at_seeds
from kanzoo.study.plan import MIN_JUDGED
from kanzoo.study.variance import Estimate
from kanzoo.study.verdict import Verdict

MIN_SEEDS = MIN_JUDGED
SHARED = ("official", "fixed")  # test sets that all seeds have in common
SHARES = ("accuracy", "learned")  # metrics from 0 to 1, of which two differ by at most 1


@dataclass(frozen=True)
class Row:
    """A comparison with the estimate that decides, those beside it, and the look that it is."""

    pairs: Pairs
    margin: float
    looks: Looks
    decides: Estimate
    plain: Estimate
    corrected: Estimate | None

    @property
    def is_judged(self) -> bool:
        return self.pairs.size >= 2


def estimates(p: Pairs) -> tuple[Estimate, Estimate, Estimate | None]:
    """The estimate that decides, that over seeds alone, and that corrected for overlap."""
    d = p.differences
    plain, corrected = variance.over_seeds(d), None
    test_set, train, test = (p.split(name) for name in ("test_set", "n_train", "n_test"))
    if test_set in ("official", "resampled") and train is not None and test is not None:
        corrected = variance.over_splits(d, float(str(train)), float(str(test)))
    if test_set == "resampled" and corrected is not None:
        return corrected, plain, corrected
    rows = p.item_rows() if test_set in SHARED else None
    if rows is not None and len(rows[0]) > 1:
        return variance.over_seeds_and_items(rows), plain, corrected
    return plain, plain, corrected


def at_look(pairs: Pairs, looks: Looks, first_seed: int) -> tuple[Pairs, Looks]:
    """The pairs that the last complete look is about, and this look.

    Seeds beyond it wait for the next one: results that were chosen by who was ready first would
    be looked at twice.
    """
    reached = (n for n in looks.planned if n <= looks.seeds)
    complete = [n for n in reached if pairs.ended.issuperset(range(first_seed, first_seed + n))]
    if not complete:
        return pairs, Looks(looks.planned, 0)
    end = first_seed + complete[-1]
    seeds = [seed for seed in pairs.arm["seed"] if seed < end]
    counts = tuple(sum(seed < first_seed + n for seed in seeds) for n in complete)
    kept = pairs
    if len(seeds) < pairs.size:
        kept = replace(at_seeds(pairs, set(seeds)), unpaired=pairs.unpaired)
        if pairs.reference is not None:
            kept = replace(kept, reference=at_seeds(pairs.reference, set(seeds)))
    return kept, Looks(looks.planned, complete[-1], counts)


def make_row(p: Pairs, margin: float, looks: Looks) -> Row:
    if p.size < 2:
        mean = float(p.differences.mean()) if p.size else float("nan")
        nothing = Estimate(mean, float("nan"), float("nan"), "seeds")
        return Row(p, margin, looks, nothing, nothing, None)
    return Row(p, margin, looks, *estimates(p))


def make_verdict(
    row: Row, numbers: Mapping[str, float], word: str, direction: str, flagged: bool, alpha: float
) -> Verdict:
    p, decides, looks = row.pairs, row.decides, row.looks
    data, model, match, arm = p.key
    ours, theirs = p.scores
    shown, shown_baseline = (table["test"].to_numpy(dtype=float) for table in (p.arm, p.base))
    diverged, diverged_baseline = p.diverged
    text = ", ".join(filter(None, (direction, word)))
    constant = row.is_judged and decides.se == 0
    small = word == "equivalent" and numbers["p_adjusted"] <= alpha
    shared = p.split("test_set") in SHARED
    largest = 2.0 if p.contrast.startswith("change from") else 1.0
    impossible = p.scale == "difference" and p.metric in SHARES and numbers["detectable"] > largest
    if impossible:
        numbers = {**numbers, "detectable": np.nan}
    notes = {
        f"verdicts come at the first planned look, {looks.planned[0]} seeds": looks.number == 0,
        f"{_count(p.size, 'paired seed')}, {MIN_SEEDS} needed": p.size < MIN_SEEDS
        and looks.number > 0,
        f"{_count(p.waiting, 'seed')} not run yet": p.waiting > 0,
        f"the first {looks.seeds} seeds decide until the next look is complete": p.waiting > 0
        and looks.counts != (),
        f"{_count(p.unpaired, 'seed')} without a finished pair": p.unpaired > 0 and not p.missing,
        f"{_count(p.missing, 'finished run')} without {p.metric}: "
        + ("too little learned" if p.metric in MAY_LACK else "diverged"): p.missing > 0,
        f"{_count(diverged, 'run')} of {arm} and {diverged_baseline} of {p.baseline} diverged and "
        "count as predictions without skill": diverged + diverged_baseline > 0,
        "all differences are equal, so the sign-flip test decides: do the seeds differ?": constant,
        "differs from zero, by less than the margin": small,
        "no possible difference would be found with 80 % at this error": impossible,
        "skewed or collapsed runs: the wider of two intervals decides": flagged,
        "chance in the test items is not in the interval": shared and decides.method == "seeds",
    }
    return Verdict(
        data=data, model=model, arm=arm, baseline=p.baseline, match=match, metric=p.metric,
        n_seeds=p.size, mean_difference=_plain(decides.mean), margin=float(row.margin),
        verdict=text + " (recipe)" * (word != "undecided" and not p.is_tuned),
        params_ratio=_plain(p.ratio("params")), flops_ratio=_plain(p.ratio("flops")),
        step_time_ratio=_plain(p.ratio("step_time_ms")),
        memory_ratio=_plain(p.ratio("peak_memory_mb")),
        word=word, direction=direction, family=p.family, contrast=p.contrast, scale=p.scale,
        alpha=alpha, look=looks.number, looks=list(looks.planned), next_look=looks.next,
        method="sign-flip" if constant else decides.method,
        domain=_text(p.split("domain")), test_set=_text(p.split("test_set")),
        n_train=_number(p.split("n_train")), n_val=_number(p.split("n_val")),
        n_test=_number(p.split("n_test")),
        standard_error=_plain(decides.se), df=_plain(decides.df),
        **_beside(row.plain, "plain", alpha), **_beside(row.corrected, "corrected", alpha),
        p_welch=_welch(ours, theirs), correlation=_correlation(ours, theirs),
        is_flagged=flagged,
        mean_arm=_plain(_mean(shown)), std_arm=_plain(_std(shown)),
        mean_baseline=_plain(_mean(shown_baseline)), std_baseline=_plain(_std(shown_baseline)),
        std_scale=_plain(_std(theirs)), std_difference=_plain(_std(p.differences)),
        n_failed=p.unpaired,
        n_diverged=diverged, n_diverged_baseline=diverged_baseline,
        note="; ".join(note for note, applies in notes.items() if applies), axes=p.axes,
        **{name: _plain(value) for name, value in numbers.items()},
    )  # fmt: skip


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _beside(estimate: Estimate | None, name: str, alpha: float) -> dict[str, float | None]:
    ends: tuple[float, float] = (float("nan"), float("nan"))
    if estimate is not None:
        mean, se, df = np.array([[estimate.mean], [estimate.se], [estimate.df]])
        low, high = inference.interval(mean, se, df, alpha)
        ends = float(low[0]), float(high[0])
    return {f"ci_{name}_{end}": _plain(v) for end, v in zip(("low", "high"), ends, strict=True)}


def _mean(values: Array) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _std(values: Array) -> float:
    if len(values) < 2:
        return float("nan")
    return float(values.std(ddof=1)) if np.ptp(values) else 0.0


def _varied(*arms: Array) -> bool:
    return all(len(values) > 2 and np.ptp(values) > 1e-12 * np.abs(values).max() for values in arms)


def _welch(ours: Array, theirs: Array) -> float | None:
    """Welch's test, as if seeds did not pair the arms."""
    if not _varied(ours, theirs):
        return None
    moments = [f for x in (ours, theirs) for f in (x.mean(), x.std(ddof=1), len(x))]
    return _plain(float(stats.ttest_ind_from_stats(*moments, equal_var=False).pvalue))


def _correlation(ours: Array, theirs: Array) -> float | None:
    """Correlation of the arms over seeds: what pairing gains."""
    return _plain(float(np.corrcoef(ours, theirs)[0, 1])) if _varied(ours, theirs) else None


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _number(value: object) -> float | None:
    return None if value is None else float(str(value))


def _text(value: object) -> str | None:
    return None if value is None else str(value)
