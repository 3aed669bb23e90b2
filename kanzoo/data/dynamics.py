"""Right-hand sides of differential equations from time series, and Strogatz's systems.

Axes: T times, S states, N samples.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from kanzoo.checks import check_name, check_whole
from kanzoo.data.base import PARTS, Counts, DataSpec, Split
from kanzoo.data.functions import Regression
from kanzoo.data.seeding import keyed_seed

METHODS = ("difference", "smooth", "weak")
WINDOW, DEGREE = 9, 6  # of local polynomials
Box = tuple[tuple[float, float], tuple[float, float]]
cos, sin = np.cos, np.sin

# The two-state systems of Strogatz's Nonlinear Dynamics and Chaos that La Cava et al. chose (2016),
# and a box of starts.
SYSTEMS: dict[str, tuple[Callable[[Any, Any], tuple[Any, Any]], Box]] = {
    "bacterial_respiration": (
        lambda x, y: (20 - x - x * y / (1 + 0.5 * x * x), 10 - x * y / (1 + 0.5 * x * x)),
        ((5, 15), (5, 15)),
    ),
    "bar_magnets": (
        lambda x, y: (0.5 * sin(x - y) - sin(x), 0.5 * sin(y - x) - sin(y)),
        ((0.2, 6), (0.2, 6)),
    ),
    "glider": (lambda x, y: (-0.05 * x * x - sin(y), x - cos(y) / x), ((3, 7), (0, 1))),
    "competition": (
        lambda x, y: (3 * x - 2 * x * y - x * x, 2 * y - x * y - y * y),
        ((0.5, 5), (0.5, 5)),
    ),
    "predator_prey": (
        lambda x, y: (x * (4 - x - y / (1 + x)), y * (x / (1 + x) - 0.075 * y)),
        ((1, 8), (1, 10)),
    ),
    "shear_flow": (
        lambda x, y: (cos(x) / np.tan(y), (cos(y) ** 2 + 0.1 * sin(y) ** 2) * sin(x)),
        ((-1, 1), (0.5, 1.2)),
    ),
    "vanderpol": (lambda x, y: (10 * (y - (x**3 - x) / 3), -x / 10), ((-2, 2), (-0.7, 0.7))),
}


def check_trajectory(times: Any, states: Any) -> tuple[np.ndarray, np.ndarray]:
    """Times `(T,)` and states `(T, S)` as float64; `ValueError` of one line for what cannot be."""
    t, x = np.asarray(times, float), np.asarray(states, float)
    x = x[:, None] if x.ndim == 1 else x
    if t.ndim != 1 or x.ndim != 2 or len(t) != len(x) or len(t) < WINDOW:
        raise ValueError(
            f"a trajectory needs times (T,) and states (T, S) with T of at least {WINDOW}, "
            f"not {t.shape} and {x.shape}"
        )
    if not (np.isfinite(t).all() and np.isfinite(x).all()):
        raise ValueError("a trajectory has gaps (NaN or infinite): cut it there into several")
    if not (np.diff(t) > 0).all():
        raise ValueError("times of a trajectory must increase")
    return t, x


def derivatives(times: Any, states: Any, method: str = "smooth") -> tuple[np.ndarray, np.ndarray]:
    """States `(N, S)` and their derivatives by time `(N, S)` of one trajectory.

    "difference": central differences. "smooth": polynomials of degree 6 through 9 even times
    (Savitzky and Golay). "weak": averages under test functions (1 - s^2)^4 that vanish at the ends
    of windows of 9 times, of the state, and by integration by parts of its derivative.
    """
    check_name("method", method, METHODS)
    t, x = check_trajectory(times, states)
    if method == "difference":
        return x, np.gradient(x, t, axis=0, edge_order=2)
    if method == "smooth":
        from scipy.signal import savgol_filter

        step = np.diff(t)
        if np.ptp(step) > 1e-6 * step.mean():
            raise ValueError("method=smooth needs even times; use difference or weak")
        slope = savgol_filter(x, WINDOW, DEGREE, deriv=1, delta=step.mean(), axis=0)
        inner = slice(WINDOW // 2, -(WINDOW // 2))
        return x[inner], slope[inner]
    return weak_means(t, x, x, WINDOW, 4)


def weak_means(
    times: np.ndarray, values: np.ndarray, path: np.ndarray, width: int, power: int
) -> tuple[np.ndarray, np.ndarray]:
    """Averages of values `(T, F)`, and of the derivative of a path `(T, S)`, in every window.

    Both are under test functions, see `bumps`, the second by integration by parts.
    """
    means, slopes = [], []
    for window, test, change in bumps(times, width, power):
        piece = times[window]
        size = np.trapezoid(test, piece)
        rate = -np.trapezoid(change * piece, piece)  # so that straight lines are exact
        means.append(np.trapezoid(test[:, None] * values[window], piece, axis=0) / size)
        slopes.append(-np.trapezoid(change[:, None] * path[window], piece, axis=0) / rate)
    return np.array(means), np.array(slopes)


def bumps(
    times: np.ndarray, width: int, power: int
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Every window of `width` times, with (1 - s^2)^power there and its derivative by time."""
    for start in range(len(times) - width + 1):
        window = slice(start, start + width)
        piece = times[window]
        half = (piece[-1] - piece[0]) / 2
        s = (piece - piece[0]) / half - 1
        yield window, (1 - s * s) ** power, -2 * power * s * (1 - s * s) ** (power - 1) / half


def integrate(field: Callable[[np.ndarray], np.ndarray], start: Any, times: Any) -> np.ndarray:
    """States `(T, S)` at times from a start; NaN from where the integration fails."""
    from scipy.integrate import solve_ivp

    times, start = np.asarray(times, float), np.asarray(start, float)
    options: dict[str, Any] = {"t_eval": times, "rtol": 1e-9, "atol": 1e-9, "method": "LSODA"}
    solution = solve_ivp(lambda _, x: field(x), (times[0], times[-1]), start, **options)
    states = np.full((len(times), len(start)), np.nan)
    states[: solution.y.shape[1]] = solution.y.T
    return states


def field_of(system: str) -> Callable[[np.ndarray], np.ndarray]:
    """The right-hand side of a system, `(..., 2) -> (..., 2)`."""
    check_name("system", system, SYSTEMS)
    function = SYSTEMS[system][0]
    return lambda x: np.stack(function(x[..., 0], x[..., 1]), -1)


def trajectories(
    system: str, count: int, *, seed: int = 0, num_times: int = 201, duration: float = 4.0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Exact trajectories from starts drawn in the box of a system: times and states of each."""
    field, box = field_of(system), np.array(SYSTEMS[system][1], float)
    generator = np.random.default_rng(seed)
    times = np.linspace(0, duration, num_times)
    starts = box[:, 0] + np.ptp(box, 1) * generator.random((count, 2))
    return [(times, integrate(field, start, times)) for start in starts]


class Strogatz(Regression):
    """Derivatives of both states of a system from its states, `(2,) -> (2,)`.

    Training trajectories have `noise`, relative to each state's deviation, and derivatives by
    `method`, see `derivatives`; those of validation and test start elsewhere, and have exact ones.
    """

    test_set = "independent"
    domain = "dynamics"
    columns = ("x", "y")

    def __init__(
        self,
        *,
        system: str = "vanderpol",
        method: str = "smooth",
        noise: float = 0.0,
        n_train: int = 8,
        n_val: int = 2,
        n_test: int = 2,
        num_times: int = 201,
        split_seed: int | None = 0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.system, self.method, self.noise = system, method, noise
        self.n_train, self.n_val, self.n_test = n_train, n_val, n_test
        self.num_times = num_times
        self.split_seed = split_seed

    @property
    def name(self) -> str:
        """The name of the system."""
        return self.system

    @property
    def spec(self) -> DataSpec:
        """Two derivatives from two states."""
        return DataSpec((2,), 2, "regression", kind="table")

    def check(self, *, world_size: int = 1) -> None:
        """Check the options."""
        check_name("system", self.system, SYSTEMS)
        check_name("method", self.method, METHODS)
        check_whole("num_times", self.num_times, WINDOW + 1)
        for part in PARTS:
            check_whole(f"n_{part}", getattr(self, f"n_{part}"), 1)
        if isinstance(self.noise, bool) or not 0 <= self.noise < float("inf"):
            raise ValueError(f"noise must be a number of at least 0, not {self.noise!r}")
        if self.prior is not None:
            raise ValueError("prior is not for systems of two states")
        super().check(world_size=world_size)

    def counts(self) -> Counts:
        """Return the sizes of the splits: times of trajectories."""
        inner = self.num_times - (0 if self.method == "difference" else WINDOW - 1)
        others = (n * self.num_times for n in (self.n_val, self.n_test))
        return self.limited_counts(self.n_train * inner, *others)

    def cut(self) -> dict[str, Split]:
        """Integrate the trajectories of every split."""
        splits = {}
        for part in PARTS:
            seed = keyed_seed("trajectories", part, self.split_seed or 0)
            count = getattr(self, f"n_{part}")
            paths = trajectories(self.system, count, seed=seed, num_times=self.num_times)
            if part == "train":
                generator = np.random.default_rng(seed + 1)
                sigma = self.noise * np.concatenate([x for _, x in paths]).std(0)
                noisy = [(t, x + sigma * generator.standard_normal(x.shape)) for t, x in paths]
                pairs = [derivatives(t, x, self.method) for t, x in noisy]
            else:
                pairs = [(x, field_of(self.system)(x)) for _, x in paths]
            x, y = (torch.from_numpy(np.concatenate(p)) for p in zip(*pairs, strict=True))
            if not x.isfinite().all():
                raise ValueError(
                    f"a trajectory of {self.system} ends early: take another split_seed"
                )
            kept = self.counts()._asdict()[part]
            splits[part] = Split(x[:kept], y[:kept])
        return self.scaled(splits)
