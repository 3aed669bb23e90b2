"""The estimators on tables, beside scikit-learn's, all with their defaults and the same folds."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
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

from kanzoo.estimators.classifier import KANClassifier
from kanzoo.estimators.regressor import KANRegressor

NUM_FOLDS = 10


@dataclass(frozen=True)
class TableRow:
    """R2 or accuracy on held-out folds, its standard error over folds, and seconds of a fit."""

    data: str
    method: str
    score: float
    standard_error: float
    seconds: float


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


def measure(names: Sequence[str], folds: int = NUM_FOLDS) -> Iterator[TableRow]:
    """Scores of all methods on the named sets, or seconds of the regressor's fit of a size."""
    for name in names:
        if name in SIZES:
            yield _timed(name)
            continue
        x, y = SETS[name]()
        kind = StratifiedKFold if name in CLASSES else KFold
        parts = list(kind(folds, shuffle=True, random_state=0).split(x, y))
        for method, estimator in methods(name in CLASSES).items():
            scores, seconds = [], []
            for train, test in parts:
                start = time.perf_counter()
                estimator.fit(x[train], y[train])
                seconds.append(time.perf_counter() - start)
                scores.append(estimator.score(x[test], y[test]))
            error = float(np.std(scores, ddof=1) / np.sqrt(folds))
            row = (float(np.mean(scores)), error, float(np.median(seconds)))
            yield TableRow(name, method, *row)


def _timed(name: str) -> TableRow:
    """A fit with the default time budget; the score is R2 on new samples."""
    count, columns = SIZES[name]
    random = np.random.default_rng(0)
    x = random.normal(size=(count + 2000, columns))
    y = np.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2] + random.normal(0, 0.1, len(x))
    start = time.perf_counter()
    model = KANRegressor(random_state=0).fit(x[:count], y[:count])
    seconds = time.perf_counter() - start
    return TableRow(name, "kan", float(model.score(x[count:], y[count:])), 0.0, seconds)
