"""The command `scripts/benchmark.py`."""

import argparse
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.table import Table

from kanzoo import registry
from kanzoo.bases.base import get_basis
from kanzoo.benchmark import checks, fit, layers, models, paths, peers
from kanzoo.benchmark.inputs import architecture
from kanzoo.benchmark.timing import ROUNDS
from kanzoo.checks import check_name
from kanzoo.files import write_atomic
from kanzoo.models.budget import MATCHES
from kanzoo.rundir import git_sha

BACKENDS = ("auto", "blocked")
Row = TypeVar("Row")


def main() -> None:
    """Parse the command line and run the benchmark that it names."""
    options = _parser().parse_args()
    torch.manual_seed(0)
    rows = _collect(options.measure(options), options.json)
    Console().print(options.table(rows))


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--json", type=Path, metavar="FILE", help="also write the rows there")
    shared.add_argument(
        "--rounds", type=_positive, default=ROUNDS, help="alternated steps, or epochs, of each"
    )
    parser = argparse.ArgumentParser(description="Measured speed and memory, as ratios.")
    parts = parser.add_subparsers(dest="what", required=True)
    part = parts.add_parser("layers", parents=[shared], help="layers against the dense limit")
    part.set_defaults(measure=_layers, table=_layer_table)
    part.add_argument("--peers", action="store_true", help="also installed KAN packages")
    part.add_argument("--bases", action="store_true", help="also every other basis")
    part.add_argument("--grid-sizes", type=_positive, nargs="+", default=[5, 20, 50], metavar="G")
    part = parts.add_parser("paths", parents=[shared], help="special paths against general ones")
    part.set_defaults(measure=_paths, table=_paths_table)
    part.add_argument("--bases", nargs="+", default=paths.BASES, choices=registry.names("basis"))
    part = parts.add_parser("models", parents=[shared], help="networks against their MLP twins")
    part.set_defaults(measure=_models, table=_model_table)
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
    part.set_defaults(measure=_study, table=_study_table)
    part.add_argument("--no-engine", action="store_true", help="only planning and the report")
    part = parts.add_parser("loop", parents=[shared], help="scripts/train.py against a bare loop")
    part.set_defaults(measure=_loop, table=_loop_table)
    part = parts.add_parser("checks", parents=[shared], help="what checks of arguments cost")
    part.set_defaults(measure=_checks, table=_checks_table, rounds=101)
    part = parts.add_parser("seeds", parents=[shared], help="seeds together against one by one")
    part.set_defaults(measure=_seeds, table=_seeds_table, rounds=3)  # of 8 runs each
    part = parts.add_parser("load", parents=[shared], help="steps beside busy processes")
    part.set_defaults(measure=_load, table=_load_table, rounds=3)
    part = parts.add_parser("fit", parents=[shared], help="a whole fit against pykan")
    part.set_defaults(measure=_fit, table=_fit_table)
    part.add_argument("--steps", type=_positive, default=200, help="LBFGS steps")
    part.add_argument("--fits", type=_positive, default=1, help="alternated fits of each")
    part = parts.add_parser("ledgers", parents=[shared], help="what arms of studies cost")
    part.set_defaults(measure=_ledgers, table=_ledgers_table)
    part.add_argument("folders", nargs="+", type=Path, metavar="LEDGER")
    part = parts.add_parser("tables", parents=[shared], help="estimators beside scikit-learn's")
    part.set_defaults(measure=_tables, table=_tables_table)
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
    try:
        for name in options.data or ():
            check_name("--data", name, known)
        done = tables.measured(options.json, hardware()) if options.resume and options.json else []
    except ValueError as error:
        raise SystemExit(str(error)) from error
    yield from tables.measure(options.data or known, options.folds, done)


def hardware() -> dict[str, Any]:
    """What the numbers were measured on."""
    from kanzoo.training.measure import processor  # which imports all that trains

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


def _model_table(rows: list[models.Row]) -> Table:
    title = "Training step of whole networks (in brackets: ratio to the MLP twin)"
    table = Table(title=title, title_justify="left")
    for name in ("model", "arm", "params", "MFLOPs", "step ms", "peak MB"):
        table.add_column(name, justify="left" if name in ("model", "arm") else "right")
    for row in rows:
        table.add_row(
            row.model,
            row.arm,
            f"{row.params:,} ({row.params_ratio:.3f})",
            f"{row.flops / 1e6:.2f} ({row.flops_ratio:.2f})",
            f"{row.step_ms:.1f} ({row.step_ratio:.2f})",
            f"{row.memory_mb:.1f} ({row.memory_ratio:.2f})",
        )
    return table


def _layer_table(rows: list[layers.Row]) -> Table:
    table = Table(title="Ratio of a training step to the dense limit", title_justify="left")
    for name in ("shape", "basis", "G", "backend", "step", "forward", "saved bytes"):
        table.add_column(name, justify="left" if name in ("shape", "basis") else "right")
    for row in rows:
        table.add_row(
            row.shape,
            row.basis,
            str(row.grid_size or ""),
            row.backend,
            f"{row.step_ratio:.2f}",
            f"{row.forward_ratio:.2f}",
            f"{row.saved_bytes_ratio:.2f}",
        )
    return table


def _paths_table(rows: list[paths.Row]) -> Table:
    title = f"Training steps by special paths (worth their code from {paths.WORTH:g} times faster)"
    table = Table(title=title, title_justify="left")
    for name in ("shape", "basis", "compiler", "path", "step ms", "times faster", "saved bytes"):
        table.add_column(name, justify="left" if name in ("shape", "basis", "path") else "right")
    for row in rows:
        values = (row.step_ms, row.speedup, row.saved_bytes_ratio)
        has = "yes" if row.compiler else "no"
        table.add_row(row.shape, row.basis, has, row.path, *(f"{value:.2f}" for value in values))
    return table


def _study_table(rows: list[Any]) -> Table:
    table = Table(title="What a study costs beside its training", title_justify="left")
    for name in ("", "measured", "limit"):
        table.add_column(name, justify="right" if name else "left")
    for row in rows:
        sign = ">=" if row.at_least else "<="
        table.add_row(row.what, f"{row.value:.3g} {row.unit}", f"{sign} {row.limit:g} {row.unit}")
    return table


def _loop_table(rows: list[Any]) -> Table:
    title = f"scripts/train.py on {rows[0].data} (in brackets: a bare loop), and the ratio"
    table = Table(title=title, title_justify="left")
    for name in ("logger", "step ms", "ratio", "epoch s", "ratio"):
        table.add_column(name, justify="left" if name == "logger" else "right")
    for row in rows:
        table.add_row(
            row.logger,
            f"{row.step_ms:.2f} ({row.bare_step_ms:.2f})",
            f"{row.step_ratio:.3f}",
            f"{row.epoch_s:.2f} ({row.bare_epoch_s:.2f})",
            f"{row.epoch_ratio:.3f}",
        )
    return table


def _tables_table(rows: list[Any]) -> Table:
    from kanzoo.benchmark import tables

    return tables.shown(rows)


def _ledgers(options: argparse.Namespace) -> Iterator[Any]:
    from kanzoo.benchmark import ledgers  # needs all that trains

    try:
        yield from ledgers.measure(options.folders, options.rounds)
    except ValueError as error:
        raise SystemExit(str(error)) from error


def _ledgers_table(rows: list[Any]) -> Table:
    from kanzoo.benchmark import ledgers

    return ledgers.shown(rows)


def _checks_table(rows: list[checks.Row]) -> Table:
    title = f"Step with checks of all tensors over one without (limit {checks.LIMIT:g})"
    table = Table(title=title, title_justify="left")
    for name in ("layer", "step us", "ratio"):
        table.add_column(name, justify="left" if name == "layer" else "right")
    for row in rows:
        table.add_row(row.layer, f"{row.step_us:.1f}", f"{row.ratio:.3f}")
    return table


def _seeds_table(rows: list[Any]) -> Table:
    table = Table(title=f"{rows[0].num_seeds} runs on digits", title_justify="left")
    for name in ("cell", "together s", "one by one s", "times faster"):
        table.add_column(name, justify="left" if name == "cell" else "right")
    for row in rows:
        values = (row.together_s, row.separate_s, row.speedup)
        table.add_row(row.cell, *(f"{value:.2f}" for value in values))
    return table


def _load(options: argparse.Namespace) -> Iterator[Any]:
    from kanzoo.benchmark import load

    yield from load.measure(options.rounds)


def _load_table(rows: list[Any]) -> Table:
    title = f"Training steps, each of {rows[0].threads} cores shared with another process"
    table = Table(title=title, title_justify="left")
    for name in ("network", "threads wait", "alone ms", "beside ms", "of fair", "cost alone"):
        is_text = name in ("network", "threads wait")
        table.add_column(name, justify="left" if is_text else "right")
    for row in rows:
        values = (row.alone_ms, row.beside_ms, row.beside_fair, row.idle_cost)
        table.add_row(row.net, row.way, *(f"{value:.2f}" for value in values))
    return table


def _fit(options: argparse.Namespace) -> Iterator[fit.FitRow]:
    yield fit.measure(options.steps, options.fits)


def _fit_table(rows: list[fit.FitRow]) -> Table:
    (row,) = rows
    title = f"Fit of a [2, 5, 1] KAN by {row.steps} LBFGS steps, 1000 points, G=5, float64"
    table = Table(title=title, title_justify="left")
    for name in ("software", "seconds", "ratio", "training RMSE"):
        table.add_column(name, justify="left" if name == "software" else "right")
    ratio = "" if row.ratio is None else f"{row.ratio:.3f}"
    table.add_row("kanzoo", f"{row.seconds:.2f}", ratio, f"{row.rmse:.2e}")
    if row.pykan_seconds is None:
        table.add_row("pykan", "not installed (extra peers)", "", "")
    else:
        table.add_row("pykan", f"{row.pykan_seconds:.2f}", "1", f"{row.pykan_rmse:.2e}")
    return table
