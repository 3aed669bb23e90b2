"""The command `scripts/benchmark.py`."""

import argparse
import json
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from kanzoo.bases.base import get_basis
from kanzoo.benchmark import layers, peers
from kanzoo.benchmark.timing import ROUNDS
from kanzoo.registry import names
from kanzoo.rundir import git_sha, write_atomic

BACKENDS = ("auto", "blocked")


def main() -> None:
    """Parse the command line and run the benchmark that it names."""
    parser = argparse.ArgumentParser(description="Measured speed and memory, as ratios.")
    what = "layers: against the dense limit; study: what a study costs beside its training"
    parser.add_argument("what", choices=["layers", "study"], help=what)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows there")
    parser.add_argument("--peers", action="store_true", help="also installed KAN packages")
    parser.add_argument("--bases", action="store_true", help="also every other basis")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="alternated steps of each")
    parser.add_argument("--grid-sizes", type=int, nargs="+", default=[5, 20, 50], metavar="G")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    torch.manual_seed(0)
    if options.what == "study":
        from kanzoo.benchmark import study

        measured = _collect(study.measure())
        Console().print(_study_table(measured))
        _write(options.json, measured)
        return
    grid_sizes = tuple(options.grid_sizes)
    rows = _collect(layers.splines(grid_sizes, BACKENDS, options.rounds))
    if options.bases:
        expanding = [name for name in names("basis") if get_basis(name)(1).num_functions > 1]
        others = [name for name in expanding if name != "bspline"]
        rows += _collect(layers.bases(others, options.rounds))
    if options.peers:
        found = peers.installed()
        rows += _collect(layers.peers(found, grid_sizes, options.rounds))
    Console().print(_table(rows))
    _write(options.json, rows)


def _write(path: Path | None, rows: list[Any]) -> None:
    if path is not None:
        report = {"hardware": hardware(), "rows": [row.to_dict() for row in rows]}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(report, indent=1) + "\n")


def hardware() -> dict[str, Any]:
    """What the numbers were measured on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = models[0].partition(":")[2].strip() if models else cpu
    return {
        "cpu": cpu,
        "simd": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "commit": git_sha(),
    }


def _collect(rows: Iterable[Any]) -> list[Any]:
    from rich.progress import track

    return list(track(rows, description="measuring", transient=True))


def _table(rows: list[layers.Row]) -> Table:
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


def _study_table(rows: list[Any]) -> Table:
    table = Table(title="What a study costs beside its training", title_justify="left")
    for name in ("", "measured", "limit"):
        table.add_column(name, justify="right" if name else "left")
    for row in rows:
        sign = ">=" if row.at_least else "<="
        table.add_row(row.what, f"{row.value:.3g} {row.unit}", f"{sign} {row.limit:g} {row.unit}")
    return table
