"""A network's edge functions, sampled where their inputs lie, and how much each of them matters.

Axes: N values of a channel, C input channels, K functions a channel, E outputs that an input
channel reaches (O / groups), T taps of a kernel (1 for a linear layer), P points of a curve.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from kanzoo.checks import check_keywords
from kanzoo.fit.chain import kan_layers
from kanzoo.layers import KANLayer
from kanzoo.layers.grid import subsample
from kanzoo.layers.inputs import layer_inputs

ROWS = 4096  # values of every channel that are looked at, spread over all
CENTRE = 0.99  # share of the data that a curve is drawn over
BINS = 24


@dataclass(frozen=True)
class Edge:
    """An edge function `y` at the points `x`, both `(P,)`, from x[0] to x[-1].

    `source` and `target` count all channels of the layer; `tap` is a pixel of the kernel, None for
    a linear layer. `score` is the standard deviation of the function on the data, `density` the
    histogram of the inputs in equal bins over the same range: its integral is one. `function` is
    the name of what the edge was given, empty for functions of the basis.
    """

    source: int
    target: int
    tap: tuple[int, ...] | None
    score: float
    x: np.ndarray
    y: np.ndarray
    density: np.ndarray
    function: str = ""

    @property
    def label(self) -> str:
        """Channels counted from 1, taps from 0."""
        tap = "" if self.tap is None else f", tap {', '.join(map(str, self.tap))}"
        return f"{self.source + 1} → {self.target + 1}{tap}"


@dataclass(frozen=True)
class LayerEdges:
    """Scores of all edges of a layer, `(C, E, T)`, and samples of some, the strongest first."""

    name: str
    layer: KANLayer
    scores: np.ndarray
    edges: tuple[Edge, ...]

    def index(self, edge: Edge) -> tuple[int, int, int]:
        """Where the score of an edge is in `scores`."""
        tap = 0 if edge.tap is None else self.layer.tap_index(edge.tap)
        return edge.source, edge.target % self.scores.shape[1], tap


@torch.no_grad()
def layer_values(net: nn.Module, x: Tensor, layers: Mapping[str, KANLayer]) -> dict[str, Tensor]:
    """What the basis of every layer gets to see when the network sees x: `(N, C)`, at most `ROWS`.

    All calls of a layer count, so every step of a recurrent one; layers that are not called are
    left out. The network runs in evaluation mode.
    """
    seen = layer_inputs(net, x, layers.values())
    values = {}
    for name, layer in layers.items():
        if layer in seen:
            rows = subsample(layer.rows(seen[layer]), ROWS)
            if not rows.isfinite().all():
                raise ValueError(f"layer {name!r} gets inputs that are NaN or infinite")
            values[name] = rows
    return values


def takes_data(net: nn.Module, x: Tensor, name: str, layer: KANLayer) -> bool:
    """Whether the data x themselves go into a layer, not something made of them."""
    seen = layer_values(net, x, {name: layer}).get(name)
    same = seen is not None and seen.shape == x.shape
    return same and torch.equal(seen.to(x), x)  # type: ignore[union-attr]


@torch.no_grad()
@check_keywords
def edge_functions(
    net: nn.Module,
    x: Tensor,
    *,
    num_edges: int | None = 12,
    num_points: int = 81,
    chosen: Mapping[str, Sequence[int]] | None = None,
    layers: Mapping[str, KANLayer] | None = None,
) -> list[LayerEdges]:
    """Edge functions of all KAN layers of a network that sees x, in the order of its modules.

    Of every layer the `num_edges` strongest, None for all; or those that `chosen` counts for its
    name, in the order of `scores`. `layers` are others than `kan_layers`.
    """
    layers = kan_layers(net) if layers is None else layers
    layer_edges = []
    for name, values in layer_values(net, x, layers).items():
        layer = layers[name]
        scores = edge_deviations(layer, values)
        if chosen is None:
            indices = scores.flatten().argsort(descending=True, stable=True)[:num_edges].tolist()
        else:
            indices = list(chosen[name])
        edges = _sample(layer, values, scores, indices, num_points)
        layer_edges.append(LayerEdges(name, layer, scores.cpu().numpy(), tuple(edges)))
    return layer_edges


@torch.no_grad()
def edge_deviations(layer: KANLayer, values: Tensor, functions: slice = slice(None)) -> Tensor:
    """Standard deviation of every edge function on the values `(N, C)`: `(C, E, T)`.

    From the covariance of the basis functions, so that no edge is ever evaluated by itself.
    `functions` takes a part of their sum.
    """
    basis, weight = (part.double() for part in layer.edge_basis(values))
    basis = basis[functions]  # (K, N, C)
    centred = basis - basis.mean(1, keepdim=True)
    covariance = torch.einsum("knc,lnc->ckl", centred, centred) / len(values)
    weight = weight[:, functions]
    variance = torch.einsum("cket,ckl,clet->cet", weight, covariance, weight)
    return variance.clamp_min(0).sqrt()


def _sample(
    layer: KANLayer, values: Tensor, scores: Tensor, indices: Sequence[int], num_points: int
) -> Iterator[Edge]:
    """The edges of `indices`, which count `scores` `(C, E, T)` flattened."""
    kernel: tuple[int, ...] = getattr(layer, "kernel_size", ())
    groups, reached = layer.out_features // layer.edges_out, scores.shape[1]
    data = values.double().cpu().numpy()
    low, high = _ranges(data)  # (C,)
    grid = np.linspace(low, high, num_points)  # (P, C)
    basis, weight = layer.edge_basis(torch.from_numpy(grid).to(values))  # (K, P, C)
    for index in indices:
        channel, output, tap = (int(i) for i in np.unravel_index(index, scores.shape))
        terms = weight[channel, :, output, tap].unsqueeze(-1) * basis[..., channel]
        density, _ = np.histogram(
            data[:, channel], BINS, (low[channel], high[channel]), density=True
        )
        yield Edge(
            channel,
            channel * groups // layer.in_features * reached + output,
            tuple(int(i) for i in np.unravel_index(tap, kernel)) if kernel else None,
            float(scores[channel, output, tap]),
            grid[:, channel],
            terms.sum(0).double().cpu().numpy(),
            density,
            given.name if (given := layer.given_at(channel, output)) else "",
        )


def _ranges(data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the central part of every channel lies; about a constant a range of one."""
    tail = (1 - CENTRE) / 2
    low, high = np.quantile(data, [tail, 1 - tail], axis=0)
    narrow = high - low <= 1e-6 * np.maximum(1, np.abs(high))
    # Where rare values are all that there is beside a constant, they are what counts.
    low = np.where(narrow, data.min(0), low)
    high = np.where(narrow, data.max(0), high)
    narrow = high - low <= 1e-6 * np.maximum(1, np.abs(high))
    return np.where(narrow, low - 0.5, low), np.where(narrow, high + 0.5, high)


@dataclass(frozen=True)
class EdgeCurves:
    """Edge functions of one layer over the same inputs: x `(P,)`, ys `(edges, P)`."""

    title: str
    x: np.ndarray
    ys: np.ndarray
    note: str = ""


@torch.no_grad()
def last_layer_curves(
    net: nn.Module, batch: Tensor, *, num_edges: int = 12, num_points: int = 101
) -> EdgeCurves:
    """The strongest edges of the last KAN layer, over the central 98 % of all of its inputs.

    The title is the layer's name. Raises `ValueError` for a network without KAN layers.
    """
    name, layer = list(kan_layers(net).items())[-1]
    values = layer_values(net, batch, {name: layer})[name]
    low, high = np.quantile(values.double().cpu().numpy(), [0.01, 0.99])
    x = torch.linspace(float(low), float(high), num_points).to(values)
    basis, weight = layer.edge_basis(x.unsqueeze(-1).expand(-1, layer.in_features))
    curves = torch.einsum("kpc,cket->cetp", basis, weight)
    strongest = edge_deviations(layer, values).flatten().argsort(descending=True, stable=True)
    ys = curves.flatten(0, 2)[strongest[:num_edges]]
    return EdgeCurves(name, x.cpu().numpy(), ys.cpu().numpy())
