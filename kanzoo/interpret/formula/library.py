"""The best fit c f(a x + b) + d of every function of the library to an edge.

Axes: S samples of an edge, A and B candidates for a and b.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import least_squares

from kanzoo.layers.elementary import CONSTANT, LIBRARY, TINY, Elementary, get_function

PENALTY = 0.5  # decades of 1 - R^2 that a unit of complexity must gain
FLOOR = 1e-9  # differences of 1 - R^2 below this are taken for noise
GRID_SAMPLES = 96
POSITIVE = (TINY, math.inf)


@dataclass(frozen=True)
class EdgeFit:
    """c f(a x + b) + d beside an edge: R^2, and the cost that candidates are ranked by."""

    function: Elementary
    a: float
    b: float
    c: float
    d: float
    r2: float

    def __str__(self) -> str:
        affine = ", ".join(f"{k}={getattr(self, k):.4g}" for k in "abcd")
        name = self.function.name
        return f"{name}: R2 {self.r2:.6f}, complexity {self.function.complexity}, {affine}"

    @property
    def affine(self) -> tuple[float, float, float, float]:
        """a, b, c and d of c f(a x + b) + d."""
        return self.a, self.b, self.c, self.d

    @property
    def cost(self) -> float:
        """log10(1 - R^2 + floor) and the penalty for complexity; the lowest is best."""
        return math.log10(1 - self.r2 + FLOOR) + PENALTY * self.function.complexity

    def __call__(self, x: np.ndarray) -> np.ndarray:
        t = torch.as_tensor(self.a * x + self.b)
        return self.c * self.function.call(t).numpy() + self.d


def fit_edge(
    x: np.ndarray, y: np.ndarray, functions: Iterable[str] | None = None, scale: float = 0.0
) -> list[EdgeFit]:
    """The best fit of every function of the library to y at x, `(S,)` each, the cheapest first.

    A function whose singularities cannot be kept outside the data is left out. An edge that varies
    less than 1e-6 of `scale` is the constant 0, shifted. Raises `ValueError` for NaN.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("an edge cannot be fitted to values that are NaN or infinite")
    deviation = float(y.std())
    if deviation <= 1e-6 * scale or deviation < 1e-14 or np.ptp(x) < 1e-12:
        return [EdgeFit(CONSTANT, 1.0, 0.0, 0.0, float(y.mean()), 1.0)]
    entries = LIBRARY.values() if functions is None else [get_function(name) for name in functions]
    order = np.argsort(x)[np.linspace(0, len(x) - 1, min(len(x), 256)).astype(int)]
    x, y = x[order], y[order]
    centre, half = (x[0] + x[-1]) / 2, (x[-1] - x[0]) / 2
    u = (x - centre) / half
    fits = []
    for entry in entries:
        best = None
        for start in _starts(entry, u, y):
            alpha, beta, c, d, r2 = _polish(entry, u, y, *start)
            a = alpha / half
            fit = EdgeFit(entry, a, beta - a * centre, c, d, r2)
            if best is None or fit.r2 > best.r2:
                best = fit
            if best.r2 > 1 - FLOOR:
                break
        if best is not None:
            fits.append(best)
    return sorted(fits, key=lambda fit: fit.cost)


def _candidates(entry: Elementary) -> tuple[np.ndarray, np.ndarray]:
    """Values of a and b to try on inputs in [-1, 1], as flat arrays of pairs."""
    if entry.search == "line":
        return np.array([1.0]), np.array([0.0])
    if entry.search == "scale":
        size = np.logspace(-1.5, 1.3, 40)
        return np.concatenate([size, -size]), np.zeros(80)
    if entry.search == "shift":
        if entry.domain == POSITIVE:
            shift = 1 + np.concatenate([[1e-9], np.logspace(-4, 1.3, 60)])
            return np.repeat([1.0, -1.0], len(shift)), np.tile(shift, 2)
        shift = np.concatenate([np.linspace(-1.5, 1.5, 121), np.linspace(-6, 6, 81)])
        return np.ones(len(shift)), shift
    if math.isfinite(entry.domain[1]):
        bound = entry.domain[1]
        size = bound * (1 - np.concatenate([[1e-9], np.logspace(-3, -0.02, 30)]))
        position = np.linspace(-1, 1, 31)
        a, b = np.meshgrid(np.concatenate([size, -size]), position, indexing="ij")
        return a.ravel(), (b * (bound - np.abs(a))).ravel()
    size, shift = np.logspace(-1, 1.4, 30), np.linspace(-8, 8, 49)
    a, b = np.meshgrid(np.concatenate([size, -size]), shift, indexing="ij")
    return a.ravel(), b.ravel()


def _starts(entry: Elementary, u: np.ndarray, y: np.ndarray, count: int = 3) -> list[Any]:
    """The best few (a, b) of the candidates, c and d being least squares, and not neighbours.

    Functions of which scale and shift both matter are even or odd: (-a, -b) is the same as (a, b).
    At least one start has another sign of c than the others, where there is such a one.
    """
    index = np.linspace(0, len(u) - 1, min(len(u), GRID_SAMPLES)).astype(int)
    if entry.search == "jump":
        b, index = -(u[1:] + u[:-1]) / 2, np.arange(len(u))
        a = np.ones(len(b))
    else:
        a, b = _candidates(entry)
    t = torch.as_tensor(a[:, None] * u[index] + b[:, None])
    with torch.no_grad():
        f = entry.call(t).numpy()
    inside = ((t >= entry.domain[0]) & (t <= entry.domain[1])).all(1).numpy()
    f = f - f.mean(1, keepdims=True)
    target = y[index] - y[index].mean()
    energy = (f * f).sum(1)
    good = inside & np.isfinite(energy) & (energy > 1e-20)
    r2 = np.where(good, (f @ target) ** 2 / np.where(good, energy, 1), -1.0)
    starts: list[tuple[float, float]] = []
    flip = np.where(a < 0, -1.0, 1.0) if entry.search == "both" else np.ones(len(a))
    a, b, upright = flip * a, flip * b, f @ target > 0
    kinds: list[bool] = []
    for position in np.argsort(-r2)[:400]:
        near = any(
            abs(np.log(abs(a[position] / p))) < 0.3
            and abs(b[position] - q) < 0.3
            and a[position] * p > 0
            for p, q in starts
        )
        kind = bool(upright[position])
        if r2[position] >= 0 and not near and kinds.count(kind) < count - 1:
            starts.append((float(a[position]), float(b[position])))
            kinds.append(kind)
        if len(starts) == count:
            break
    return starts


def _polish(
    entry: Elementary, u: np.ndarray, y: np.ndarray, a: float, b: float
) -> tuple[float, float, float, float, float]:
    """Least squares over a and b, with the best c and d for each (variable projection)."""
    target = y - y.mean()
    deviation = max(float(np.sqrt(target @ target)), 1e-300)
    low, high = entry.domain

    def project(p: np.ndarray) -> tuple[np.ndarray, float, float]:
        t = p[0] * u + p[1]
        f = entry.call(torch.as_tensor(t)).numpy()
        mean = f.mean()
        g = f - mean
        c = float(g @ target) / max(float(g @ g), 1e-300)
        outside = np.maximum(np.maximum(low - t, t - high), 0.0)
        return (c * g - target) / deviation + outside, c, float(y.mean() - c * mean)

    start = np.array([a, b])
    if entry.search not in ("line", "jump"):
        free = {"shift": [1], "scale": [0], "both": [0, 1]}[entry.search]

        def residual(q: np.ndarray) -> np.ndarray:
            p = start.copy()
            p[free] = q
            return project(p)[0]

        result = least_squares(
            residual, start[free], method="lm", xtol=1e-14, ftol=1e-14, gtol=1e-14, max_nfev=60
        )
        before = 0.5 * float(np.square(residual(start[free])).sum())
        if np.isfinite(result.x).all() and result.cost <= before:
            start[free] = result.x
    left, c, d = project(start)
    return float(start[0]), float(start[1]), c, d, 1 - float(left @ left)
