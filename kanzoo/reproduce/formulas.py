"""Formulas that are to be found again in data, from the suites of symbolic regression.

Nguyen's, Keijzer's and Vladislavleva's functions (1009.5042, table 1), right-hand sides of
Strogatz's systems (1804.10720) and Feynman's equations with four to six variables (1905.11481).
Of their names in order every other one is for development; the rest is looked at when the method is
finished.
"""

import argparse
import json
import logging
import math
import signal
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from kanzoo.data.formula import compile_formula, parse_formula
from kanzoo.data.functions import Range, feynman_table
from kanzoo.estimators.regressor import KANRegressor
from kanzoo.interpret.formula.run import FormulaError

EXACT = 1e-3  # error on noiseless held-out points, in deviations, of a formula that was found
POINTS = 1000
UNIT, SIGNED, WIDE = (0.0, 1.0), (-1.0, 1.0), (-3.0, 3.0)
STATE, PHASE = (0.5, 5.0), (0.2, 3.0)  # of Strogatz's systems
SUITES: dict[str, tuple[str, dict[str, Range]]] = {
    "nguyen_3": ("x**5 + x**4 + x**3 + x**2 + x", {"x": SIGNED}),
    "nguyen_5": ("sin(x**2)*cos(x) - 1", {"x": SIGNED}),
    "nguyen_6": ("sin(x) + sin(x + x**2)", {"x": SIGNED}),
    "nguyen_7": ("log(x + 1) + log(x**2 + 1)", {"x": (0.0, 2.0)}),
    "nguyen_9": ("sin(x) + sin(y**2)", {"x": UNIT, "y": UNIT}),
    "nguyen_11": ("x**y", {"x": UNIT, "y": UNIT}),
    "nguyen_12": ("x**4 - x**3 + y**2/2 - y", {"x": SIGNED, "y": SIGNED}),
    "keijzer_1": ("0.3*x*sin(2*pi*x)", {"x": SIGNED}),
    "keijzer_4": ("x**3*exp(-x)*cos(x)*sin(x)*(sin(x)**2*cos(x) - 1)", {"x": (0.0, 10.0)}),
    "keijzer_5": ("30*x*z/((x - 10)*y**2)", {"x": SIGNED, "y": (1.0, 2.0), "z": SIGNED}),
    "keijzer_11": ("x*y + sin((x - 1)*(y - 1))", {"x": WIDE, "y": WIDE}),
    "keijzer_13": ("6*sin(x)*cos(y)", {"x": WIDE, "y": WIDE}),
    "keijzer_14": ("8/(2 + x**2 + y**2)", {"x": WIDE, "y": WIDE}),
    "keijzer_15": ("x**3/5 + y**3/2 - y - x", {"x": WIDE, "y": WIDE}),
    "vladislavleva_1": (
        "exp(-(x - 1)**2)/(1.2 + (y - 2.5)**2)",
        {"x": (0.3, 4.0), "y": (0.3, 4.0)},
    ),
    "vladislavleva_4": (
        "10/(5 + (a - 3)**2 + (b - 3)**2 + (c - 3)**2 + (d - 3)**2 + (f - 3)**2)",
        dict.fromkeys("abcdf", (0.05, 6.05)),
    ),
    "vladislavleva_5": (
        "30*(x - 1)*(z - 1)/(y**2*(x - 10))",
        {"x": (0.05, 2.0), "y": (1.0, 2.0), "z": (0.05, 2.0)},
    ),
    "vladislavleva_7": (
        "(x - 3)*(y - 3) + 2*sin((x - 4)*(y - 4))",
        {"x": (0.05, 6.05), "y": (0.05, 6.05)},
    ),
    "vladislavleva_8": (
        "((x - 3)**4 + (y - 3)**3 - (y - 3))/((y - 2)**4 + 10)",
        {"x": (0.05, 6.05), "y": (0.05, 6.05)},
    ),
    "strogatz_bacres": ("20 - x - x*y/(1 + 0.5*x**2)", {"x": (1.0, 10.0), "y": (1.0, 10.0)}),
    "strogatz_barmag": ("0.5*sin(x - y) - sin(x)", {"x": PHASE, "y": PHASE}),
    "strogatz_glider_1": ("-0.05*x**2 - sin(y)", {"x": STATE, "y": PHASE}),
    "strogatz_glider_2": ("x - cos(y)/x", {"x": STATE, "y": PHASE}),
    "strogatz_lv": ("3*x - 2*x*y - x**2", {"x": STATE, "y": STATE}),
    "strogatz_predprey": ("x*(4 - x - y/(1 + x))", {"x": STATE, "y": STATE}),
    "strogatz_shearflow_1": ("cos(x)*cos(y)/sin(y)", {"x": PHASE, "y": (0.3, 2.8)}),
    "strogatz_shearflow_2": ("sin(x)*(cos(y)**2 + 0.1*sin(y)**2)", {"x": PHASE, "y": PHASE}),
    "strogatz_vdp": ("10*(y - (x**3 - x)/3)", {"x": (-2.0, 2.0), "y": SIGNED}),
}
FEYNMAN = (
    "I.8.14", "I.11.19", "I.12.11", "I.13.12", "I.15.3x", "I.18.4", "I.24.6", "I.32.17", "I.40.1",
    "I.41.16", "I.44.4", "I.50.26", "II.6.15a", "II.11.3", "II.11.17", "II.11.27", "II.21.32",
    "II.35.18", "II.35.21", "III.4.33", "III.9.52", "III.10.19", "III.14.14", "III.19.51",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """What came of one formula: the error on noiseless held-out points, in deviations."""

    name: str
    formula: str
    variables: int
    noise: float
    found: str
    error: float
    is_right: bool
    warned: bool
    seconds: float


def names(half: str) -> list[str]:
    """Names of the "development" or "frozen" half, or of "all"."""
    known = sorted([*SUITES, *FEYNMAN])
    return {"development": known[::2], "frozen": known[1::2], "all": known}[half]


def points(name: str, noise: float, root: str) -> tuple[Any, ...]:
    """Formula, variables, training points with noise (in deviations) and clean held-out ones."""
    formula, ranges = SUITES[name] if name in SUITES else feynman_table(root)[name]
    random = np.random.default_rng([*name.encode()])
    low, high = np.array(list(ranges.values())).T
    x = random.uniform(low, high, (2 * POINTS, len(ranges)))
    y = compile_formula(parse_formula(formula, list(ranges)), list(ranges))(x)
    train = y[:POINTS] + noise * y.std() * random.normal(size=POINTS)
    return formula, list(ranges), x[:POINTS], train, x[POINTS:], y[POINTS:]


def solve(name: str, noise: float, root: str, seconds: float) -> Row:
    """Look for a formula in data for so many seconds of the processor's time."""
    import pandas as pd

    formula, variables, x, y, test_x, test_y = points(name, noise, root)
    model = KANRegressor(formula="auto", random_state=0, time_limit=None)
    began = time.process_time()
    found, error, warned = "", math.inf, False
    previous = signal.signal(signal.SIGPROF, _interrupt)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("always")
        try:
            model.fit(pd.DataFrame(x, columns=variables), y)
            signal.setitimer(signal.ITIMER_PROF, 0)
            assert model.formula_ is not None
            error = float(np.sqrt(np.square(model.formula_(test_x) - test_y).mean()) / test_y.std())
            found = str(model.formula_.expression)
        except FormulaError as failure:
            found, warned = f"none: {failure}", True
        except KeyboardInterrupt:
            found, warned = "none in time", True
        except Exception as failure:  # a fault of the search is a row, too
            found = f"{type(failure).__name__}: {failure}"
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, previous)
    error = error if math.isfinite(error) else math.inf
    return Row(
        name,
        formula,
        len(variables),
        noise,
        found,
        error,
        error < EXACT + noise / 5,
        warned or bool(messages),
        round(time.process_time() - began, 1),
    )


def _interrupt(signal_number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def counts(rows: list[Row]) -> str:
    """How many were found, and how many stand-ins came without a warning."""
    many = [row for row in rows if row.variables >= 4]
    silent = sum(not row.is_right and not row.warned for row in rows)
    return (
        f"{sum(row.is_right for row in rows)} of {len(rows)} found, with four or more variables "
        f"{sum(row.is_right for row in many)} of {len(many)}; {silent} wrong without a warning"
    )


def main() -> None:
    """Entry of `scripts/formulas.py`: solve what is not solved yet, and print the table."""
    from rich.console import Console

    parser = argparse.ArgumentParser(description="Find formulas of known suites in data.")
    parser.add_argument("names", nargs="*", help="of formulas; the chosen half if none")
    parser.add_argument("--half", choices=("development", "frozen", "all"), default="development")
    parser.add_argument("--noise", type=float, default=0.0, help="in deviations of the values")
    parser.add_argument("--seconds", type=float, default=150.0, help="of the processor, each")
    parser.add_argument("--root", default="data")
    parser.add_argument("--runs", default="runs", help="rows are kept in RUNS/formulas")
    options = parser.parse_args()
    logging.getLogger("kanzoo").setLevel(logging.ERROR)
    console = Console()
    folder = Path(options.runs) / "formulas"
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in options.names or names(options.half):
        file = folder / f"{name}-{options.noise:g}.json"
        if not file.exists():
            row = solve(name, options.noise, options.root, options.seconds)
            file.with_suffix(".part").write_text(json.dumps(asdict(row)), encoding="utf-8")
            file.with_suffix(".part").rename(file)
        row = Row(**json.loads(file.read_text(encoding="utf-8")))
        rows.append(row)
        mark = "yes" if row.is_right else "warned" if row.warned else "NO"
        console.print(
            f"{mark:6} {name:22} {row.error:.1e} {row.seconds:6.1f} s  {row.found[:300]}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    console.print(counts(rows))
