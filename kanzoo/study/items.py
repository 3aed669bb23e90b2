"""What runs reached on each test item, in units of the metric.

`items.npz` of a run holds the loss of every test sample and, by task, whether it was correct, the
absolute error or the number of symbols. From these follow values v_i of a metric whose mean is the
metric: exactly where it is a mean, to first order (its influence function) where it is a root or an
exponential. Metrics over pairs of samples, such as calibration, have none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from kanzoo.files import read_arrays
from kanzoo.study.inference import Array


@dataclass(frozen=True)
class Stored:
    """The arrays of one `items.npz`, each read when it is asked for."""

    path: str
    prefix: str

    def __getitem__(self, name: str) -> Array:
        return _read(self.path, self.prefix + name).astype(np.float64)


def _first_order(parts: Array, slope: float, score: float) -> Array:
    """score + slope (part - mean part): what each part moves a function of their mean by."""
    return score + slope * (parts - parts.mean())


def _nats(items: Stored) -> Array:
    """Nats of every window, weighted so that their mean is that over all symbols."""
    return items["loss"] * items["count"] / items["count"].mean()


def _psnr(items: Stored) -> Array:
    with np.errstate(divide="ignore"):
        return np.asarray(-10 * np.log10(items["loss"]))


METRICS: dict[str, Callable[[Stored, float], Array]] = {
    "accuracy": lambda items, score: items["correct"],
    "mse": lambda items, score: items["loss"],
    "mae": lambda items, score: items["absolute"],
    "psnr": lambda items, score: _psnr(items),
    "bits_per_char": lambda items, score: _nats(items) / np.log(2),
    "perplexity": lambda items, score: _first_order(_nats(items), score, score),
    "rmse": lambda items, score: _first_order(items["loss"], 1 / (2 * score), score),
    "r2": lambda items, score: _first_order(
        items["loss"], -(1 - score) / items["loss"].mean(), score
    ),
}


def item_values(path: str | Path, metric: str, score: float, prefix: str = "") -> Array | None:
    """Values of a metric, one a test item, whose mean is `score`; None where there are none.

    `prefix` names the corruption of the inputs, `KIND_SEVERITY.`.
    """
    if metric not in METRICS or not str(path):
        return None
    try:
        with np.errstate(divide="ignore", invalid="ignore"):
            values = np.asarray(METRICS[metric](Stored(str(path), prefix), score))
    except (OSError, KeyError, ValueError):
        return None
    return values if len(values) and np.isfinite(values).all() else None


@lru_cache(maxsize=1024)  # a baseline's are read for each of its arms
def _read(path: str, name: str) -> Array:
    return read_arrays(Path(path), name)[name]
