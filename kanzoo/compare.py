"""Compare KANs with their MLP twins: run a study and write its report."""

import logging
import os
import platform
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kanzoo import __version__, registry
from kanzoo.config import Config, compose, fail, run_command, user_errors
from kanzoo.errors import EngineError
from kanzoo.rundir import git_sha
from kanzoo.study.engines.base import Engine
from kanzoo.study.mirror import link_wandb_runs
from kanzoo.study.plan import Cell, plan_cells

log = logging.getLogger("kanzoo")


def main() -> None:
    """Entry of `scripts/compare.py`."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run_command("compare", _job)


def _job(config: Config) -> None:
    with user_errors():
        engine = build_engine(config)
        cells = plan(config)
        prepared = check_cells(cells, engine.is_local)
        if not config["dry_run"]:
            engine.check(cells)
    if config["dry_run"]:
        _print_plan(cells, prepared)
        return
    try:
        run(config, cells)
    except EngineError as error:
        fail(error)
    except KeyboardInterrupt:
        done = sum(cell.folder.result() is not None for cell in cells)
        print(
            f"kanzoo: interrupted; {done} of {len(cells)} cells are finished, "
            "the same command goes on from here",
            file=sys.stderr,
        )
        raise SystemExit(130) from None
    failed = report(config, cells)
    if failed:
        raise SystemExit(1)


def plan(config: Config) -> list[Cell]:
    """The cells of the study that a configuration describes."""
    return plan_cells(
        config["study"], config["runs"], config["overwrite"], partial(compose, "train")
    )


def build_engine(config: Config) -> Engine:
    """The engine of a `conf/engine` node."""
    engine = registry.instantiate(config["engine"])
    assert isinstance(engine, Engine)
    return engine


def check_cells(cells: list[Cell], here: bool = True) -> list[Any]:
    """Prepare every kind of cell once; what cannot be is a `ValueError` before anything runs.

    `here` says that the cells will run on this machine, which must then have their devices.
    """
    from kanzoo.train import check_machine, prepare

    first_seed = cells[0].seed
    kinds = [cell for cell in cells if cell.seed == first_seed]
    for cell in kinds:
        cell.folder.check_config()
        if here:
            check_machine(cell.config["trainer"])
    return [prepare(cell.config) for cell in kinds]


def run(config: Config, cells: list[Cell]) -> None:
    """Run the cells that are not finished, with a progress display."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from kanzoo.train import train

    waiting = [c for c in cells if config["overwrite"] or c.folder.result() is None]
    if not waiting:
        log.info("all %d cells were finished before", len(cells))
        return
    engine = build_engine(config)
    console = Console(stderr=True)
    console.print(
        f"{len(waiting)} of {len(cells)} cells to run, {engine.describe(len(waiting))}",
        highlight=False,
    )
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(config["study"]["name"], total=len(waiting))

        def on_end(cell: Cell, reason: str) -> None:
            progress.advance(bar)
            if reason:
                progress.console.print(f"failed: {cell.title}: {reason}", style="red", markup=False)
            elif not console.is_terminal:
                progress.console.print(f"finished: {cell.title}", markup=False, highlight=False)

        folder = Path(config["runs"]) / config["study"]["name"]
        with engine.session(len(waiting), folder, train) as session:
            session.run(waiting, on_end)
    link_wandb_runs(cells, folder)


def report(config: Config, cells: list[Cell]) -> int:
    """Write the report, print the verdicts and return the number of failed cells."""
    from rich.console import Console

    from kanzoo.study.report import verdict_table, write_report
    from kanzoo.study.results import collect
    from kanzoo.study.stats import verdicts

    study = config["study"]
    folder = Path(config["runs"]) / study["name"]
    results = collect(cells, folder)
    judged = verdicts(results, study["baseline"], margin=study["margin"], alpha=study["alpha"])
    paths = write_report(
        folder / "report",
        results,
        judged,
        title=study["title"],
        question=study["question"],
        protocol=_protocol(study, cells),
        settings={k: study[k] for k in ("baseline", "margin", "alpha", "seeds", "overrides")},
        environment=_environment(),
        command=f"python scripts/compare.py study={config['choices']['study']}",
        edges=_edges(cells, study["baseline"]),
    )
    Console(width=None if sys.stdout.isatty() else 100).print(verdict_table(judged))
    failed = int((results["status"] != "finished").sum())
    if failed:
        log.error("%d of %d cells failed; the same command retries them", failed, len(cells))
    log.info("report: %s", paths["index.html"])
    return failed


def _protocol(study: dict[str, Any], cells: list[Cell]) -> list[str]:
    trainer, optim = cells[0].config["trainer"], cells[0].config["optim"]
    optimizer = optim["_target_"].rpartition(".")[2]
    seeds = study["seeds"]
    return [
        "Every architecture is written once. The KAN arms replace each activation and linear "
        "operator by KAN layers; depth, normalisation, initialisation and data are the same.",
        f"Budget: {', '.join(study['match'])}. The width of each KAN is solved so that its cost "
        "equals that of the MLP twin; what mismatch remains is in the tables.",
        f"All arms train with the same recipe: {optimizer}, learning rate {optim['lr']}, weight "
        f"decay {optim.get('weight_decay', 0)}, {trainer['max_epochs']} epochs. It was not tuned "
        "for any arm.",
        f"{seeds} seeds pair the arms: the same seed means the same split and the same batches in "
        "the same order.",
        "The best epoch is chosen on validation data; the test set is evaluated once, with that "
        "epoch's weights.",
        f"A difference below {study['margin']} does not matter; that margin was set beforehand.",
    ]


def _environment() -> dict[str, Any]:
    packages = ("torch", "lightning", "numpy", "scipy")
    return {
        "kanzoo": __version__,
        "commit": git_sha() or "not a checkout",
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "system": platform.platform(),
    }


def _edges(cells: list[Cell], baseline: str) -> list[Any]:
    """Edge functions of the first finished run of every KAN arm, in its first KAN layer."""
    from kanzoo.evaluate import load_net
    from kanzoo.interpret.edges import sample_edges
    from kanzoo.study.plots import EdgePlot

    drawn: dict[tuple[str, ...], EdgePlot] = {}
    for cell in cells:
        key = (cell.data, cell.model, cell.arm, cell.match)
        checkpoint = cell.folder.path / "checkpoints" / "best.ckpt"
        if cell.arm == baseline or key in drawn or cell.folder.result() is None:
            continue
        net, prepared = load_net(cell.folder.path, checkpoint)
        loaders = prepared.dataset.loaders(seed=0, device="cpu")
        sample = sample_edges(net, next(iter(loaders.val))[0])
        title = " ".join(key[:3] if len({c.match for c in cells}) == 1 else key)
        drawn[key] = EdgePlot(title, sample.x, sample.ys, f"layer {sample.layer}, seed {cell.seed}")
    return list(drawn.values())


def _print_plan(cells: list[Cell], prepared: list[Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{len(cells)} cells", title_justify="left")
    for name in ("data", "model", "arm", "match", "sizes", "params", "ratio", "FLOPs", "ratio"):
        table.add_column(name, justify="left" if name in ("data", "model", "arm") else "right")
    for cell, kind in zip(cells, prepared, strict=False):
        plan = kind.plan
        sizes = " ".join(f"{n}={plan.options[n]:g}" for n in (plan.cls.coarse, plan.cls.fine) if n)
        table.add_row(
            cell.data,
            cell.model,
            cell.arm,
            cell.match,
            sizes,
            f"{plan.params:,}",
            f"{plan.params / plan.twin_params:.3f}",
            f"{plan.flops:,}",
            f"{plan.flops / plan.twin_flops:.3f}",
        )
    Console(width=None if sys.stdout.isatty() else 120).print(table)
