"""Look for a formula in data that are made from it, and hold what comes against new points."""

import math
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from kanzoo.benchmark.main import hardware
from kanzoo.data.formula import formula_values
from kanzoo.estimators.regressor import KANRegressor
from kanzoo.interpret.formula.run import FormulaError
from kanzoo.reproduce.suites import Target

EXACT = 1e-3  # error on noiseless held-out points, in deviations, of a formula that was found
POINTS = 1000
CORRELATED = 1 - 1e-12  # correlation of a program without error

Key = tuple[str, str, float, int]  # of a row: name, method, noise, dummies
Values = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Row:
    """What came of one formula: the error on noiseless held-out points, in deviations.

    error: None without a formula or a finite value. noise: in deviations of the values. warned: a
    warning came with it, or no formula. seconds, limit: of the processor.
    """

    name: str
    formula: str
    variables: int
    was_seen: bool
    method: str
    noise: float
    dummies: int
    found: str
    error: float | None
    warned: bool
    seconds: float
    limit: float
    machine: str

    @property
    def key(self) -> Key:
        """Name, method, noise and dummies: what was asked."""
        return self.name, self.method, self.noise, self.dummies

    @property
    def outcome(self) -> str:
        """ "found", "warned" or "wrong"."""
        if self.error is not None and self.error < EXACT + self.noise / 5:
            return "found"
        return "warned" if self.warned else "wrong"

    @property
    def error_text(self) -> str:
        """The error in two digits, or "none"."""
        return "none" if self.error is None else f"{self.error:.1e}"


def points(target: Target, noise: float, dummies: int) -> tuple[np.ndarray, ...]:
    """Training inputs and values with noise, new inputs and clean values, drawn by the name."""
    random = np.random.default_rng([*target.name.encode()])
    low, high = np.array(list(target.ranges.values())).T
    x = random.uniform(low, high, (2 * POINTS, len(target.ranges)))
    y = formula_values(target.formula, target.ranges, x)
    train = y[:POINTS] + noise * y.std() * random.normal(size=POINTS)
    x = np.column_stack([x, random.uniform(1, 5, (2 * POINTS, dummies))])
    return x[:POINTS], train, x[POINTS:], y[POINTS:]


def solve(
    target: Target,
    noise: float = 0.0,
    dummies: int = 0,
    seconds: float = 150.0,
    method: str = "kanzoo",
) -> Row:
    """Look for a formula for so many seconds of the processor; its row, also if none is found."""
    x, y, test_x, test_y = points(target, noise, dummies)
    names = [*target.ranges, *(f"dummy{k}" for k in range(dummies))]
    began = time.process_time()
    found, error, warned = "", math.inf, False
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("always")
        try:
            found, values = METHODS[method](x, y, names, seconds)
            error = float(np.sqrt(np.square(values(test_x) - test_y).mean()) / test_y.std())
        except FormulaError as failure:
            found, warned = f"none: {failure}", True
        except KeyboardInterrupt:
            found, warned = "none in time", True
        except Exception as failure:  # a fault of the search is a row, too
            found = f"{type(failure).__name__}: {failure}"
    used, here = time.process_time() - began, hardware()
    return Row(
        target.name,
        target.formula,
        len(target.ranges),
        target.was_seen,
        method,
        noise,
        dummies,
        found,
        error if math.isfinite(error) else None,
        warned or bool(messages),
        round(used, 1),
        seconds,
        f"one of {here['cores']} cores of {here['cpu']} ({here['simd']})",
    )


def _kanzoo(x: np.ndarray, y: np.ndarray, names: list[str], seconds: float) -> tuple[str, Values]:
    import pandas as pd

    model = KANRegressor(formula="auto", random_state=0, time_limit=None)
    with _interrupt_after(seconds):
        model.fit(pd.DataFrame(x, columns=names), y)
    assert model.formula_ is not None
    return str(model.formula_.expression), model.formula_


def _gplearn(x: np.ndarray, y: np.ndarray, names: list[str], seconds: float) -> tuple[str, Values]:
    """Genetic programming in steps of five generations, until the error or the time is used up.

    Programs are ranked by their correlation with y, and a line is fitted to the best: numbers are
    what genetic programming finds least well.
    """
    from gplearn.genetic import SymbolicRegressor

    functions = ("add", "sub", "mul", "div", "sqrt", "log", "neg", "inv", "sin", "cos")
    model = SymbolicRegressor(
        population_size=2000,
        generations=0,
        function_set=functions,
        metric="pearson",
        parsimony_coefficient=1e-3,
        stopping_criteria=CORRELATED,
        feature_names=names,
        warm_start=True,
        random_state=0,
    )
    end = time.process_time() + seconds
    while time.process_time() < end:
        model.set_params(generations=model.generations + 5)
        model.fit(x, y)
        if model.run_details_["best_fitness"][-1] >= CORRELATED:
            break
    slope, offset = np.polyfit(model.predict(x), y, 1)
    text = f"{offset:.6g} + {slope:.6g} * {model._program}"
    return text, lambda new: offset + slope * model.predict(new)


METHODS = {"kanzoo": _kanzoo, "gplearn": _gplearn}


@contextmanager
def _interrupt_after(seconds: float) -> Iterator[None]:
    """Stop the block as Ctrl-C does after so many seconds of the processor."""
    previous = signal.signal(signal.SIGPROF, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)
