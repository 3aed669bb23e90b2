"""What a report says of its verdicts in sentences: the rule, and what they are conditional on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from kanzoo.study.inference import POWER
from kanzoo.study.rows import MIN_SEEDS
from kanzoo.study.verdict import Verdict


def rule(verdicts: Sequence[Verdict]) -> str:
    """The rule that decided, for readers."""
    verdict = verdicts[0]
    margins = {v.metric: v.margin for v in verdicts if v.scale == "difference"}
    ratios = {v.margin for v in verdicts if v.scale != "difference"}
    sizes = Counter(v.family for v in verdicts)
    families = ", ".join(f"{name} ({size})" for name, size in sizes.items())
    inside = " or ".join(
        filter(None, [_margins(margins), *(f"±{r:.3g} (log ratio)" for r in ratios)])
    )
    looks = ", ".join(map(str, verdict.looks))
    spent = (
        f" The level is spent over the looks at {looks} seeds." if len(verdict.looks) > 1 else ""
    )
    return (
        f"“Better” and “worse” need a paired t-test with p ≤ {verdict.alpha:g}: “beyond the "
        f"margin” where the difference is proved larger than {inside}, else “possibly negligible”. "
        f"“Equivalent” needs two one-sided tests that put it inside. Each kind of claim is "
        f"Holm-adjusted over its family: {families}.{spent} No verdict below {MIN_SEEDS} paired "
        f"seeds. “(recipe)”: not both arms were tuned. Detectable is the true difference that "
        f"would have been found with a probability of {100 * POWER:g} %."
    )


METHODS = {
    "seeds": "the seeds alone",
    "splits": "the seeds, each with its own split of one sample, corrected for the overlap of "
    "training sets (Nadeau and Bengio)",
    "seeds and items": "the seeds and the items of the one test set that they share",
    "sign-flip": "the signs of equal differences",
}


CLAIMS = {
    "official": "It holds for this pool of training data; beside it in verdicts.json stand the "
    "plain interval and one corrected for overlapping training sets.",
    "fixed": "It holds for this one split into training and test data.",
    "resampled": "The plain interval stands beside it in verdicts.json.",
}


def conditions(verdicts: Sequence[Verdict]) -> list[str]:
    """What verdicts are conditional on, a sentence for each kind of data set."""
    lines: dict[tuple[object, ...], list[str]] = {}
    for v in verdicts:
        if v.n_seeds:
            key = (v.method, v.test_set, v.n_train, v.n_val, v.n_test)
            lines.setdefault(key, []).append(v.data)
    texts = []
    for (method, test_set, *sizes), data in lines.items():
        text = f"On {', '.join(dict.fromkeys(data))} the interval rests on {METHODS[str(method)]}"
        if None not in sizes:
            train, val, test = (f"{size:,.0f}" for size in sizes)
            text += f"; {train} samples of training, {val} of validation, {test} of test"
        texts.append(f"{text}. {CLAIMS.get(str(test_set), '')}".strip())
    return texts


def _margins(margins: Mapping[str, float]) -> str:
    if len(set(margins.values())) == 1:
        return f"±{next(iter(margins.values())):g}"
    return " or ".join(f"±{margin:g} ({metric})" for metric, margin in margins.items())
