"""A network of fully connected KAN layers as a graph, every edge with its function in place.

From left to right: inputs, for each layer its edge functions in boxes, the nodes that add them up.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path as Curve
from torch import Tensor, nn

from kanzoo.checks import check_keywords
from kanzoo.fit.chain import Stage, chain
from kanzoo.interpret.edges import Edge, LayerEdges, edge_functions
from kanzoo.layers.layer import KANLayer
from kanzoo.layers.products import node_of
from kanzoo.page import style

MOST_EDGES = 72  # of a layer, the strongest
MOST_NODES = 40  # of a column; of more, only those that a drawn edge reaches
MOST_LAYERS = 8
BOX = (0.62, 0.4)  # inches
FAN_WIDTH = 1.05  # between nodes and boxes
ROW_HEIGHT = 0.54  # from box to box upwards
ONE_COLUMN = 12  # boxes; more are staggered in two columns, their edges between the others' boxes


@check_keywords
def draw(
    net: nn.Module,
    sample: Tensor,
    path: Path | None = None,
    names: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    tips: Mapping[str, Callable[[Edge], str]] | None = None,
) -> Figure:
    """Draw the network that sees `sample`, a batch of its inputs; write it if there is a path.

    A line is as strong as its edge's score (standard deviation of its function on the data)
    relative to the strongest of its layer; every box has a scale of its own, shows the density of
    the data, and has above it the name of a function that the edge was given. Edges that are
    constant, as pruned ones are, are left out. Of layers with more than `MOST_EDGES` others the
    strongest are drawn, with their share of the sum of all scores underneath, and only the nodes
    that they reach. The pointer shows what `tips` make of an edge, by the layer's name. Nodes that
    are products stand behind the two that they multiply, with a cross. `names` are those of inputs
    and `outputs` those of outputs. A path without suffix gets a PNG and an SVG file.

    Raises `ValueError` for networks that are no chain of `KANLinear` (normalisations between them
    are allowed), and for those of too many layers to be read.
    """
    stages = chain(net, sample, allow_norms=True)
    counts = [stages[0].layer.in_features] + [stage.num_nodes for stage in stages]
    names = _names("names", names, counts[0], "x")
    outputs = _names("outputs", outputs, counts[-1], "y")
    if len(stages) > MOST_LAYERS:
        raise ValueError(f"{len(stages)} layers are too many for a graph: at most {MOST_LAYERS}")
    layers: dict[str, KANLayer] = {stage.name: stage.layer for stage in stages}
    layer_edges = edge_functions(net, sample, num_edges=MOST_EDGES, layers=layers)
    drawn = [[edge for edge in layer.edges if edge.score > 0] for layer in layer_edges]
    notes = [_share(layer, edges) for layer, edges in zip(layer_edges, drawn, strict=True)]
    kept = _kept_nodes(stages, drawn, counts)
    names, outputs = (
        [side[i] for i in nodes] for side, nodes in ((names, kept[0]), (outputs, kept[-1]))
    )
    makers = [(tips or {}).get(stage.name, lambda edge: edge.label) for stage in stages]
    texts = [[maker(e) for e in edges] for maker, edges in zip(makers, drawn, strict=True)]
    drawn = [
        [replace(e, source=before.index(e.source), target=_moved(e, stage, after)) for e in edges]
        for stage, edges, before, after in zip(stages, drawn, kept, kept[1:], strict=False)
    ]
    with style.style():
        figure = _figure(stages, drawn, list(map(len, kept)), names, outputs, notes, texts)
    if path is not None:
        style.save(figure, path)
    return figure


def _share(layer: LayerEdges, drawn: list[Edge]) -> str:
    """What is left out of a layer's edges that are not constant; empty where nothing is."""
    varying = int((layer.scores > 0).sum())
    if len(drawn) == varying:
        return ""
    share = sum(edge.score for edge in drawn) / float(layer.scores.sum())
    return f"{len(drawn)} of {varying:,} edges,\n{100 * share:.0f} % of the total score"


def _kept_nodes(
    stages: Sequence[Stage], drawn: Sequence[list[Edge]], counts: Sequence[int]
) -> list[list[int]]:
    """The nodes of every column that are drawn: all of few, else those with an edge."""
    kept = [list(range(count)) for count in counts]
    for column, count in enumerate(counts):
        if count > MOST_NODES and not (column and stages[column - 1].products):
            before = {edge.target for edge in drawn[column - 1]} if column else set()
            after = {edge.source for edge in drawn[column]} if column < len(drawn) else set()
            kept[column] = sorted(before | after)
    return kept


def _moved(edge: Edge, stage: Stage, kept: list[int]) -> int:
    """The position of an edge's target among those drawn; factors of products all are."""
    return edge.target if stage.products else kept.index(edge.target)


def _names(what: str, names: Sequence[str] | None, count: int, letter: str) -> list[str]:
    if not names:
        return [letter] if count == 1 else [f"{letter}{i + 1}" for i in range(count)]
    if len(names) != count:
        raise ValueError(f"{what} must be {count}, one a node, got {len(names)}")
    return [str(name) if len(str(name)) <= 16 else f"{str(name)[:15]}…" for name in names]


def _figure(
    stages: Sequence[Stage], drawn: Sequence[list[Edge]], counts: Sequence[int],
    names: Sequence[str], outputs: Sequence[str], notes: Sequence[str],
    tips: Sequence[Sequence[str]],
) -> Figure:  # fmt: skip
    columns = [1 if len(edges) <= ONE_COLUMN else 2 for edges in drawn]
    tallest = max(
        ROW_HEIGHT * len(edges) / number for edges, number in zip(drawn, columns, strict=True)
    )
    height = max(tallest, 0.3 * max(counts), 1.2) + 0.2
    left, right = (0.3 + 0.085 * max(map(len, side)) for side in (names, outputs))
    width = left + right
    for stage, number in zip(stages, columns, strict=True):
        width += (
            0.5 * ((stage.norm is not None) + (stage.products > 0))
            + 2 * FAN_WIDTH
            + number * (BOX[0] + 0.16)
        )
    foot = 0.4 if any(notes) else 0.0
    figure = Figure(figsize=(width, height + foot))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(height + foot, 0)
    axes.set_axis_off()
    x = left
    for y, name in zip(_positions(counts[0], height), names, strict=True):
        axes.text(x - 0.14, y, name, ha="right", va="center", fontsize=9.5)
    for stage, edges, number, count, following, note, texts in zip(
        stages, drawn, columns, counts, counts[1:], notes, tips, strict=False
    ):
        nodes = _positions(count, height)
        _nodes(axes, x, nodes)
        if stage.norm:
            x = _norm(axes, x, nodes, height, stage.norm)
        targets = _positions(following, height)
        factors = _factors(targets, stage.products, height)
        start = x
        x = _edges(axes, x, edges, number, nodes, factors, height, texts)
        if note:
            axes.text((start + x) / 2, height + foot / 2, note, ha="center", va="center",
                      fontsize=7.5, color=style.MUTED)  # fmt: skip
        if stage.products:
            x = _products(axes, x, factors, targets, stage.products)
    _nodes(axes, x, _positions(counts[-1], height))
    for y, name in zip(_positions(counts[-1], height), outputs, strict=True):
        axes.text(x + 0.14, y, name, ha="left", va="center", fontsize=9.5)
    return figure


def _positions(count: int, height: float) -> np.ndarray:
    """Positions from the top, as far from each other as the height allows."""
    return 0.1 + (np.arange(count) + 0.5) * (height - 0.2) / max(count, 1)


def _factors(nodes: np.ndarray, products: int, height: float) -> np.ndarray:
    """Where the outputs of a layer are whose last pairs are multiplied: close to their product."""
    sums = len(nodes) - products
    apart = min(0.22, 0.25 * (height - 0.2) / len(nodes))
    return np.concatenate([nodes[:sums], (nodes[sums:, None] + [-apart, apart]).ravel()])


def _products(axes: Axes, x: float, factors: np.ndarray, nodes: np.ndarray, products: int) -> float:
    """Lines from factors to their products, each with a cross; returns the place of the nodes."""
    _nodes(axes, x, factors)
    for y, owner in zip(factors, node_of(len(nodes), products), strict=True):
        axes.plot([x, x + 0.5], [y, nodes[owner]], color=style.MUTED, lw=1, zorder=1)
    for y in nodes[len(nodes) - products :]:
        axes.text(x + 0.27, y, "×", ha="center", va="center", fontsize=11, zorder=5)  # noqa: RUF001
    return x + 0.5


def _nodes(axes: Axes, x: float, nodes: np.ndarray) -> None:
    axes.plot(np.full(len(nodes), x), nodes, "o", ms=7, color=style.TEXT, zorder=4)


def _norm(axes: Axes, x: float, nodes: np.ndarray, height: float, name: str) -> float:
    """A bar that all nodes go through, and the nodes behind it; returns their place."""
    for y in nodes:
        axes.plot([x, x + 0.5], [y, y], color=style.MUTED, lw=1, zorder=1)
    axes.add_patch(_box(x + 0.15, 0.05, 0.2, height - 0.1, style.BAND))
    axes.text(x + 0.25, height / 2, name, rotation=90, ha="center", va="center", fontsize=7.5,
              color=style.MUTED, zorder=5)  # fmt: skip
    _nodes(axes, x + 0.5, nodes)
    return x + 0.5


def _edges(
    axes: Axes, x: float, edges: list[Edge], columns: int, nodes: np.ndarray, targets: np.ndarray,
    height: float, tips: Sequence[str],
) -> float:  # fmt: skip
    """Boxes between two columns of nodes, ordered by their source; returns the place of targets."""
    first, step = x + FAN_WIDTH, BOX[0] + 0.16
    last = first + columns * step
    strongest = max((edge.score for edge in edges), default=1.0)
    pairs = zip(edges, tips, strict=True)
    ordered = sorted(pairs, key=lambda pair: (pair[0].source, pair[0].target))
    positions = _positions(len(edges), height)
    for index, ((edge, text), y) in enumerate(zip(ordered, positions, strict=True)):
        strength = edge.score / strongest
        left = first + 0.08 + (index % columns) * step
        for near, far, start, end in (
            (first, left, x, nodes[edge.source]),
            (last, left + BOX[0], last + FAN_WIDTH, targets[edge.target]),
        ):
            middle = (start + near) / 2
            points = [(start, end), (middle, end), (middle, y), (near, y), (far, y)]
            codes = [Curve.MOVETO, *[Curve.CURVE4] * 3, Curve.LINETO]
            line = axes.add_patch(PathPatch(
                Curve(points, codes), fill=False, ec=style.TEXT, lw=0.5 + 2.0 * strength,
                alpha=0.12 + 0.78 * strength, capstyle="butt", zorder=1,
            ))  # fmt: skip
            style.tip(line, text)
        for artist in _function(axes, edge, left, y - BOX[1] / 2, strength):
            style.tip(artist, text)
    return last + FAN_WIDTH


def _function(axes: Axes, edge: Edge, left: float, top: float, strength: float) -> list[Artist]:
    """A box with the curve over the density of its inputs."""
    width, height = BOX
    frame = style.TEXT if strength > 0.5 else style.MUTED
    box = axes.add_patch(_box(left, top, width, height, style.CARD, frame, 0.5 + 0.7 * strength))
    bottom = top + height - 0.01
    bars = bottom - 0.33 * height * edge.density / edge.density.max()
    ends = np.linspace(left + 0.03, left + width - 0.03, len(bars) + 1)
    area = axes.stairs(bars, ends, baseline=bottom, fill=True, color=style.ACCENT, alpha=0.22, lw=0,
                zorder=3)  # fmt: skip
    span = float(np.ptp(edge.y)) or 1.0
    y = bottom - 0.06 - (edge.y - edge.y.min()) / span * (height - 0.13)
    x = np.linspace(ends[0], ends[-1], len(y))
    lines = axes.plot(x, y, color=style.CURVE, lw=1.4, alpha=0.45 + 0.55 * strength, zorder=3,
                      solid_joinstyle="round")  # fmt: skip
    if edge.function:
        axes.text(left + width / 2, top - 0.01, edge.function, ha="center", va="bottom",
                  fontsize=6, zorder=5)  # fmt: skip
    return [box, area, *lines]


def _box(
    x: float,
    y: float,
    width: float,
    height: float,
    face: str,
    edge: str = style.LINE,
    lw: float = 1,
) -> FancyBboxPatch:
    return FancyBboxPatch(
        (x, y), width, height, boxstyle="round,pad=0,rounding_size=0.04", fc=face, ec=edge, lw=lw,
        zorder=2,
    )  # fmt: skip
