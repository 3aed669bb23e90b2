"""The estimators on tables, beside scikit-learn's, all with their defaults and the same folds."""

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from sklearn import datasets
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from kanzoo.benchmark.rows import empty_table
from kanzoo.estimators.classifier import KANClassifier
from kanzoo.estimators.regressor import KANRegressor
from kanzoo.files import read_json

NUM_FOLDS = 10


@dataclass(frozen=True)
class TableRow:
    """R2 or accuracy on held-out folds, its standard error over folds, and seconds of a fit.

    `cpu_seconds` are those of the process, which other programs change little. A size has the
    process's largest memory too, the data included.
    """

    data: str
    method: str
    score: float
    standard_error: float
    seconds: float
    cpu_seconds: float
    peak_memory_mb: float | None = None


def california_like(count: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Prices by income, age, rooms, crowd and place, with heavy tails as in house censuses."""
    random = np.random.default_rng(0)
    income = random.lognormal(1.2, 0.5, count)
    age = random.uniform(1, 52, count)
    rooms = random.lognormal(1.6, 0.3, count)
    bedrooms = rooms / 5 * random.lognormal(0, 0.1, count)
    population = random.lognormal(7, 0.8, count)
    crowd = random.lognormal(1, 0.4, count)
    north, east = random.uniform(32, 42, count), random.uniform(-124, -114, count)
    coast = np.exp(-np.abs(east + 114 + 0.8 * (north - 32)) / 2)
    y = 0.5 * income + 0.01 * age + coast * (1 + income / 4) - 0.4 * np.log(crowd)
    y = np.minimum(y + 0.3 * np.log(rooms / bedrooms) + random.normal(0, 0.4, count), 5)
    columns = [income, age, rooms, bedrooms, population, crowd, north, east]
    return np.column_stack(columns), y


SETS: dict[str, Callable[[], tuple[np.ndarray, np.ndarray]]] = {
    "diabetes": lambda: datasets.load_diabetes(return_X_y=True),
    "breast_cancer": lambda: datasets.load_breast_cancer(return_X_y=True),
    "wine": lambda: datasets.load_wine(return_X_y=True),
    "friedman1": lambda: datasets.make_friedman1(1000, noise=1.0, random_state=0),
    "friedman2": lambda: datasets.make_friedman2(1000, noise=125.0, random_state=0),
    "california_like": california_like,
}
CLASSES = ("breast_cancer", "wine")
SIZES = {"50 x 500": (50, 500), "100,000 x 8": (100_000, 8), "1,000,000 x 8": (1_000_000, 8)}


def methods(has_classes: bool) -> dict[str, Any]:
    """Unfitted estimators by name."""
    if has_classes:
        return {
            "kan": KANClassifier(random_state=0, time_budget=None),
            "linear": _scaled(LogisticRegression(max_iter=1000)),
            "boosting": HistGradientBoostingClassifier(random_state=0),
            "forest": RandomForestClassifier(random_state=0),
            "mlp": _scaled(MLPClassifier(max_iter=1000, random_state=0)),
        }
    mlp = MLPRegressor(max_iter=1000, random_state=0)
    return {
        "kan": KANRegressor(random_state=0, time_budget=None),
        "linear": LinearRegression(),
        "boosting": HistGradientBoostingRegressor(random_state=0),
        "forest": RandomForestRegressor(random_state=0),
        "mlp": _scaled(TransformedTargetRegressor(mlp, transformer=StandardScaler())),
    }


def _scaled(estimator: Any) -> Any:
    return make_pipeline(StandardScaler(), estimator)


def measured(file: Path, hardware: dict[str, Any]) -> list[TableRow]:
    """The rows that a broken-off run left in a file, none if there is no file.

    Raises `ValueError` of one line for other files, and for those of other hardware.
    """
    if not file.exists():
        return []
    try:
        content = read_json(file)
        there, rows = content["hardware"], [TableRow(**row) for row in content["rows"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} holds no rows of this command: choose another --json") from error
    other = [key for key in hardware if key != "commit" and there.get(key) != hardware[key]]
    if other:
        raise ValueError(f"{file} was measured with another {other[0]}: leave out --resume")
    return rows


def measure(
    names: Sequence[str], folds: int = NUM_FOLDS, done: Collection[TableRow] = ()
) -> Iterator[TableRow]:
    """Scores of all methods on the named sets, or seconds of the regressor's fit of a size.

    Rows that are done come first, and are not measured again.
    """
    yield from done
    finished = {(row.data, row.method) for row in done}
    for name in names:
        if name in SIZES:
            if (name, "kan") not in finished:
                yield _alone(name)
            continue
        x, y = SETS[name]()
        kind = StratifiedKFold if name in CLASSES else KFold
        parts = list(kind(folds, shuffle=True, random_state=0).split(x, y))
        for method, estimator in methods(name in CLASSES).items():
            if (name, method) in finished:
                continue
            scores, seconds = [], []
            for train, test in parts:
                start = _clocks()
                estimator.fit(x[train], y[train])
                seconds.append(_clocks() - start)
                scores.append(estimator.score(x[test], y[test]))
            error = float(np.std(scores, ddof=1) / np.sqrt(folds))
            wall, cpu = np.median(seconds, axis=0).tolist()
            yield TableRow(name, method, float(np.mean(scores)), error, wall, cpu)


def shown(rows: Sequence[TableRow]) -> Table:
    """The rows as a table."""
    title = "R2 or accuracy on held-out folds, with its standard error; seconds of a fit"
    numbers = ("score", "seconds", "of CPU", "peak MB")
    table = empty_table(title, ["data", "method"], numbers)
    for row in rows:
        score = f"{row.score:.3f} +- {row.standard_error:.3f}"
        times = (f"{row.seconds:.2f}", f"{row.cpu_seconds:.2f}")
        memory = "" if row.peak_memory_mb is None else f"{row.peak_memory_mb:,.0f}"
        table.add_row(row.data, row.method, score, *times, memory)
    return table


def _clocks() -> np.ndarray:
    """Seconds that passed, and those of the processor."""
    return np.array([time.perf_counter(), time.process_time()])


def _alone(name: str) -> TableRow:
    """A row of a size from a process of its own, whose memory is that of the fit."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_timed, name).result()


def _timed(name: str) -> TableRow:
    """A fit with the default time budget; the score is R2 on new samples."""
    count, columns = SIZES[name]
    random = np.random.default_rng(0)
    x = random.normal(size=(count + 2000, columns))
    y = np.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2] + random.normal(0, 0.1, len(x))
    start = _clocks()
    model = KANRegressor(random_state=0).fit(x[:count], y[:count])
    wall, cpu = (_clocks() - start).tolist()
    unit = 2**20 if sys.platform == "darwin" else 2**10
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    score = float(model.score(x[count:], y[count:]))
    return TableRow(name, "kan", score, 0.0, wall, cpu, memory)
