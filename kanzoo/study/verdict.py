"""A verdict: what a study says of one arm against another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

WORDS = ("beyond the margin", "possibly negligible", "equivalent", "undecided")
TONES = ("better", "worse", "equivalent", "undecided")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One arm against the baseline on one data set and model; None = it does not exist.

    Attributes
    ----------
    verdict : str
        `direction` and `word`, with "(recipe)" unless both arms were tuned.
    word : str
        One of `WORDS`.
    direction : str
        "better" or "worse" where a difference was shown, else empty.
    family : str
        Of which Holm's correction runs: "primary", "secondary" or "contrasts".
    contrast : str
        What is compared where it is not an arm with the baseline of the study.
    scale : str
        "difference" in units of the metric, or "log ratio" of errors; positive = the arm is better.
    method : str
        What the deciding standard error stands on: "seeds", "splits" or "seeds and items".
    ci_low, ci_high : float
        The interval that decides; None at one end where it is open there.
    ci_plain_low, ci_plain_high, ci_corrected_low, ci_corrected_high : float
        The paired t-interval over seeds alone, and that corrected for overlapping training sets.
    p_sequential : float
        The least level at which all planned looks together reject, before Holm's correction.
    std_scale : float
        Standard deviation over seeds of the baseline's scores, on `scale`: the unit of effects.
    detectable : float
        The true difference that would have been found with a probability of 80 %; None where there
        is no such, as for an accuracy that would have to differ by more than 1.
    """

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
    word: str
    direction: str
    family: str
    contrast: str
    scale: str
    alpha: float
    look: int
    looks: list[int]
    next_look: int | None
    method: str
    domain: str | None
    test_set: str | None
    n_train: float | None
    n_val: float | None
    n_test: float | None
    standard_error: float | None
    df: float | None
    ci_plain_low: float | None
    ci_plain_high: float | None
    ci_corrected_low: float | None
    ci_corrected_high: float | None
    bootstrap_low: float | None
    bootstrap_high: float | None
    p_sequential: float | None
    p_permutation: float | None
    p_welch: float | None
    p_beyond: float | None
    p_beyond_adjusted: float | None
    p_equivalence: float | None
    p_equivalence_adjusted: float | None
    correlation: float | None
    skewness: float | None
    is_flagged: bool
    detectable: float | None
    mean_arm: float | None
    std_arm: float | None
    mean_baseline: float | None
    std_baseline: float | None
    std_scale: float | None
    std_difference: float | None
    n_failed: int
    n_diverged: int
    n_diverged_baseline: int
    note: str
    axes: dict[str, str] = field(default_factory=dict)

    @property
    def tone(self) -> str:
        """One of `TONES`, by which pictures and tables are coloured."""
        return self.direction or self.word

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for strict JSON; an entry for each further axis of the study."""
        values = asdict(self)
        axes = values.pop("axes")
        return {**values, **axes}


def interval_text(low: float | None, high: float | None, show: Callable[[float], str]) -> str:
    """An interval, open where it has no end; empty where there is none."""
    if low is None and high is None:
        return ""
    left = "(−∞" if low is None else f"[{show(low)}"  # noqa: RUF001
    return f"{left}, ∞)" if high is None else f"{left}, {show(high)}]"
