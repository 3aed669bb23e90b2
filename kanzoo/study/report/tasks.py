"""One picture of several studies: the effect of every arm on every task, and what is pooled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from kanzoo.page import style
from kanzoo.study.pool import ALL, Effect, units_of
from kanzoo.study.verdict import interval_text

TICKS = (-50, -20, -5, -1, 0, 1, 5, 20, 50)
MOST_ARMS = 6
BEYOND = 1e3  # the edge of the picture, where an interval is open


def picture(effects: Sequence[Effect], arms: Sequence[Mapping[str, Any]]) -> Figure:
    """Effects with intervals, in the unit in which they are pooled; larger is better.

    A column an arm with at least half as many tasks as any, a row a task, in the colour of its
    verdict; below them the mean over tasks of `arms` (`aggregate_effects`), with its interval and,
    thin, where a new task is expected. The axis is linear near 0 and logarithmic beyond.
    """
    usable = [e for e in effects if e.is_usable]
    counts = Counter(e.arm for e in usable)
    if not counts:
        raise ValueError("no effect has a standard error: there is nothing to draw")
    most = max(counts.values())
    columns = [arm for arm, count in counts.items() if 2 * count >= most][:MOST_ARMS]
    shown = [e for e in usable if e.arm in columns]
    tasks = list(dict.fromkeys(e.task for e in sorted(shown, key=lambda e: e.domain)))
    unit, units = units_of(shown)
    pooled = {
        row["arm"]: row
        for row in arms
        if row["group"] == ALL and row["unit"] == unit and row.get("low") is not None
    }
    with style.style():
        width, height = 2.0 + 1.7 * len(columns), 1.0 + 0.21 * (len(tasks) + 1)
        room = ConstrainedLayoutEngine(rect=(0.02, 0, 0.98, 1))  # for wider fonts of browsers
        figure = Figure(figsize=(width, height), layout=room)
        axes = figure.subplots(1, len(columns), sharex=True, sharey=True, squeeze=False)[0]
        for ax, arm in zip(axes, columns, strict=True):
            for effect, size in zip(shown, units, strict=True):
                if effect.arm == arm:
                    _effect(ax, tasks.index(effect.task), effect, size)
            if arm in pooled:
                _pooled(ax, len(tasks) + 0.4, pooled[arm])
            _frame(ax, arm, len(tasks))
        known = [e.verdict["mean_difference"] / size for e, size in zip(shown, units, strict=True)]
        axes[0].set_xlim(min(-3.0, 1.6 * min(known)), max(3.0, 1.6 * max(known)))
        axes[0].set_yticks([*range(len(tasks)), len(tasks) + 0.4], [*map(_label, tasks), "all"])
        axes[0].set_ylim(len(tasks) + 1.0, -0.7)
        figure.supxlabel(f"← worse\u2003{unit}\u2003better →", fontsize=8)
        style.settle(figure)
    return figure


def _label(task: str) -> str:
    """A task without the name of its study: data and architecture."""
    return " ".join(task.split("/")[1:]).replace("_", " ")


def _effect(ax: Axes, y: float, effect: Effect, unit: float) -> None:
    verdict = effect.verdict
    colour = style.LIGHT.get(verdict["direction"] or verdict["word"], style.MUTED)
    mean = verdict["mean_difference"] / unit
    low, high = (None if verdict[k] is None else verdict[k] / unit for k in ("ci_low", "ci_high"))
    ends = [-BEYOND if low is None else low, BEYOND if high is None else high]
    ax.plot(ends, [y, y], color=colour, lw=1.4, solid_capstyle="butt")
    (dot,) = ax.plot(mean, y, marker="o", ms=3.6, color=colour)
    interval = interval_text(low, high, "{:+.2f}".format)
    text = f"{mean:+.2f} {interval}, {verdict['verdict']}, n = {verdict['n_seeds']}"
    style.tip(dot, f"{_label(effect.task)}, {effect.arm}: {text}")


def _pooled(ax: Axes, y: float, row: Mapping[str, Any]) -> None:
    ax.plot([row["new_low"], row["new_high"]], [y, y], color=style.CURVE, lw=0.8)
    ax.plot([row["low"], row["high"]], [y, y], color=style.CURVE, lw=3.0, solid_capstyle="butt")
    (dot,) = ax.plot(row["mean"], y, marker="D", ms=5, color=style.CURVE)
    new = f"a new task [{row['new_low']:+.2f}, {row['new_high']:+.2f}]"
    mean = f"{row['mean']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]"
    style.tip(dot, f"mean over {row['num_tasks']} tasks: {mean}, {new}")


def _frame(ax: Axes, title: str, tasks: int) -> None:
    ax.set_xscale("asinh", linear_width=1.0)
    ax.xaxis.set_major_locator(FixedLocator(TICKS))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.axvline(0, color=style.MUTED, lw=0.8)
    ax.axhline(tasks - 0.3, color=style.LINE, lw=0.8)
    ax.grid(axis="x")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_title(title, fontsize=9)
