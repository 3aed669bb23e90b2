"""What the nodes of a network's layers are called: columns, pixels, time steps, classes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import Any

from kanzoo.interpret.edges import Edge, LayerEdges

LETTERS = {"image": "pixel", "dense": "pixel", "sequence": "step"}


@dataclass(frozen=True)
class LayerNames:
    """Names of a layer's inputs and outputs, and the scale of its inputs, "" for their own units.

    A layer whose names are not known has numbers, counted from 1.
    """

    inputs: Sequence[str]
    outputs: Sequence[str]
    scale: str = ""
    is_named: bool = False
    moments: Any = None
    """Mean and deviation of columns that the layer gets standardised, `(C,)` each."""

    def in_units(self, edge: Edge) -> Edge:
        """The edge over the columns' own units."""
        if self.moments is None:
            return edge
        mean, deviation = (float(values.flatten()[edge.source]) for values in self.moments)
        return replace(edge, x=edge.x * deviation + mean)

    def label(self, edge: Edge) -> str:
        """Input → output of an edge, and the position in the kernel (row, column; from 0)."""
        tap = "" if edge.tap is None else f" at {', '.join(map(str, edge.tap))}"
        return f"{self.inputs[edge.source]} → {self.outputs[edge.target]}{tap}"

    def axis(self, edge: Edge) -> str:
        """What the horizontal axis of an edge shows; empty for hidden nodes."""
        name = self.inputs[edge.source] if self.is_named else ""
        return f"{name}, {self.scale}" if name and self.scale else name

    def describe(self, edge: Edge, *lines: str) -> str:
        """The lines that are shown under the pointer."""
        x = self.in_units(edge).x
        return "\n".join(
            (
                self.label(edge),
                f"score {edge.score:.3g}, the standard deviation of its values",
                f"inputs from {x[0]:.3g} to {x[-1]:.3g}",
                *((f"given function {edge.function}",) if edge.function else ()),
                *(line for line in lines if line),
            )
        )


def input_names(dataset: Any, count: int) -> list[str] | None:
    """Names of a layer's inputs that are the data's numbers, None where they are not.

    Columns of a table; of images and sequences that are flattened the position of every number,
    counted from 0: channel (if there are several), row, column, or step and feature.
    """
    names = [str(name) for name in getattr(dataset, "columns", None) or ()]
    if names:
        return names if len(names) == count else None
    shape, kind = dataset.spec.in_shape, dataset.spec.kind
    if kind not in LETTERS:
        return None
    if len(shape) > 1 and prod(shape) == count:
        sizes = shape[1:] if shape[0] == 1 and len(shape) > 2 else shape
        positions = product(*map(range, sizes))
        return [f"{LETTERS[kind]} {', '.join(map(str, at))}" for at in positions]
    channels = shape[-1] if kind == "sequence" else shape[0]
    what = "feature" if kind == "sequence" else "channel"
    return [f"{what} {i + 1}" for i in range(count)] if channels == count else None


def output_names(dataset: Any, count: int) -> list[str] | None:
    """The classes, or the one target, where they are as many as outputs."""
    names = [str(name) for name in dataset.spec.class_names]
    target = getattr(dataset, "target", None)
    if not names and isinstance(target, str):
        names = [target]
    return names if len(names) == count else None


def layer_names(
    dataset: Any, layers: Sequence[LayerEdges], takes_columns: bool = False
) -> list[LayerNames]:
    """Names for every layer: the first has the data's inputs, the last the data's outputs.

    `takes_columns` says that the first layer gets the columns of a table, nothing made of them.
    """
    matches = []
    moments = getattr(dataset, "moments", {}).get("inputs") if takes_columns else None
    for index, edges in enumerate(layers):
        layer = edges.layer
        inputs = input_names(dataset, layer.in_features) if index == 0 else None
        outputs = output_names(dataset, layer.out_features) if edges is layers[-1] else None
        matches.append(
            LayerNames(
                inputs or _numbers(layer.in_features),
                outputs or _numbers(layer.out_features),
                "" if takes_columns or not inputs else "as the network gets it",
                inputs is not None,
                moments if index == 0 else None,
            )
        )
    return matches


def _numbers(count: int) -> list[str]:
    return [str(i + 1) for i in range(count)]
