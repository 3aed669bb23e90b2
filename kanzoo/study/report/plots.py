"""Plots of a report: small SVG panels whose colours the page's style sheet decides.

Arms have the colours --c0 (the baseline) to --c7 of the style sheet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    EngFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    StrMethodFormatter,
)

from kanzoo.page import style
from kanzoo.page.html import inline
from kanzoo.study.pairs import axis_order
from kanzoo.study.verdict import Verdict, interval_text

if TYPE_CHECKING:
    from kanzoo.interpret.edges import EdgeCurves

SERIES = 8
MARKERS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "P": "✚", "X": "✖", "*": "★"}
DASHES = {"solid": "-", "dashed": (0, (5, 2)), "dotted": (0, (1.5, 1.5))}
MAX_EDGES = 16
MAX_POINTS = 200
_PANEL = {
    "font.size": 9.5, "axes.labelsize": 9.5, "xtick.labelsize": 9, "ytick.labelsize": 9,
    "axes.grid": True, "lines.linewidth": 1.6, "xtick.minor.size": 0,
    "figure.facecolor": "none", "axes.facecolor": "none",
}  # fmt: skip


@dataclass(frozen=True)
class Panel:
    """One small drawing with the heading and the line below it that the page sets."""

    title: str
    svg: str
    note: str = ""
    files: Mapping[str, str | bytes] = field(default_factory=dict)  # by their suffix
    name: str = ""  # of these files, without it


def tone(index: int) -> str:
    """The style sheet's variable for the colour of the index-th arm; the baseline is 0."""
    return f"c{index if index < SERIES else 1 + (index - 1) % (SERIES - 1)}"


def colour(index: int) -> str:
    """The light colour that becomes `tone`."""
    return style.LIGHT[tone(index)]


def dash_name(index: int) -> str:
    """The CSS name of the index-th arm's line style in learning curves."""
    return list(DASHES)[index % len(DASHES)]


def sign(index: int) -> str:
    """The index-th model's marker as a character, for legends."""
    return list(MARKERS.values())[index % len(MARKERS)]


@contextmanager
def _axes(finish: Callable[[Panel], None], title: str, label: str, height: float = 2.5,
          heights: Sequence[float] = (1.0,)) -> Iterator[list[Axes]]:  # fmt: skip
    """Axes below each other, of relative heights; on leaving, `finish` gets the panel."""
    with style.style(_PANEL):
        figure = Figure(figsize=(4.0, height), layout="constrained")
        grid = {"height_ratios": heights}
        rows = figure.subplots(len(heights), sharex=True, squeeze=False, gridspec_kw=grid)
        yield list(rows[:, 0])
        style.settle(figure)  # once for both files
        svg = style.svg_of(figure)
        files: dict[str, str | bytes] = {".svg": svg, ".pdf": style.pdf_of(figure)}
        finish(Panel(title, inline(svg, f"{label}: {title}"), files=files))


def forest(
    title: str, rows: Sequence[Verdict], names: Sequence[str], colours: Sequence[int]
) -> Panel:
    """Mean differences with their intervals, the zero line and the band of the margin."""
    drawn: list[Panel] = []
    height = 0.75 + 0.46 * len(rows)
    with _axes(drawn.append, title, "Differences with intervals", height) as (ax,):
        margin = max(row.margin for row in rows)
        ax.axvspan(-margin, margin, color=style.BAND, lw=0)
        ax.axvline(0, color=style.MUTED, lw=1)
        known = [v for row in rows for v in (row.mean_difference, row.ci_low, row.ci_high)]
        ends = [-1.3 * margin, 1.3 * margin, *(v for v in known if v is not None)]
        extent = (max(ends) - min(ends)) or 1.0
        edges = (min(ends) - 0.06 * extent, max(ends) + 0.06 * extent)
        for y, (row, name, index) in enumerate(zip(rows, names, colours, strict=True)):
            word = style.LIGHT[row.tone]
            above: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "va": "bottom"}
            ax.annotate(name, (0, y - 0.16), **above)
            ax.annotate(row.verdict, (1, y - 0.16), ha="right", color=word, **above)
            if row.mean_difference is None:
                continue
            if row.bootstrap_low is not None and row.bootstrap_high is not None:
                ax.plot([row.bootstrap_low, row.bootstrap_high], [y, y], color=colour(index),
                        lw=1, alpha=0.55)  # fmt: skip
            interval = interval_text(row.ci_low, row.ci_high, "{:+.4g}".format)
            text = f"{name}: {row.mean_difference:+.4g} {interval}, {row.verdict}"
            if interval:  # to the edge where it is open
                span = [e if v is None else v for v, e in zip((row.ci_low, row.ci_high), edges,
                                                              strict=True)]  # fmt: skip
                (line,) = ax.plot(span, [y, y], color=colour(index), lw=3.2, solid_capstyle="butt")
                style.tip(line, text)
            (dot,) = ax.plot(row.mean_difference, y, marker="o", ms=6.5, color=colour(index))
            style.tip(dot, text)
        ax.set_xlim(*edges)
        ax.set_ylim(len(rows) - 0.55, -0.75)
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
        ax.grid(axis="y", visible=False)
        ax.locator_params(axis="x", nbins=5)
        ax.set_xlabel(f"← worse\u2003{rows[0].scale} in {rows[0].metric}\u2003better →")
    return drawn[0]


def cost(
    title: str, points: pd.DataFrame, label: str, metric: str, mode: str,
    colours: Mapping[str, int], markers: Mapping[str, int],
) -> Panel:  # fmt: skip
    """Metric against one cost and the Pareto front of the means.

    points: a row a (model, arm) with columns model, arm, cost, mean, std.
    """
    drawn: list[Panel] = []
    with _axes(drawn.append, title, f"{metric} against {label}", 2.7) as (ax,):
        ordered = points.sort_values(["cost", "mean"], ascending=[True, mode == "min"])
        best = ordered["mean"].cummax() if mode == "max" else ordered["mean"].cummin()
        front = ordered[best != best.shift()]
        ax.step(front["cost"], front["mean"], where="post", color=style.MUTED, lw=1, ls=(0, (3, 2)))
        for row in points.fillna({"std": 0.0}).to_dict("records"):
            dot, *_ = ax.errorbar(
                row["cost"], row["mean"], yerr=row["std"], ms=6.5, elinewidth=1,
                fmt=list(MARKERS)[markers[row["model"]] % len(MARKERS)],
                color=colour(colours[row["arm"]]),
            )  # fmt: skip
            style.tip(dot, f"{row['model']} {row['arm']}: {row['mean']:.4g} ± {row['std']:.2g}\n"
                      f"{label} {row['cost']:,.4g}")  # fmt: skip
        if len(points) and points["cost"].max() > 4 * points["cost"].min() > 0:
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        else:
            ax.locator_params(axis="x", nbins=5)
        count = "(" not in label  # without a unit
        ax.xaxis.set_major_formatter(EngFormatter(sep="") if count else StrMethodFormatter("{x:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.margins(x=0.1)
        ax.set_xlabel(label)
        ax.set_ylabel(metric)
    return drawn[0]


def curves(
    title: str, tables: Mapping[str, Mapping[str, list[pd.Series]]], colours: Mapping[str, int],
    over: str = "epoch",
) -> Panel:  # fmt: skip
    """Mean over seeds of series indexed by epoch, with a band of one standard deviation.

    tables: by the label of the quantity, which gets axes of its own, the series of every arm. The
    frame fits what comes after the first fifth; of another index than epochs, everything.
    """
    drawn: list[Panel] = []
    heights = [1.0] + [0.6] * (len(tables) - 1)
    label = f"{next(iter(tables))} over {over}"
    with _axes(drawn.append, title, label, 0.5 + 2.0 * sum(heights), heights) as rows:
        for ax, (quantity, series) in zip(rows, tables.items(), strict=True):
            _draw_curves(ax, series, colours, over)
            ax.set_ylabel(quantity)
        rows[-1].set_xlabel(over)
    seeds = max(len(series) for by_arm in tables.values() for series in by_arm.values())
    return replace(drawn[0], note=f"{seeds} seeds")


def _draw_curves(
    ax: Axes, tables: Mapping[str, list[pd.Series]], colours: Mapping[str, int], over: str
) -> None:
    values: list[float] = []
    for arm, series in tables.items():
        table = pd.concat(series, axis=1).sort_index()
        table = table.iloc[:: max(1, len(table) // MAX_POINTS)]
        mean, std = table.mean(axis=1), table.std(axis=1).fillna(0.0)
        index, dash = colours[arm], DASHES[dash_name(colours[arm])]
        alone = "o" if len(table) == 1 else None
        (line,) = ax.plot(table.index, mean, color=colour(index), ls=dash, marker=alone)
        band = ax.fill_between(
            table.index, mean - std, mean + std, color=colour(index), alpha=0.15, lw=0
        )
        end = f"{arm}: {mean.iloc[-1]:.4g} ± {std.iloc[-1]:.2g} after {over} {table.index[-1]}"
        style.tip(line, end)
        style.tip(band, end)
        # The steep start would flatten all that follows.
        late = slice(len(table) // 5 if over == "epoch" else 0, None)
        values += [(mean - std)[late].min(), (mean + std)[late].max()]
    extent = max(values) - min(values)
    if extent > 0:
        ax.set_ylim(min(values) - 0.08 * extent, max(values) + 0.08 * extent)
    ax.margins(x=0.02)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def along(
    title: str, series: Mapping[str, pd.DataFrame], over: str, metric: str,
    colours: Mapping[str, int],
) -> Panel:  # fmt: skip
    """Metric along an axis of the study, with intervals; values that are no numbers as words.

    series: of each arm a table with columns value (text, empty for an arm that the axis does not
    concern, which becomes a level line), mean and half (of its interval, 0 where unknown).
    """
    texts = {text for table in series.values() for text in table["value"]} - {""}
    words = sorted(texts, key=axis_order)
    numbers = all(axis_order(word)[0] == 0 for word in words)
    positions = {word: float(word) if numbers else float(i) for i, word in enumerate(words)}
    span = (max(positions.values()) - min(positions.values())) or 1.0
    drawn: list[Panel] = []
    with _axes(drawn.append, title, f"{metric} along {over}", 2.6) as (ax,):
        positive = numbers and min(positions.values()) > 0
        is_log = positive and max(positions.values()) > 8 * min(positions.values())
        for arm, table in series.items():
            index, dash = colours[arm], DASHES[dash_name(colours[arm])]
            flat = table[table["value"] == ""]
            for row in flat.to_dict("records"):
                style.tip(
                    ax.axhline(row["mean"], color=colour(index), ls=dash),
                    f"{arm}: {row['mean']:.4g} ± {row['half']:.2g}",
                )
            rest = table[table["value"] != ""]
            # Beside each other, or intervals of arms that agree would hide each other.
            shift = 0.0 if is_log else 0.012 * span * (index - (len(series) - 1) / 2)
            x = np.array([positions[value] + shift for value in rest["value"]])
            if is_log:
                x = x * 1.02 ** (index - (len(series) - 1) / 2)
            order = np.argsort(x)
            if not len(rest):
                continue
            line, *_ = ax.errorbar(
                x[order], rest["mean"].to_numpy()[order], yerr=rest["half"].to_numpy()[order],
                color=colour(index), ls=dash if numbers else "none", marker="o", ms=4.5,
                elinewidth=1,
            )  # fmt: skip
            points = [f"{over} {row['value']}: {row['mean']:.4g} ± {row['half']:.2g}"
                      for row in rest.iloc[order].to_dict("records")]  # fmt: skip
            style.tip(line, "\n".join([arm, *points]))
        if is_log:
            ax.set_xscale("log")
            ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_xticks(list(positions.values()), list(positions))
        ax.minorticks_off()
        ax.margins(x=0.06)
        ax.set_xlabel(over)
        ax.set_ylabel(metric)
    return drawn[0]


def edges(plot: EdgeCurves) -> Panel:
    """Edge functions over their input; at most `MAX_EDGES`, the rest is counted in the note."""
    x, ys = np.asarray(plot.x, float), np.atleast_2d(np.asarray(plot.ys, float))
    if x.ndim != 1 or ys.shape[1:] != x.shape:
        raise ValueError(f"edge plot {plot.title!r}: x {x.shape} and ys {ys.shape} do not agree")
    drawn: list[Panel] = []
    with _axes(drawn.append, plot.title, "Edge functions", 2.2) as (ax,):
        for index, y in enumerate(ys[:MAX_EDGES]):
            (line,) = ax.plot(x, y, color=colour(1 + index), lw=1.2, alpha=0.85)
            style.tip(line, f"edge {index + 1} of {len(ys)}")
        ax.margins(x=0.0)
        ax.set_xlabel("input")
        ax.set_ylabel("edge output")
    more = f"{MAX_EDGES} of {len(ys)} edges shown" if len(ys) > MAX_EDGES else ""
    return replace(drawn[0], note="; ".join(filter(None, (plot.note, more))))


def rates(
    title: str, points: Mapping[str, Sequence[tuple[float, float, bool]]], metric: str,
    colours: Mapping[str, int],
) -> Panel:  # fmt: skip
    """Scores of trials against their learning rates.

    points: of each arm, by rate: the rate, the score and whether the trial was chosen, which makes
    its mark larger.
    """
    drawn: list[Panel] = []
    label = f"{metric} against learning rate"
    with _axes(drawn.append, title, label, 2.6) as (ax,):
        for arm, rows in points.items():
            x, y, chosen = zip(*rows, strict=True)
            index = colours[arm]
            ax.plot(x, y, color=colour(index), ls=DASHES[dash_name(index)], lw=1.2)
            ax.scatter(x, y, s=[60 if c else 14 for c in chosen], color=colour(index), alpha=0.85)
        ax.set_xscale("log")
        ax.margins(x=0.06)
        ax.set_xlabel("learning rate")
        ax.set_ylabel(metric)
    return replace(drawn[0], note="large: chosen")
