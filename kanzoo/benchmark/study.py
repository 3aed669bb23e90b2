"""What a study costs beside its training: planning, the report, and the engine's own time.

Training itself is not measured here. Everything is written into a temporary folder. Planning and
the report are of one thread, and measured as its CPU time, which other work on the machine hardly
changes; the rest is elapsed time, for an idle machine.
"""

import contextlib
import io
import json
import logging
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from kanzoo import compare
from kanzoo.benchmark.rows import empty_table
from kanzoo.models.weights import save_recipe
from kanzoo.run.config import compose
from kanzoo.run.fit import train
from kanzoo.run.prepare import prepare
from kanzoo.study import comparison
from kanzoo.study.engines.local import LocalEngine
from kanzoo.study.plan import Cell
from kanzoo.training.checkpoints import Checkpoints

CELLS = 10_000
MODELS = {
    "mlp": ["model.width=256"],
    "resnet": ["model.width=16"],
    "vit": ["model.width=64", "model.depth=2"],
}
ARMS = {
    "mlp": ["layers=mlp"],
    "mlp-spline": ["layers=kan", "basis=spline_activation"],
    "mlp-prelu": ["layers=kan", "basis=prelu"],
    "kan-residual": ["layers=kan", "basis=none"],
    "kan-bspline": ["layers=kan", "basis=bspline"],
    "kan-rbf": ["layers=kan", "basis=rbf"],
}
SHORT = ["callbacks.progress=false", "data.limit_train=64", "trainer.max_epochs=1"]
EPOCHS = 20  # of the learning curves that are made up
ITEMS = 10_000  # test samples of the runs that are made up


@dataclass(frozen=True)
class Row:
    """One measurement, and the most (or `at_least`, the least) that it may be."""

    what: str
    value: float
    unit: str
    limit: float
    at_least: bool = False


def measure(cells: int = CELLS, repeats: int = 10, engine: bool = True) -> Iterator[Row]:
    """Plan and report a study of so many cells; time `repeats` cells in a warm worker.

    Without `engine` only what is measured as CPU time.
    """
    with tempfile.TemporaryDirectory() as folder:
        context = get_context("spawn")  # so that the memory is the report's alone
        with context.Pool(1) as pool:
            planning, reporting, memory = pool.apply(large_study, (Path(folder), cells))
        with context.Pool(1) as pool:
            apart, networks = pool.apply(varied_study, (Path(folder), cells))
        yield Row(f"plan and match {cells:,} cells", planning, "CPU s", 20)
        yield Row(f"plan and match {cells:,} cells of {networks:,} networks", apart, "CPU s", 20)
        report = f"report {cells:,} finished cells of {ITEMS:,} test items"
        yield Row(report, reporting, "CPU s", 60)
        yield Row(f"memory of that, {cells:,} cells", memory, "GB", 2)
    if not engine:
        return
    for logger in ("csv", "wandb"):
        with tempfile.TemporaryDirectory() as folder:
            seconds = cell_overhead(Path(folder), logger, repeats)
        yield Row(f"cell beyond its training, warm worker, logger={logger}", seconds, "s", 0.5)
    times = {}
    for workers in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            times[workers] = study_seconds(Path(folder), workers)
    yield Row("two workers against one", times[1] / times[2], "x", 1.6, at_least=True)


def large_study(folder: Path, count: int) -> tuple[float, float, float]:
    """CPU seconds to plan a study, those to report it finished, and the most memory in GB."""
    logging.getLogger("kanzoo").setLevel(logging.ERROR)
    config = _study(folder, models=MODELS, arms=ARMS, match=["params", "flops"])
    kinds = len(MODELS) * len(ARMS) * 2
    seeds = max(2, -(-count // kinds))
    config["study"] |= {"seeds": seeds, "looks": [seeds]}
    began = time.process_time()
    cells = comparison.plan(config)
    comparison.check_cells(cells)
    planning = time.process_time() - began
    _make_up_results(cells)
    began = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        compare._job(config)
    reporting = time.process_time() - began
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return planning, reporting, most * (1 if sys.platform == "darwin" else 1024) / 1e9


def varied_study(folder: Path, count: int, seeds: int = 5) -> tuple[float, int]:
    """CPU seconds to plan a study whose networks all differ in size, and how many these are."""
    logging.getLogger("kanzoo").setLevel(logging.ERROR)
    config = _study(
        folder, models={name: [] for name in MODELS}, arms=ARMS, match=["params", "flops"]
    )
    values = max(1, round(count / (seeds * len(MODELS) * len(ARMS) * 2)))
    widths = {8 * n: [f"model.width={8 * n}"] for n in range(2, 2 + values)}
    axes = {"width_of": {"values": widths}}
    config["study"] |= {"seeds": seeds, "looks": [seeds], "axes": axes}
    began = time.process_time()
    cells = comparison.plan(config)
    comparison.check_cells(cells)
    return time.process_time() - began, len({cell.folder.path.parent for cell in cells})


def cell_overhead(folder: Path, logger: str, repeats: int) -> float:
    """Median seconds that a cell of a warm worker takes beyond its `train_seconds`.

    That includes building it, its loaders and loggers, evaluating the best epoch on validation and
    test data, the measurement of memory, and all files.
    """
    config = _study(folder, models={"mlp": ["model.width=64"]}, seeds=repeats + 1)
    config["study"]["overrides"] = [*SHORT, f"logger={logger}"]
    cells = comparison.plan(config)
    beyond = []
    with LocalEngine(workers=1, threads=1).session(1, folder, train) as session:
        for cell in cells:
            began = time.perf_counter()
            session.run([cell], _must_work)
            seconds = time.perf_counter() - began
            result = cell.folder.result()
            assert result is not None
            beyond.append(seconds - result["train_seconds"])
    kinds = len(config["study"]["arms"])
    return statistics.median(beyond[kinds:])  # the first of each kind warms up


def study_seconds(folder: Path, workers: int) -> float:
    """Seconds in which so many workers train a study, their start included."""
    config = _study(folder, models=MODELS, seeds=2)
    config["study"]["overrides"] = [
        *("callbacks.progress=false", "logger=csv", "data.batch_size=64", "trainer.max_epochs=8")
    ]
    cells = comparison.plan(config)
    began = time.perf_counter()
    with LocalEngine(workers=workers).session(len(cells), folder, train) as session:
        session.run(cells, _must_work)
    return time.perf_counter() - began


def _study(folder: Path, **keys: Any) -> dict[str, Any]:
    config = compose("compare", ["study=smoke", f"runs={folder}"])
    changed = {"arms": {name: ARMS[name] for name in ("mlp", "kan-bspline", "kan-rbf")}} | keys
    return {**config, "study": {**config["study"], "overrides": SHORT, **changed}}


def _must_work(cell: Cell, reason: str) -> None:
    if reason:
        raise RuntimeError(f"{cell.title}: {reason}")


def _make_up_results(cells: list[Cell]) -> None:
    """Leave what finished runs leave: results, test items, curves, weights of the first seed."""
    noise = np.random.default_rng(0)
    hard = noise.random(ITEMS)  # the same items are hard for all
    facts = {"test_set": "official", "is_ordered": False, "train": 50_000, "val": 10_000}
    rows = ["epoch,step,train/loss,val/loss,val/accuracy"]
    rows += [f"{e},{10 * e},{1 / (e + 1)},{1.1 / (e + 1)},{1 - 1 / (e + 2)}" for e in range(EPOCHS)]
    curve = "\n".join(rows) + "\n"
    for cell in cells:
        folder = cell.folder
        (folder.path / "checkpoints").mkdir(parents=True, exist_ok=True)
        folder.path.joinpath("metrics.csv").write_text(curve)
        correct = noise.random(ITEMS) > 0.1 * hard
        folder.write_items({"correct": correct, "loss": noise.random(ITEMS, np.float32)})
        score = float(correct.mean())
        result = {
            **{"status": "finished", "metric": "accuracy", "mode": "max", "seed": cell.seed},
            **{"sizes": "width 64", "trunk_changed": "", "kan_roles": [], "flops_sparse": 20_000},
            **{"val": {"accuracy": score, "loss": 0.1}, "split": {**facts, "test": ITEMS}},
            **{"test": {"accuracy": score, "loss": 0.1}, "params": 10_000, "flops": 20_000},
            **{"step_time_ms": 1.0, "peak_memory_mb": 1.0, "train_seconds": 1.0, "epochs": EPOCHS},
        }
        folder.path.joinpath("result.json").write_text(json.dumps(result))
        if cell.seed == cells[0].seed:
            folder.write_config()
            net = prepare(cell.config).plan.build(cell.seed)
            save_recipe(net, folder.path)
            state = {f"net.{name}": value for name, value in net.state_dict().items()}
            path = folder.path / "checkpoints" / "best.ckpt"
            Checkpoints(folder).save_checkpoint({"state_dict": state}, path)


def shown(rows: Sequence[Row]) -> Table:
    """A row a measurement, beside its limit."""
    table = empty_table("What a study costs beside its training", [""], ["measured", "limit"])
    for row in rows:
        sign = ">=" if row.at_least else "<="
        table.add_row(row.what, f"{row.value:.3g} {row.unit}", f"{sign} {row.limit:g} {row.unit}")
    return table
