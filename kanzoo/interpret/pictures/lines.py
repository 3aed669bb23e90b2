"""Curves of a metric against the share of edges that are kept, in one plot."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from kanzoo.page import style

COLOURS = ("c1", "c0", "c2", "c3")


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
