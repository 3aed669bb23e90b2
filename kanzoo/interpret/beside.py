"""What the page shows beside scores: random weights, simple functions, and heat."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from kanzoo.interpret.control import (
    RandomScores,
    fewer,
    input_scores,
    random_scores,
    rank_correlation,
)
from kanzoo.interpret.edges import Edge, LayerEdges, layer_values
from kanzoo.interpret.fits import SIMPLE, fit_values
from kanzoo.interpret.formula.library import EdgeFit
from kanzoo.interpret.naming import LayerNames

log = logging.getLogger("kanzoo")

MOST_INPUTS = 40  # whose scores are listed
MOST_PROFILES = 4  # layers whose sorted scores are drawn
MOST_CHANNELS = 24  # of a kernel that are shown, the strongest
Fits = Mapping[tuple[int, int, int], EdgeFit]  # by the index of a score


def controls(net: nn.Module, x: Tensor) -> dict[str, RandomScores]:
    """Scores at random weights by layer, of layers with as many edges as the network's."""
    try:
        return random_scores(net, fewer(x))
    except ValueError as error:  # weights that are computed from others cannot be drawn
        log.warning("no scores at random weights: %s", error)
        return {}


def best_fits(
    net: nn.Module, x: Tensor, layers: Sequence[LayerEdges], count: int
) -> dict[str, Fits]:
    """The best simple function of the strongest `count` edges of every layer."""
    if not count:
        return {}
    values = layer_values(net, x, {layer.name: layer.layer for layer in layers})
    by_layer: dict[str, Fits] = {}
    for layer in layers:
        fits = {}
        for edge in layer.edges[:count]:
            options = fit_values(
                layer.layer, values[layer.name], edge.source, edge.target, edge.tap, SIMPLE
            )
            if edge.score > 0 and options:
                fits[layer.index(edge)] = options[0]
        by_layer[layer.name] = fits
    return by_layer


def note(layer: LayerEdges, edge: Edge, random: RandomScores | None, fits: Fits) -> str:
    """The line below an edge's plot."""
    index, parts = layer.index(edge), []
    if random:
        parts.append(f"random {span(*random.edge_range(index))}")
    if fit := fits.get(index):
        parts.append(f"{fit.function.name} R2 {fit.r2:.2f}")
    return " · ".join(parts)


def tips(
    layer: LayerEdges, names: LayerNames, random: RandomScores | None, fits: Fits
) -> Callable[[Edge], str]:
    """What the pointer shows of an edge."""

    def describe(edge: Edge) -> str:
        index = layer.index(edge)
        chance = f"at random weights {span(*random.edge_range(index))}" if random else ""
        fit = fits.get(index)
        return names.describe(edge, chance, f"best simple function {fit}" if fit else "")

    return describe


def input_rows(
    first: LayerEdges,
    names: Sequence[str],
    random: RandomScores | None,
    seeds: np.ndarray | None = None,
) -> list[dict[str, Any]]:
    """The inputs of the first layer, the strongest first, with bars in per cent.

    `seeds` are scores `(seeds, C, E, T)` of the layer in several networks.
    """
    several = None if seeds is None else np.stack([input_scores(scores) for scores in seeds])
    scores = input_scores(first.scores)
    top = float(scores.max()) or 1.0
    draws = random.inputs if random else None
    return [
        {
            "name": names[i],
            "score": f"{scores[i]:.3g}",
            "bar": f"{100 * scores[i] / top:.1f}",
            "seeds": "" if several is None else span(several[:, i].min(), several[:, i].max()),
            "random": "" if draws is None else span(draws[:, i].min(), draws[:, i].max()),
        }
        for i in np.argsort(-scores, kind="stable")[:MOST_INPUTS]
    ]


def input_correlation(first: LayerEdges, random: RandomScores | None) -> str:
    """How alike the inputs' order is to that at random weights."""
    if random is None:
        return ""
    return number(rank_correlation(input_scores(first.scores), random.inputs))


def span(low: float, high: float) -> str:
    return f"{low:.2g} to {high:.2g}"


def number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.2f}"


def draw_inputs(path: Path, first: LayerEdges, dataset: Any) -> Any | None:
    """A heat map of the inputs' scores in the shape of an image or a sequence, else None."""
    from kanzoo.interpret.pictures import heat

    spec = dataset.spec
    scores = input_scores(first.scores)
    if spec.kind not in ("image", "dense", "sequence") or np.prod(spec.in_shape) != len(scores):
        return None
    if len(spec.in_shape) < 2:
        return None
    maps = heat.input_map(scores, spec.in_shape)
    titles = [f"channel {i + 1}" if len(maps) > 1 else "" for i in range(len(maps))]
    axis_names = ("step", "feature") if spec.kind == "sequence" else ("row", "column")
    return _saved(path, heat.draw(list(maps), titles, axis_names))


def draw_profiles(path: Path, seeds: Mapping[str, np.ndarray]) -> Any:
    """Sorted scores of layers over seeds, of the first and the last where they are many."""
    from kanzoo.interpret.pictures import lines

    picked = [*seeds][: MOST_PROFILES - 1] + [*seeds][MOST_PROFILES - 1 :][-1:]
    flat = {name: seeds[name].reshape(len(seeds[name]), -1) for name in picked}
    return _saved(path, lines.draw_profiles(flat))


def draw_kernel(path: Path, layer: LayerEdges) -> Any | None:
    """A heat map of a kernel's scores by channel and tap; None for other layers."""
    from kanzoo.interpret.pictures import heat

    size = getattr(layer.layer, "kernel_size", None)
    if size is None or layer.scores.shape[2] == 1:
        return None
    values = heat.kernel_map(layer.scores)
    strongest = np.sort(np.argsort(-values.max(1), kind="stable")[:MOST_CHANNELS])
    taps = [", ".join(map(str, at)) for at in np.ndindex(*size)]
    channels = [str(i + 1) for i in strongest]
    names = ("channel", "position in the kernel")
    return _saved(path, heat.draw([values[strongest]], [""], names, taps, channels))


def _saved(path: Path, figure: Any) -> Any:
    from kanzoo.page import style

    style.save(figure, path)
    return figure
