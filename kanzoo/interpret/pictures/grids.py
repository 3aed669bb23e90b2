"""Edge functions as a grid of small plots, with the density of the data underneath."""

from collections.abc import Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kanzoo.interpret.edges import Edge
from kanzoo.page import style

COLUMNS = 4
CELL = (2.45, 1.55)  # inches of a plot with its margins
DENSITY = 0.34  # height of the fullest bin, of the plot


def draw(
    edges: Sequence[Edge],
    labels: Sequence[str] | None = None,
    title: str = "",
    *,
    tips: Sequence[str] = (),
    axis_labels: Sequence[str] = (),
    notes: Sequence[str] = (),
    bands: Sequence[np.ndarray] | None = None,
) -> Figure:
    """A plot an edge, all with the same span upwards, so that strong and weak look it.

    Where a curve lies in its plot says nothing, since the bias takes up what is constant; the
    values are on the axis. One an edge: `tips` are shown under the pointer, `axis_labels` below
    the axis and `notes` below these; `bands` are curves `(S, P)` of several networks.
    """
    labels = [edge.label for edge in edges] if labels is None else labels
    below = 0.16 * (any(axis_labels) + any(notes))
    with style.style():
        figure, plots = layout([shorten(label, 26) for label in labels], title, below)
        half = half_span(edges)
        for axes, text in zip(plots, tips, strict=False):
            style.tip(axes, text)
        for texts, y, colour in (
            (axis_labels, -0.30, style.MUTED),
            (notes, -0.30 - 0.16 * any(axis_labels), style.TEXT),
        ):
            for axes, text in zip(plots, texts, strict=False):
                axes.text(0.5, y, shorten(text, 40), transform=axes.transAxes, fontsize=7,
                          ha="center", va="center", color=colour)  # fmt: skip
        for axes, edge in zip(plots, edges, strict=True):
            axes.set_title(f"{edge.score:.2g}", fontsize=8, loc="right", color=style.MUTED, pad=4)
            middle = (edge.y.min() + edge.y.max()) / 2
            axes.set_xlim(edge.x[0], edge.x[-1])
            axes.set_ylim(middle - half, middle + half)
            plot(axes, edge)
        for axes, edge, curves in zip(plots, edges, bands or (), strict=False):
            low, high = curves.min(0), curves.max(0)
            axes.fill_between(edge.x, low, high, color=style.CURVE, alpha=0.2, lw=0)
    return figure


def shorten(text: str, most: int) -> str:
    """A text of at most so many characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def layout(labels: Sequence[str], title: str = "", below: float = 0.0) -> tuple[Figure, list[Axes]]:
    """An empty plot a label, in rows of `COLUMNS`, with `below` inches more under each."""
    rows = -(-len(labels) // COLUMNS)
    head = 0.35 if title else 0.05
    width, height = CELL[0] * COLUMNS, (CELL[1] + below) * rows + head
    figure = Figure(figsize=(width, height))
    if title:
        figure.text(0.01, 1 - 0.12 / height, title, va="top", weight="bold", fontsize=10)
    plots = []
    for index, label in enumerate(labels):
        row, column = divmod(index, COLUMNS)
        left, top = CELL[0] * column + 0.48, height - head - (CELL[1] + below) * row - 0.26
        box = (left / width, (top - 0.98) / height, (CELL[0] - 0.62) / width, 0.98 / height)
        axes = figure.add_axes(box)
        axes.set_title(label, fontsize=8.5, loc="left", pad=4)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_locator(MaxNLocator(3))
        plots.append(axes)
    return figure, plots


def half_span(edges: Sequence[Edge]) -> float:
    """Half of the height that the tallest curve needs."""
    return 0.56 * max((float(np.ptp(edge.y)) for edge in edges), default=0.0) or 0.5


def plot(axes: Axes, edge: Edge) -> list[Artist]:
    """One edge function over the density of its inputs, within the limits of the axes."""
    low, high = axes.get_ylim()
    heights = low + (high - low) * DENSITY * edge.density / edge.density.max()
    bars = axes.stairs(
        heights, np.linspace(edge.x[0], edge.x[-1], len(heights) + 1), baseline=low, fill=True,
        color=style.ACCENT, alpha=0.22, lw=0,
    )  # fmt: skip
    lines = axes.plot(edge.x, edge.y, color=style.CURVE, lw=1.7, solid_joinstyle="round")
    return [bars, *lines]
