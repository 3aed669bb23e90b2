"""A difference taken apart: steps from the baseline to the arm that add up to it.

With a narrow twin and a KAN without a basis, both of the KAN's sizes,

    KAN - twin = (narrow twin - twin) + (without a basis - narrow twin) + (KAN - without a basis):

what the width costs, what the places of the non-linearities bring, and what the basis brings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from kanzoo.study.pairs import Pairs, at_seeds, contrasts
from kanzoo.study.verdict import Verdict

PARTS = ("width", "place", "basis")


def decompose(
    results: pd.DataFrame, parts: Mapping[str, tuple[str, str]], axes: Sequence[str] = ()
) -> list[Pairs]:
    """Pairs of every part, (arm, other) by its name, over the seeds that all its arms have.

    So the differences add up, seed by seed, wherever a cell has all parts.
    """
    groups: dict[tuple[Any, ...], list[Pairs]] = {}
    for name, pair in parts.items():
        for p in contrasts(results, [pair], axes):
            place = (*p.key[:3], p.metric, *p.axes.items())
            groups.setdefault(place, []).append(replace(p, contrast=name))
    steps = []
    for members in groups.values():
        if len(members) == len(parts):
            seeds = set.intersection(*(set(p.arm["seed"]) for p in members))
            ended = frozenset.intersection(*(p.ended for p in members))
            steps += [replace(at_seeds(p, seeds), ended=ended) for p in members]
    return steps


def sums(verdicts: Sequence[Verdict], parts: Sequence[str]) -> list[dict[str, Any]]:
    """A row a cell that was taken apart: each part's verdict, and their sum."""
    cells: dict[tuple[Any, ...], dict[str, Verdict]] = {}
    for v in verdicts:
        if v.contrast in parts:
            place = (v.data, v.model, v.match, v.metric, *v.axes.items())
            cells.setdefault(place, {})[v.contrast] = v
    rows = []
    for steps in cells.values():
        values = [steps[name].mean_difference for name in parts if name in steps]
        if len(values) == len(parts) and None not in values:
            total = sum(value for value in values if value is not None)
            rows.append({"parts": [steps[name] for name in parts], "total": total})
    return rows
