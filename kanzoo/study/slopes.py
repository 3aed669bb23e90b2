"""How fast errors fall with size: slopes of log error over log parameters, and their differences.

For every seed a straight line through its runs of all sizes, by least squares; the slopes of the
seeds give Student's interval, and seeds pair the arms. A slope of -1 halves the error with twice
the parameters. It holds for the sizes of the study: a curve that bends has no slope beyond them.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from kanzoo.study import inference, variance
from kanzoo.study.inference import Array
from kanzoo.study.plan import MIN_SIZES

Interval = tuple[float, float] | None


@dataclass(frozen=True)
class Slope:
    """The slope of an arm over the sizes of a study, a mean over seeds.

    Attributes
    ----------
    cell : dict
        Data, model, budget mode and the values of the other axes.
    sizes : list of float
        Median parameters of the arm's runs, smallest first.
    interval : (float, float) or None
        Of the slope; None with fewer than two seeds.
    difference, difference_interval
        Slope of the arm minus that of the baseline, over the seeds of both; negative where the
        errors of the arm fall faster. None for the baseline.
    bend : float
        Slope between the two largest sizes minus that between the two smallest.
    """

    cell: dict[str, str]
    arm: str
    sizes: list[float]
    num_seeds: int
    slope: float
    interval: Interval
    bend: float
    difference: float | None = None
    difference_interval: Interval = None

    def to_dict(self) -> dict[str, Any]:
        values = asdict(self)
        return {**values.pop("cell"), **values}


def slopes(
    results: pd.DataFrame, baseline: str, axis: str, axes: Sequence[str], alpha: float = 0.05
) -> list[Slope]:
    """The slopes of all arms along the column `axis`, the baseline first at every place.

    results: a row a run; errors are the test values, or what they lack of 1 where more is better.
    Runs of a seed count where they are finished, with an error above 0, at every size of the arm.
    axes: further columns that tell cells apart. Arms with fewer than `MIN_SIZES` sizes have none.
    """
    others = ["data", "model", "match", *(name for name in axes if name != axis)]
    test = pd.to_numeric(results["test"], errors="coerce")
    error = test.where(results["mode"].eq("min"), 1 - test)
    usable = results["status"].eq("finished") & np.isfinite(error) & (error > 0)
    runs = results.assign(error=error)[usable]
    fitted = []
    for key, rows in runs.groupby(others, sort=False):
        cell = dict(zip(others, map(str, key), strict=True))
        fits = {str(arm): _fit(of_arm, axis) for arm, of_arm in rows.groupby("arm")}
        base = fits.get(baseline)
        for arm in sorted(fits, key=lambda name: (name != baseline, name)):
            if fit := fits[arm]:
                sizes, per_seed, bends = fit
                gap, ends = None, None
                if arm != baseline and base:
                    pairs = pd.concat([per_seed, base[1]], axis=1, join="inner")
                    if len(pairs):
                        gap, ends = _mean(pairs.iloc[:, 0] - pairs.iloc[:, 1], alpha)
                bend = float(bends.mean())
                numbers = (sizes, len(per_seed), *_mean(per_seed, alpha), bend)
                fitted.append(Slope(cell, arm, *numbers, gap, ends))
    return fitted


def _fit(rows: pd.DataFrame, axis: str) -> tuple[list[float], pd.Series, Array] | None:
    """Sizes of an arm, the slope of every complete seed, and how much it bends."""
    sizes = rows.groupby(axis)["params"].median().sort_values()
    table = rows.pivot_table(index="seed", columns=axis, values="error")[sizes.index].dropna()
    if sizes.nunique() < MIN_SIZES or table.empty:
        return None
    x, y = np.log(sizes.to_numpy(float)), np.log(table.to_numpy(float))  # (sizes,), (seeds, sizes)
    steps = np.diff(y) / np.diff(x)
    slope = (y @ (x - x.mean())) / np.square(x - x.mean()).sum()
    return sizes.tolist(), pd.Series(slope, index=table.index), steps[:, -1] - steps[:, 0]


def _mean(values: pd.Series, alpha: float) -> tuple[float, Interval]:
    """A mean over seeds with its interval."""
    array = values.to_numpy(float)
    if len(array) < 2:
        return float(array.mean()), None
    e = variance.over_seeds(array)
    low, high = inference.interval(np.array(e.mean), np.array(e.se), np.array(e.df), alpha)
    return e.mean, (float(low), float(high))
