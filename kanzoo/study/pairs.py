"""From a table of runs to pairs of seeds: the raw material of every verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import pandas as pd

from kanzoo.study.inference import Array

COLUMNS = ("data", "model", "arm", "match", "seed", "status", "metric", "mode", "test")
KEY = ["data", "model", "match", "arm"]
ORDINARY = ("data", "model")


@dataclass(frozen=True)
class Pairs:
    """The seeds of one arm that finished beside the same seeds of the baseline.

    arm, base: finished runs, a row a paired seed, both in the same order of seeds.
    differences: (n,), positive where the arm is better. unpaired: seeds that make no pair.
    """

    key: tuple[str, str, str, str]  # data, model, match, arm
    metric: str
    arm: pd.DataFrame
    base: pd.DataFrame
    differences: Array
    unpaired: int
    mode: str = "max"
    axes: dict[str, str] = field(default_factory=dict)  # its value on each further axis

    @property
    def size(self) -> int:
        return len(self.differences)

    @property
    def mean(self) -> float:
        return float(self.differences.mean()) if self.size else float("nan")

    @property
    def std(self) -> float:
        if self.size < 2:
            return float("nan")
        return float(self.differences.std(ddof=1)) if np.ptp(self.differences) else 0.0

    def ratio(self, column: str) -> float:
        """Median of a cost over the arm's runs, over that of the baseline's; NaN if unknown."""
        if column not in self.arm or not self.size:
            return float("nan")
        top, bottom = (pd.to_numeric(t[column]).median() for t in (self.arm, self.base))
        return float(top / bottom) if bottom else float("nan")


def pair_seeds(results: pd.DataFrame, baseline: str, axes: Sequence[str] = ()) -> list[Pairs]:
    """The pairs of every (data, model, match, *axes, arm), in a fixed order.

    A run whose test value is not finite is no finished run. A baseline that was run under one
    budget mode only serves the arms of every mode, and one that an axis does not concern (its value
    there is empty) the arms at every value. ValueError on bad tables.
    """
    axes = list(axes)
    _check(results, baseline, axes)
    test = pd.to_numeric(results["test"], errors="coerce")
    usable = results["status"].eq("finished") & np.isfinite(test)
    results = results.assign(test=test, _usable=usable, **{a: results[a].map(str) for a in axes})
    results = results.sort_values("seed")
    twins: dict[tuple[str, ...], dict[str, pd.DataFrame]] = {}
    own = results["arm"] == baseline
    for place, rows in results[own].groupby(["match", *ORDINARY, *axes]):
        match, *names = map(str, place)
        twins.setdefault(tuple(names), {})[match] = rows
    pairs = []
    for key, rows in results[~own].groupby([*KEY[:3], *axes, "arm"]):
        data, model, match, *values, arm = map(str, key)
        near = product((data,), (model,), *((value, "") for value in values))
        modes = next((twins[names] for names in near if names in twins), {})
        only = next(iter(modes.values())) if len(modes) == 1 else results.iloc[:0]
        point = dict(zip(axes, values, strict=True))
        pairs.append(_pair((data, model, match, arm), point, rows, modes.get(match, only)))
    return sorted(pairs, key=_order)


def axis_order(value: str) -> tuple[int, float, str]:
    """Orders the values of an axis: numbers by size, then words, then what has none."""
    try:
        return (0, float(value), "")
    except ValueError:
        return (1 + (value == ""), 0.0, value)


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
    for column, allowed in (("status", {"finished", "failed"}), ("mode", {"max", "min"})):
        if unknown := set(results[column]) - allowed:
            raise ValueError(f"unknown {column} {unknown}; allowed: {sorted(allowed)}")
    keys = [*KEY, *axes, "seed"]
    if (twice := results.duplicated(keys)).any():
        raise ValueError(f"two runs of {results.loc[twice, keys].iloc[0].to_dict()}")


def _pair(
    key: tuple[str, str, str, str], axes: dict[str, str], arm: pd.DataFrame, base: pd.DataFrame
) -> Pairs:
    named = set(zip(arm["metric"], arm["mode"], strict=True))
    named |= set(zip(base["metric"], base["mode"], strict=True))
    if len(named) != 1:
        raise ValueError(f"{'/'.join(key)} mixes metrics: {sorted(named)}; allowed: one")
    metric, mode = next(iter(named))
    seeds = set(arm["seed"]) | set(base["seed"])
    arm, base = arm[arm["_usable"]], base[base["_usable"]]
    shared = set(arm["seed"]) & set(base["seed"])
    arm, base = (table[table["seed"].isin(shared)] for table in (arm, base))
    ours, theirs = (table["test"].to_numpy(dtype=float) for table in (arm, base))
    d = (ours - theirs) * (1.0 if mode == "max" else -1.0)
    if len(d) and np.ptp(d) <= 1e-12 * max(np.abs(ours).max(), np.abs(theirs).max()):
        d = np.full(len(d), np.median(d))  # equal up to the rounding of a subtraction
    return Pairs(key, metric, arm, base, d, len(seeds) - len(shared), mode, axes)
