"""The command that shows what a trained KAN has learned, as pictures and one page."""

import logging
from pathlib import Path

from kanzoo.checks import build, check_name
from kanzoo.run.command import run_command, user_errors
from kanzoo.run.compared import pruning_curves, seed_folders, seed_networks, seed_scores
from kanzoo.run.load import load_run
from kanzoo.rundir import Config, RunDir, is_kan, read_config
from kanzoo.settings import ExplainConfig

log = logging.getLogger("kanzoo")


def main() -> None:
    """Entry of `scripts/explain.py`."""
    run_command("explain", _job)


def _job(config: Config) -> None:
    with user_errors():
        options = build(ExplainConfig, config)
        page = explain(
            Path(options.run),
            checkpoint=options.checkpoint,
            edges=options.edges,
            fits=options.fits,
            twin=None if options.twin is None else Path(options.twin),
            root=options.root,
            symbolic=options.symbolic,
            tolerance=options.tolerance,
            max_error=options.max_error,
            time_limit=options.time_limit,
        )
    log.info("written: %s", page)


def explain(
    folder: Path,
    *,
    checkpoint: str = "best",
    edges: int = 12,
    fits: int = 3,
    twin: Path | None = None,
    root: str | None = None,
    symbolic: bool = False,
    tolerance: float = 0.01,
    max_error: float | None = None,
    time_limit: float | None = 180.0,
) -> Path:
    """Write `explain/index.html` and its pictures into the folder of a run; returns the page.

    Shows the checkpoint `best`, or `last`, which every run has that has trained for an epoch. Of
    every KAN layer the strongest `edges` are drawn, `fits` of them with the best of a few simple
    functions. A pruning curve stands beside that of `twin`, the folder of an MLP's run. A folder of
    `seed0`, `seed1` .. gets a page of the first, with ranges over all. With `symbolic`, a formula
    goes to `explain/formula.json`; its error may exceed the network's by `tolerance` standard
    deviations of the targets, and be `max_error` of them in all; the search may take `time_limit`
    seconds. Raises `ValueError` for a folder without checkpoints and for a run without KAN layers.
    """
    from kanzoo.fit.chain import is_kan as is_kan_layer
    from kanzoo.interpret.page import write_page

    for name, value, least in (("edges", edges, 1), ("fits", fits, 0)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    target, (folder, *others) = folder, seed_folders(folder)
    config, checkpoint = _checked(folder, checkpoint)
    run = load_run(folder, checkpoint, root)
    if not any(map(is_kan_layer, run.net.modules())):
        raise ValueError(f"basis={config['choices']['basis']} has no edge functions to explain")
    result = RunDir(folder, config, "").result() if checkpoint == "best" else None
    x, y = run.validation_pairs()
    runs = seed_networks(run, others, checkpoint)
    limits = {"tolerance": tolerance, "max_error": max_error, "time_limit": time_limit}
    return write_page(
        target,
        run.net,
        run.dataset,
        x,
        config=config,
        checkpoint=checkpoint,
        metric=run.objective.monitor,
        result=result,
        scores=result or {"val": run.evaluate("val"), "test": {}, "reference": {}},
        edges=edges,
        limits=limits if symbolic else None,
        num_fits=fits,
        curves=pruning_curves(run, x, y, twin, root),
        seeds=seed_scores(runs) if runs[1:] else None,
        others=[other.net for other in runs[1:]],
    )


def _checked(folder: Path, checkpoint: str) -> tuple[Config, str]:
    """The configuration of a run that has KAN layers, and the checkpoint to show."""
    check_name("checkpoint", checkpoint, ("best", "last"))
    if not (folder / "config.yaml").is_file():
        raise ValueError(f"{folder} is not the folder of a run: it holds no config.yaml")
    config = read_config(folder / "config.yaml")
    if not is_kan(config):
        raise ValueError(f"layers={config['choices']['layers']} has no KAN layers to explain")
    names = {path.stem for path in (folder / "checkpoints").glob("*.ckpt")}
    if not names:
        raise ValueError(f"{folder} has no checkpoint: its training has not finished an epoch yet")
    if checkpoint not in names and "last" in names:
        log.warning("%s has no checkpoint %s: its last one is shown", folder, checkpoint)
        checkpoint = "last"
    return config, checkpoint
