"""From a table of runs to pairs of seeds: the raw material of every verdict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product

import numpy as np
import pandas as pd

from kanzoo.study.inference import Array
from kanzoo.study.items import item_values
from kanzoo.study.variance import in_blocks

COLUMNS = ("data", "model", "arm", "match", "seed", "status", "metric", "mode", "test")
SCORED = {"finished", "diverged"}
STATUSES = {*SCORED, "failed", "waiting"}
KEY = ["data", "model", "match", "arm"]
ORDINARY = ("data", "model")
MAY_LACK = ("forgetting",)  # metrics that a run need not have: of nothing that was learned
DECADE = 10.0  # errors whose largest is so many times the smallest are compared by their ratio


@dataclass(frozen=True)
class Pairs:
    """The runs of one arm beside those of the baseline with the same seeds.

    arm, base: runs with a score, a row a paired seed, both in the same order of seeds; a run that
    diverged has the score of a prediction without skill. unpaired: seeds that make no pair, beside
    the `waiting` ones, which have not run yet. ended: seeds at which nothing is left to run.
    reference: for an interaction, the same comparison elsewhere on an axis; its differences are
    subtracted. missing: finished runs without the metric, as forgetting where nothing was learned.
    """

    key: tuple[str, str, str, str]  # data, model, match, arm
    metric: str
    arm: pd.DataFrame
    base: pd.DataFrame
    unpaired: int
    baseline: str
    mode: str = "max"
    axes: dict[str, str] = field(default_factory=dict)  # its value on each further axis
    scale: str = "difference"
    contrast: str = ""  # what is compared, other than an arm with the baseline of the study
    family: str = "primary"
    reference: Pairs | None = None
    missing: int = 0
    waiting: int = 0
    ended: frozenset[int] = frozenset()

    @property
    def size(self) -> int:
        return len(self.arm)

    @property
    def sign(self) -> float:
        return 1.0 if self.mode == "max" else -1.0

    @cached_property
    def scores(self) -> tuple[Array, Array]:
        """Test scores of both arms on the scale of the comparison, a value a seed."""
        both = (table["test"].to_numpy(dtype=float) for table in (self.arm, self.base))
        if self.scale == "log ratio":
            both = (np.log(values) for values in both)
        ours, theirs = both
        return ours, theirs

    @cached_property
    def differences(self) -> Array:
        """(n,), positive where the arm is better; equal ones are so to the last digit."""
        ours, theirs = self.scores
        d = (ours - theirs) * self.sign
        size = max(np.abs(ours).max(initial=0.0), np.abs(theirs).max(initial=0.0))
        if len(d) and np.ptp(d) <= 1e-12 * size:
            d = np.full(len(d), np.median(d))  # equal up to the rounding of a subtraction
        return d - self.reference.differences if self.reference is not None else d

    @property
    def diverged(self) -> tuple[int, int]:
        """How many of the paired runs diverged, of the arm and of the baseline."""
        ours, theirs = (int(t["status"].eq("diverged").sum()) for t in (self.arm, self.base))
        return ours, theirs

    def item_rows(self) -> list[Array] | None:
        """Differences at the test items, (m,) a seed, with `differences` as their means.

        None where a run has no values an item, or where runs have other test sets.
        """
        other = self.reference.item_rows() if self.reference is not None else []
        if other is None:
            return None
        rows: list[Array] = []
        for ours, theirs in zip(*map(self._item_values, (self.arm, self.base)), strict=True):
            if ours is None or theirs is None:
                return None
            rows.append((ours - theirs) * self.sign)
        lengths = {row.size for row in [*rows, *other] if row.ndim}
        if len(lengths) != 1:
            return None
        for seed, difference in enumerate(self.differences):
            row = np.broadcast_to(rows[seed], lengths) - (other[seed] if other else 0.0)
            # Scores are kept in single precision: the mean is moved to what was reported.
            rows[seed] = row + (difference - row.mean())
        return rows

    def _item_values(self, table: pd.DataFrame) -> Iterator[Array | None]:
        """Values of each run, (m,), or () of one that diverged."""
        prefix, is_ordered = "", self.split("is_ordered")
        if self.axes.get("corruption", "clean") != "clean":
            prefix = f"{self.axes['corruption']}_{self.axes['severity']}."
        paths = table["items"] if "items" in table else [""] * len(table)
        for score, status, path in zip(table["test"], table["status"], paths, strict=True):
            if status == "diverged":
                yield np.asarray(float(score))
                continue
            values = item_values(str(path or ""), self.metric, float(score), prefix)
            if values is not None and self.scale == "log ratio":
                values = np.log(score) + (values - score) / score
            yield in_blocks(values) if is_ordered and values is not None else values

    def split(self, name: str) -> object:
        """What all runs say of the split: a size, or where the test set comes from; None else."""
        if name not in self.arm or not self.size:
            return None
        found = {*self.arm[name].tolist(), *self.base[name].tolist()} - {"", None}
        found = {value for value in found if value == value}
        return found.pop() if len(found) == 1 else None

    def ratio(self, column: str) -> float:
        """Median of a cost over the arm's runs, over that of the baseline's; NaN if unknown."""
        if (
            column not in self.arm
            or self.arm[column].isna().all()
            or self.base[column].isna().all()
        ):
            return float("nan")
        top, bottom = (np.nanmedian(t[column].to_numpy(float)) for t in (self.arm, self.base))
        return float(top / bottom) if bottom else float("nan")

    @property
    def is_tuned(self) -> bool:
        """Whether both arms were tuned, also where they are compared with themselves elsewhere."""
        both = all(
            "is_tuned" in table and table["is_tuned"].all() for table in (self.arm, self.base)
        )
        return both and (self.reference is None or self.reference.is_tuned)

    @property
    def is_collapsed(self) -> bool:
        """Whether some runs of an arm, not all, did no better than a prediction without skill."""
        for table in (self.arm, self.base):
            if "no_skill" in table and self.size:
                gained = table["test"].to_numpy(float) - table["no_skill"].to_numpy(float)
                lost = gained * self.sign <= 0
                if lost.any() and not lost.all():
                    return True
        return False


def pair_seeds(results: pd.DataFrame, baseline: str, axes: Sequence[str] = ()) -> list[Pairs]:
    """The pairs of every (data, model, match, *axes, arm), in a fixed order.

    A run whose test value is not finite makes no pair. A baseline that was run under one
    budget mode only serves the arms of every mode, and one that an axis does not concern (its value
    there is empty) the arms at every value. ValueError on bad tables.
    """
    axes = list(axes)
    _check(results, baseline, axes)
    test = pd.to_numeric(results["test"], errors="coerce")
    usable = results["status"].isin(SCORED) & np.isfinite(test)
    results = results.assign(test=test, _usable=usable, **{a: results[a].map(str) for a in axes})
    results = results.sort_values("seed")
    twins: dict[tuple[str, ...], dict[str, pd.DataFrame]] = {}
    is_baseline = results["arm"] == baseline
    for place, rows in results[is_baseline].groupby(["match", *ORDINARY, *axes]):
        match, *names = map(str, place)
        twins.setdefault(tuple(names), {})[match] = rows
    pairs = []
    for key, rows in results[~is_baseline].groupby([*KEY[:3], *axes, "arm"]):
        data, model, match, *values, arm = map(str, key)
        near = product((data,), (model,), *((value, "") for value in values))
        modes = next((twins[names] for names in near if names in twins), {})
        only = next(iter(modes.values())) if len(modes) == 1 else results.iloc[:0]
        point = dict(zip(axes, values, strict=True))
        twin = modes.get(match, only)
        pairs.append(_pair((data, model, match, arm), point, rows, twin, baseline))
    return sorted(pairs, key=_order)


def contrasts(
    results: pd.DataFrame, wanted: Iterable[Sequence[str]], axes: Sequence[str] = ()
) -> list[Pairs]:
    """Comparisons of one arm with another that is not the baseline, for each (arm, other)."""
    found = []
    for arm, other in wanted:
        if not {arm, other} <= set(results["arm"]):  # a control that is not for these data
            continue
        rows = results[results["arm"].isin([arm, other])]
        found += [
            replace(pairs, contrast=f"against {other}", family="contrasts")
            for pairs in pair_seeds(rows, other, axes)
        ]
    return found


def interactions(pairs: Sequence[Pairs], references: Mapping[str, str]) -> list[Pairs]:
    """How the comparisons change along axes, against their `references`, axis: value.

    The baseline may lose more along an axis than the arm: then the change is positive.
    """
    known = {(p.key, p.metric, tuple(p.axes.items())): p for p in pairs}
    found = []
    for axis, value in references.items():
        for p in pairs:
            if p.axes.get(axis, value) == value:
                continue
            place = {**p.axes, axis: value}
            if axis == "severity":
                place["corruption"] = "clean"
            other = known.get((p.key, p.metric, tuple(place.items())))
            if other is not None:
                seeds = set(p.arm["seed"]) & set(other.arm["seed"])
                here, there = (at_seeds(which, seeds) for which in (p, other))
                words = f"change from {axis.replace('_', ' ')} {value}"
                ended = p.ended & other.ended
                found.append(replace(here, reference=there, contrast=words, family="contrasts",
                                     ended=ended))  # fmt: skip
    return found


def with_scale(pairs: Sequence[Pairs]) -> list[Pairs]:
    """The pairs, by the ratio of errors where these span decades: the same for all arms of a task.

    Runs that diverged are left out of account.
    """
    groups: dict[tuple[str, ...], list[Pairs]] = {}
    for p in pairs:
        groups.setdefault((*p.key[:2], p.metric), []).append(p)
    wide = set()
    for group, members in groups.items():
        tables = [table for p in members for table in (p.arm, p.base)]
        values = pd.concat([t.loc[t["status"].eq("finished"), "test"] for t in tables])
        positive = all((t["test"] > 0).all() for t in tables)
        if members[0].mode == "min" and positive and len(values):
            wide |= {group} if values.max() >= DECADE * values.min() else set()
    return [replace(p, scale="log ratio") if (*p.key[:2], p.metric) in wide else p for p in pairs]


def axis_order(value: str) -> tuple[int, float, str]:
    """Orders the values of an axis: numbers by size, then words, then what has none."""
    try:
        return (0, float(value), "")
    except ValueError:
        return (1 + (value == ""), 0.0, value)


def at_seeds(pairs: Pairs, seeds: set[int]) -> Pairs:
    """The pairs of some seeds; the others count as unpaired."""
    arm, base = (table[table["seed"].isin(seeds)] for table in (pairs.arm, pairs.base))
    return replace(pairs, arm=arm, base=base, unpaired=pairs.unpaired + pairs.size - len(arm))


def _order(pairs: Pairs) -> tuple[object, ...]:
    data, model, match, arm = pairs.key
    return (data, model, match, *(axis_order(value) for value in pairs.axes.values()), arm)


def _check(results: pd.DataFrame, baseline: str, axes: list[str]) -> None:
    missing = [name for name in (*COLUMNS, *axes) if name not in results]
    if missing:
        raise ValueError(f"results lack the columns {missing}; needed: {[*COLUMNS, *axes]}")
    arms = sorted(results["arm"].astype(str).unique())
    if baseline not in arms:
        raise ValueError(f"no run of the baseline arm {baseline!r}; arms with runs: {arms}")
    for column, allowed in (("status", STATUSES), ("mode", {"max", "min"})):
        if unknown := set(results[column]) - allowed:
            raise ValueError(f"unknown {column} {unknown}; allowed: {sorted(allowed)}")
    keys = [*KEY, *axes, "seed"]
    if (twice := results.duplicated(keys)).any():
        raise ValueError(f"two runs of {results.loc[twice, keys].iloc[0].to_dict()}")


def _pair(
    key: tuple[str, str, str, str], axes: dict[str, str], arm: pd.DataFrame, base: pd.DataFrame,
    baseline: str,
) -> Pairs:  # fmt: skip
    named = set(zip(arm["metric"], arm["mode"], strict=True))
    named |= set(zip(base["metric"], base["mode"], strict=True))
    if len(named) != 1:
        raise ValueError(f"{'/'.join(key)} mixes metrics: {sorted(named)}; allowed: one")
    metric, mode = next(iter(named))
    family = str(arm["family"].iloc[0]) if "family" in arm else "primary"
    seeds = set(arm["seed"]) | set(base["seed"])
    waiting = {s for t in (arm, base) for s in t.loc[t["status"].eq("waiting"), "seed"]}
    ended = frozenset.intersection(
        *(frozenset(t.loc[t["status"].ne("waiting"), "seed"]) for t in (arm, base))
    )
    missing = sum(int((t["status"].eq("finished") & ~t["_usable"]).sum()) for t in (arm, base))
    arm, base = arm[arm["_usable"]], base[base["_usable"]]
    shared = set(arm["seed"]) & set(base["seed"])
    arm, base = (table[table["seed"].isin(shared)] for table in (arm, base))
    return Pairs(key, metric, arm, base, len(seeds - waiting - shared), baseline, mode, axes,
                 family=family, missing=missing, waiting=len(waiting), ended=ended)  # fmt: skip
