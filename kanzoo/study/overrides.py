"""What the words of a study may say: each of them has an effect, or is refused.

Of one key the last word counts. Those that all cells share come first, then those of an
architecture, both of which are defaults; then those of the command line (`study.further`), of a
budget mode, of the values of axes, and of an arm. Of these no two may set the same key: what a
study declares would not be what it runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import TYPE_CHECKING

from kanzoo.checks import check_name
from kanzoo.study.controls import sources

if TYPE_CHECKING:
    from kanzoo.settings import StudyConfig
    from kanzoo.study.plan import Axis

# Keys that no word may set, and what does.
DECIDED = {
    **{"seed": "study.first_seed and study.seeds", "name": "study.name", "runs": "runs"},
    **{"overwrite": "overwrite", "data": "study.data", "match": "study.match"},
    "evaluation.test": "the study, whose verdicts are of the test set",
    **dict.fromkeys(("experiment", "debug"), "single runs: a study says all of it by other keys"),
}
# What cannot be tuned: trials set it themselves, or the budget of an arm would hang on its trial.
NOT_TUNED = (
    *(*DECIDED, "evaluation", "logger", "training_set.phases"),
    *("model", "match_scope", "match_by", "budget"),
)


@dataclass(frozen=True)
class Source:
    """Where words come from, and the arms that they are for."""

    name: str
    words: frozenset[str]
    arms: frozenset[str]


def key_of(word: str) -> str:
    """The key that a word sets."""
    return word.partition("=")[0].lstrip("+")


def match_words(mode: str) -> list[str]:
    """The overrides of a budget mode: "params", or "params:network" and "params:grid"."""
    match, _, how = str(mode).partition(":")
    key = "match_by" if how == "grid" else "match_scope"
    return [f"match={match}", *([f"{key}={how}"] if how else [])]


def check_words(study: StudyConfig, arms: Mapping[str, list[str]], axes: Sequence[Axis]) -> None:
    """Raise a `ValueError` of one line for a word of a study that would have no effect."""
    values = {f"study.axes.{a.name}.{v}": words for a in axes for v, words in a.values.items()}
    shared = {"study.overrides": study.overrides, "study.further": study.further, **values}
    chosen = {f"study.models.{name}": words for name, words in study.models.items()}
    chosen |= {f"study.arms.{name}": words for name, words in study.arms.items()}
    for name, words in {**shared, **chosen}.items():
        keys = [key_of(word) for word in words]
        decided = DECIDED if name in chosen else {**DECIDED, "model": "study.models"}
        for key in keys:
            if key in decided:
                raise ValueError(f"{name} sets {key}, which is left to {decided[key]}")
            if keys.count(key) > 1 and name.startswith(("study.axes.", "study.arms.")):
                raise ValueError(f"{name} sets {key} twice")
    for key in [key for space in (study.tune.space, *study.tune.extra.values()) for key in space]:
        if key in NOT_TUNED or key.startswith(("evaluation.", "logger.")):
            raise ValueError(f"study.tune has {key}, which cannot be tuned")
    tuning_order(arms)
    everywhere = frozenset(arms)
    found = [Source("study.further", frozenset(study.further), everywhere)]
    found += [
        Source(f"study.match={mode}", frozenset(match_words(mode)), everywhere)
        for mode in study.match
    ]
    found += [
        Source(
            f"study.axes.{axis.name}",
            frozenset(word for words in axis.values.values() for word in words),
            everywhere if axis.arms is None else frozenset(axis.arms),
        )
        for axis in axes
    ]
    found += [
        Source(f"study.arms.{arm}" if arm in study.arms else f"the control {arm}",
               frozenset(words), frozenset([arm]))
        for arm, words in arms.items()
    ]  # fmt: skip
    for one, other in combinations(found, 2):
        is_match = one.name.startswith("study.match") and other.name.startswith("study.match")
        if one.arms & other.arms and not is_match:
            check_apart(one.name, one.words, other.name, other.words)


def check_apart(name: str, words: Iterable[str], other: str, others: Iterable[str]) -> None:
    """Raise a `ValueError` of one line where both of two sources set a key."""
    for word, further in product(sorted(words), sorted(others)):
        a, b = key_of(word), key_of(further)
        if word != further and (a == b or _is_inside(a, b) or _is_inside(b, a)):
            raise ValueError(f"{name} and {other} both set {a}: one of them would have no effect")


def tuning_order(arms: Mapping[str, list[str]]) -> list[list[str]]:
    """Groups of arms, each after those that it takes something from.

    `ValueError` for arms that take something from none that there is, or from each other.
    """
    waiting = {arm: sources(words) for arm, words in arms.items()}
    order: list[list[str]] = []
    for arm, others in waiting.items():
        for other in others:
            check_name(f"arm that study.arms.{arm} takes something from", other, arms)
    while waiting:
        order.append([arm for arm, others in waiting.items() if not others & set(waiting)])
        if not order[-1]:
            raise ValueError(f"study.arms: {', '.join(waiting)} take something from each other")
        waiting = {arm: others for arm, others in waiting.items() if arm not in order[-1]}
    return order


def _is_inside(key: str, node: str) -> bool:
    """Whether a key lies in a node that another word sets; the choice of a group leaves keys."""
    return "." in node and key.startswith(f"{node}.")
