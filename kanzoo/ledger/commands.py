"""Whether the command of a row is that of its study, arm, model, data, budget, axes and seed."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from typing import Any

from kanzoo.settings import StudyConfig
from kanzoo.study.controls import is_borrowing
from kanzoo.study.overrides import key_of, match_words
from kanzoo.study.plan import arms_of, axes_of, words_of

PROGRAM = ["python", "scripts/train.py"]
# What a plan adds by what it solves: sizes and budgets of other arms, a fixed split, tags.
BORROWED = ("match", "budget")
ADDED = ("data.split_seed", "logger.wandb.tags")


def wrong_command(row: dict[str, Any], study: StudyConfig) -> str:
    """What is wrong with the command of a row, empty if nothing is.

    It has the words that the study declares, and beside them only settings that were tuned, each
    once, and what a plan adds itself.
    """
    program, words = _split(row["command"])
    if program != PROGRAM:
        return f"its command begins with {' '.join(program)}, not {' '.join(PROGRAM)}"
    declared = declared_words(row, study)
    if lost := [word for word in declared if word not in words]:
        return f"its command is not that of arm {row['arm']}, which has {' '.join(lost)}"
    further = [word for word in words if word not in declared]
    tuned = {*study.tune.space, *study.tune.extra.get(row["arm"], {})}
    allowed = {*tuned, *ADDED}
    if any(map(is_borrowing, arms_of(study)[row["arm"]])):
        allowed |= {*BORROWED, *(key_of(w) for w in further if w.startswith("model."))}
    foreign = [word for word in further if word.startswith("+") or key_of(word) not in allowed]
    if foreign:
        return f"its command has {foreign[0]}, which the study does not say"
    twice = [key for key, count in Counter(map(key_of, further)).items() if count > 1]
    return f"its command sets {twice[0]} twice" if twice else ""


def declared_words(row: dict[str, Any], study: StudyConfig) -> list[str]:
    """The overrides that a study declares for the cell of a row."""
    arm = row["arm"]
    at: list[str] = []
    for axis in axes_of(study):
        if axis.arms is None or arm in axis.arms:
            only = next(iter(axis.values)) if len(axis.values) == 1 else ""
            at += axis.values[row.get(axis.name, only)]
    own, at, chosen = words_of(study, row["model"], arm, at)
    place = [f"data={row['data']}", f"name={study.name}", "runs=runs", f"seed={row['seed']}"]
    shared = [*study.overrides, *study.further, *match_words(row["match"])]
    return [*place, *shared, *own, *at, *chosen]


def says(row: dict[str, Any]) -> dict[str, Any]:
    """Of what a command sets last, the parts that a result has, too."""
    last = dict(word.split("=", 1) for word in _split(row["command"])[1] if "=" in word)
    parts = ("data", "model", "layers", "basis", "name")
    texts: dict[str, Any] = {key: last[key] for key in parts if key in last}
    return {**texts, "seed": json.loads(last["seed"])}


def _split(command: str) -> tuple[list[str], list[str]]:
    words = shlex.split(command)
    return words[: len(PROGRAM)], words[len(PROGRAM) :]
