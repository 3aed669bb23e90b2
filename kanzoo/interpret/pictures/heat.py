"""Scores as heat: those of inputs in the shape of an image, those of kernels by tap and channel.

Axes: C channels, H rows and W columns of an image, E outputs, T taps of a kernel.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from kanzoo.page import style

MOST_CELLS = 1024  # of a map; of more, blocks are added up
CELL = 0.24  # inches
LEFT, TOP, BOTTOM, GAP = 0.75, 0.3, 0.6, 0.3


def input_map(scores: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Scores of the numbers of an image or a sequence, `(C, H, W)` of few cells; the same sum.

    Square blocks are added up where there are more than `MOST_CELLS` in a channel.
    """
    maps = np.asarray(scores, float).reshape((1, *shape)[-3:])
    height, width = maps.shape[1:]
    block = 1
    while -(-height // block) * -(-width // block) > MOST_CELLS:
        block += 1
    rows, columns = (range(0, size, block) for size in (height, width))
    return np.asarray(np.add.reduceat(np.add.reduceat(maps, rows, axis=1), columns, axis=2))


def kernel_map(scores: np.ndarray) -> np.ndarray:
    """Scores `(C, E, T)` of a kernel by channel and tap, `(C, T)`: the root of sums of squares."""
    return np.asarray(np.sqrt((scores**2).sum(1)))


def draw(
    maps: Sequence[np.ndarray],
    titles: Sequence[str],
    axis_names: tuple[str, str] = ("row", "column"),
    columns: Sequence[str] = (),
    rows: Sequence[str] = (),
) -> Figure:
    """Maps `(H, W)` side by side, all on one scale: the fullest cell is the largest value.

    The pointer shows the numbers. `columns` and `rows` are names of these.
    """
    top = max(float(m.max()) for m in maps) or 1.0
    tall, wide = max(m.shape[0] for m in maps), sum(m.shape[1] for m in maps)
    cell = min(CELL, 9.5 / wide, 12.0 / tall)
    width = LEFT + cell * wide + GAP * len(maps)
    height = TOP + cell * tall + BOTTOM
    with style.style():
        figure = Figure(figsize=(max(width, 3.0), height))
        left = LEFT
        for values, title in zip(maps, titles, strict=True):
            length, count = values.shape
            size = max(width, 3.0)
            box = (left / size, BOTTOM / height, cell * count / size, cell * length / height)
            axes = figure.add_axes(box)
            axes.set_xlim(-0.5, count - 0.5)
            axes.set_ylim(length - 0.5, -0.5)
            axes.set_title(title, fontsize=8.5, loc="left", pad=4)
            axes.set_xlabel(axis_names[1], fontsize=7.5)
            axes.set_ylabel(axis_names[0], fontsize=7.5)
            axes.set_xticks(range(0, count, -(-count // 8)))
            axes.set_yticks(range(0, length, -(-length // 8)))
            if columns:
                axes.set_xticks(range(count), columns, fontsize=6, rotation=90)
            if rows:
                axes.set_yticks(range(length), rows, fontsize=6)
            for (row, column), value in np.ndenumerate(values):
                patch = Rectangle((column - 0.5, row - 0.5), 1, 1, lw=0, fc=style.CURVE,
                                  alpha=max(0.0, float(value)) / top)  # fmt: skip
                names = rows[row] if rows else row, columns[column] if columns else column
                text = ", ".join(map("{} {}".format, axis_names, names))
                style.tip(patch, f"{text}: {value:.3g}")
                axes.add_patch(patch)
            left += cell * count + GAP
    return figure
