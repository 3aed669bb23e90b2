"""The command `scripts/benchmark.py`."""

import argparse
import json
import os
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console

from kanzoo import registry
from kanzoo.bases.base import get_basis
from kanzoo.benchmark import checks, fit, layers, models, paths, peers
from kanzoo.benchmark.inputs import architecture
from kanzoo.benchmark.timing import ROUNDS
from kanzoo.checks import check_name
from kanzoo.files import write_atomic
from kanzoo.hardware import processor
from kanzoo.models.budget import MATCHES
from kanzoo.run.command import stops, user_errors
from kanzoo.rundir import git_sha

BACKENDS = ("auto", "blocked")
Row = TypeVar("Row")


def main() -> None:
    """Parse the command line and run the benchmark that it names."""
    options = _parser().parse_args()
    torch.manual_seed(0)
    # Errors are of a name, a file of rows, or a ledger that is none.
    with stops("rows in a file stay"), user_errors():
        rows = _collect(options.measure(options), options.json)
    Console().print(import_module(f"kanzoo.benchmark.{options.what}").shown(rows))


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--json", type=Path, metavar="FILE", help="also write the rows there")
    shared.add_argument(
        "--rounds", type=_positive, default=ROUNDS, help="alternated steps, or epochs, of each"
    )
    parser = argparse.ArgumentParser(description="Measured speed and memory, as ratios.")
    parts = parser.add_subparsers(dest="what", required=True)
    part = parts.add_parser("layers", parents=[shared], help="layers against the dense limit")
    part.set_defaults(measure=_layers)
    part.add_argument("--peers", action="store_true", help="also installed KAN packages")
    part.add_argument("--bases", action="store_true", help="also every other basis")
    part.add_argument("--grid-sizes", type=_positive, nargs="+", default=[5, 20, 50], metavar="G")
    part = parts.add_parser("paths", parents=[shared], help="special paths against general ones")
    part.set_defaults(measure=_paths)
    part.add_argument("--bases", nargs="+", default=paths.BASES, choices=registry.names("basis"))
    part = parts.add_parser("models", parents=[shared], help="networks against their MLP twins")
    part.set_defaults(measure=_models)
    names, arms = registry.names("model"), models.every_arm()
    sized = [name for name in names if architecture(name).coarse]
    part.add_argument("--models", nargs="+", default=sized, choices=names, metavar="MODEL")
    part.add_argument(
        "--arms",
        nargs="+",
        default=list(models.ARMS),
        choices=arms,
        metavar="ARM",
        help=f"{models.KAN}BASIS, for a basis of conf/basis",
    )
    part.add_argument("--match", default="params", choices=MATCHES, help="what is made equal")
    part.add_argument("--batch", type=_positive, help="samples of a step instead of the usual")
    part = parts.add_parser("study", parents=[shared], help="what a study costs beside training")
    part.set_defaults(measure=_study)
    part.add_argument("--no-engine", action="store_true", help="only planning and the report")
    part = parts.add_parser("loop", parents=[shared], help="scripts/train.py against a bare loop")
    part.set_defaults(measure=_loop)
    part = parts.add_parser("checks", parents=[shared], help="what checks of arguments cost")
    part.set_defaults(measure=_checks, rounds=101)
    part = parts.add_parser("seeds", parents=[shared], help="seeds together against one by one")
    part.set_defaults(measure=_seeds, rounds=3)  # of 8 runs each
    part = parts.add_parser("load", parents=[shared], help="steps beside busy processes")
    part.set_defaults(measure=_load, rounds=3)
    part = parts.add_parser("fit", parents=[shared], help="a whole fit against pykan")
    part.set_defaults(measure=_fit)
    part.add_argument("--steps", type=_positive, default=200, help="LBFGS steps")
    part.add_argument("--fits", type=_positive, default=1, help="alternated fits of each")
    part = parts.add_parser("ledgers", parents=[shared], help="what arms of studies cost")
    part.set_defaults(measure=_ledgers)
    part.add_argument("folders", nargs="+", type=Path, metavar="LEDGER")
    part = parts.add_parser("tables", parents=[shared], help="estimators beside scikit-learn's")
    part.set_defaults(measure=_tables)
    part.add_argument(
        "--data", nargs="+", metavar="SET", help="names of sets or sizes; all unless given"
    )
    part.add_argument("--folds", type=_positive, default=10, help="parts that are held out in turn")
    part.add_argument("--resume", action="store_true", help="keep the rows that --json has")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not at least 1")
    return number


def _layers(options: argparse.Namespace) -> Iterator[layers.Row]:
    grid_sizes = tuple(options.grid_sizes)
    yield from layers.splines(grid_sizes, BACKENDS, options.rounds)
    if options.bases:
        names = registry.names("basis")
        expanding = [name for name in names if get_basis(name)(1).num_functions > 1]
        others = [name for name in expanding if name != "bspline"]
        yield from layers.bases(others, options.rounds)
    if options.peers:
        yield from layers.peers(peers.installed(), grid_sizes, options.rounds)


def _paths(options: argparse.Namespace) -> Iterator[paths.Row]:
    yield from paths.measure(options.rounds, tuple(options.bases))


def _models(options: argparse.Namespace) -> Iterator[models.Row]:
    for name in options.models:
        yield from models.measure(name, options.arms, options.match, options.rounds, options.batch)


def _study(options: argparse.Namespace) -> Iterator[Any]:
    from kanzoo.benchmark import study  # needs all that trains and compares

    yield from study.measure(engine=not options.no_engine)


def _loop(options: argparse.Namespace) -> Iterator[Any]:
    from kanzoo.benchmark import loop  # needs all that trains

    yield from loop.measure(options.rounds)


def _checks(options: argparse.Namespace) -> Iterator[checks.Row]:
    yield from checks.measure(options.rounds)


def _seeds(options: argparse.Namespace) -> Iterator[Any]:
    from kanzoo.benchmark import seeds  # needs all that trains

    yield from seeds.measure(options.rounds)


def _tables(options: argparse.Namespace) -> Iterator[Any]:
    from kanzoo.benchmark import tables  # needs scikit-learn's estimators

    known = [*tables.SETS, *tables.SIZES]
    for name in options.data or ():
        check_name("--data", name, known)
    done = tables.measured(options.json, hardware()) if options.resume and options.json else []
    yield from tables.measure(options.data or known, options.folds, done)


def hardware() -> dict[str, Any]:
    """What the numbers were measured on."""
    return {
        "cpu": processor(),
        "simd": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "commit": git_sha(),
    }


def _collect(rows: Iterable[Row], file: Path | None) -> list[Row]:
    """The rows, each of which is also in the file once it was measured."""
    from rich.progress import track

    found: list[Row] = []
    for row in track(rows, description="measuring", transient=True):
        found.append(row)
        if file is not None:
            report = {"hardware": hardware(), "rows": [vars(each) for each in found]}
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(file, json.dumps(report, indent=1) + "\n")
    return found


def _ledgers(options: argparse.Namespace) -> Iterator[Any]:
    from kanzoo.benchmark import ledgers  # needs all that trains

    yield from ledgers.measure(options.folders, options.rounds)


def _load(options: argparse.Namespace) -> Iterator[Any]:
    from kanzoo.benchmark import load

    yield from load.measure(options.rounds)


def _fit(options: argparse.Namespace) -> Iterator[fit.FitRow]:
    yield fit.measure(options.steps, options.fits)
