"""Curves of a metric against the share of edges that are kept, in one plot."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from kanzoo.page import style

COLOURS = ("c1", "c0", "c2", "c3")


def draw_profiles(profiles: Mapping[str, np.ndarray]) -> Figure:
    """Scores `(seeds, edges)` of layers, sorted in every seed: the median, and a band of all."""
    with style.style():
        figure = Figure(figsize=(2.6 * len(profiles) + 0.4, 2.4))
        for index, (name, scores) in enumerate(profiles.items()):
            width, height = figure.get_size_inches()
            left = (0.5 + 2.6 * index) / width
            axes = figure.add_axes((left, 0.45 / height, 1.95 / width, 1.6 / height))
            ranked = -np.sort(-scores, axis=1)
            ranks = np.arange(1, ranked.shape[1] + 1)
            axes.fill_between(ranks, ranked.min(0), ranked.max(0), color=style.CURVE, alpha=0.25)
            axes.plot(ranks, np.median(ranked, 0), color=style.CURVE, lw=1.4)
            axes.set_title(name, fontsize=8.5, loc="left", pad=4)
            axes.set_xlabel("rank of the edge", fontsize=7.5)
            axes.set_ylim(bottom=0)
    return figure


def draw(
    curves: Mapping[str, Sequence[tuple[float, float]]], metric: str, axis: str = "edges kept"
) -> Figure:
    """A line a curve, by its name; shares on a logarithmic axis, numbers under the pointer."""
    with style.style():
        figure = Figure(figsize=(6.4, 3.4))
        axes = figure.add_axes((0.11, 0.16, 0.86, 0.8))
        for colour, (name, points) in zip(COLOURS, curves.items(), strict=False):
            shares, values = zip(*points, strict=True)
            axes.plot(shares, values, "o-", ms=4, lw=1.6, color=style.LIGHT[colour], label=name)
            for share, value in points:
                (dot,) = axes.plot([share], [value], "o", ms=8, alpha=0.0, color=style.TEXT)
                style.tip(dot, f"{name}\n{100 * share:.3g} % of edges: {metric} {value:.4g}")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xticks([0.02, 0.05, 0.1, 0.2, 0.5, 1.0])
        axes.minorticks_off()
        axes.set_xlabel(axis)
        axes.set_ylabel(metric)
        axes.grid(axis="y")
        axes.legend(frameon=False, fontsize=8)
    return figure
