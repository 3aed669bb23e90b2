"""From the finished cells of a study to its verdicts and report."""

import logging
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kanzoo import __version__
from kanzoo.rundir import Config, git_sha, is_kan
from kanzoo.settings import StudyConfig
from kanzoo.study.controls import control_arms, control_text
from kanzoo.study.margins import margins_of
from kanzoo.study.plan import Cell, active_axes
from kanzoo.study.space import sampler

if TYPE_CHECKING:
    from kanzoo.interpret.edges import EdgeCurves
    from kanzoo.study.tune import Tuning

log = logging.getLogger("kanzoo")

MAX_EDGES = 24  # arms whose edge functions are drawn


def summarise(
    config: Config,
    folder: Path,
    cells: list[Cell],
    tunings: "list[Tuning]",
    command: str,
) -> int:
    """Write the report, print the verdicts and return the number of failed cells."""
    from rich.console import Console

    from kanzoo.study.comparison import build_engine, study_of
    from kanzoo.study.judge import judge
    from kanzoo.study.record import FILE, read_record
    from kanzoo.study.report.tables import arms_of
    from kanzoo.study.report.tuning import tuning_record
    from kanzoo.study.report.write import verdict_table, write_report
    from kanzoo.study.results import collect
    from kanzoo.study.slopes import slopes

    study = study_of(config)
    axes = active_axes(study)
    tuned = {kind for tuning in tunings if tuning.is_tuned for kind in tuning.kinds}
    results = collect(cells, folder, axes, tuned)
    judged, aggregate = judge(study, results)
    falls = []
    if study.slope is not None:
        falls = slopes(results, study.baseline, study.slope, axes, study.alpha)
    history = read_record(folder).lines if (folder / FILE).is_file() else []
    shown = ("baseline", "margin", "alpha", "seeds", "overrides", "further")
    paths = write_report(
        folder / "report",
        results,
        judged,
        axes=axes,
        title=study.title,
        question=study.question,
        protocol=[*protocol(study, cells), *references(cells), *history],
        settings={k: v for k in shown if (v := getattr(study, k)) != []},
        environment=_environment() | {"engine": build_engine(config).describe(len(cells))},
        command=command,
        edges=_edges(cells, study.baseline),
        tuning=tuning_record(
            tunings, study.tune, margins_of(study, cells), arms_of(results, study.baseline)
        ),
        slopes=falls,
        aggregate=aggregate,
    )
    Console(markup=False, width=None if sys.stdout.isatty() else 100).print(verdict_table(judged))
    counts = results["status"].value_counts()
    waiting, failed, diverged = (
        int(counts.get(status, 0)) for status in ("waiting", "failed", "diverged")
    )
    if waiting:
        log.info("%d of %d cells are not run yet", waiting, len(cells))
    if failed:
        log.error("%d of %d cells failed; the same command retries them", failed, len(cells))
    if diverged:
        log.warning("%d of %d cells diverged, which counts as no skill", diverged, len(cells))
    if not counts.get("finished", 0):
        log.error("no cell has finished: there is nothing to compare")
        failed = len(cells)
    log.info("report: %s", paths["index.html"])
    return failed


def protocol(study: StudyConfig, cells: list[Cell]) -> list[str]:
    """How the study was made, a plain sentence or two for each point."""
    from kanzoo.study.parity import common, differences

    optimizer, epochs = common(cells, "choices.optim"), common(cells, "trainer.max_epochs")
    tune = study.tune
    recipe = (
        f"All arms train with the same recipe: {optimizer}, learning rate "
        f"{common(cells, 'optim.lr')}, weight decay {common(cells, 'optim.weight_decay')}, batches "
        f"of {common(cells, 'data.batch_size')}, {epochs} epochs. It was not tuned "
        "for any arm."
    )
    if tune.trials:
        recipe = (
            f"All arms train with {optimizer}, {epochs} epochs. Every arm was tuned "
            f"by the same {tune.trials} trials, the recipe and points of a {sampler(tune)}, at "
            f"{100 * tune.epochs:g} % of the epochs, on validation data and on seeds that the "
            f"study does not use; only {', '.join(tune.space)} was tuned."
        )
        for arm, space in tune.extra.items():
            recipe += f" {arm} had more freedom than the others: {', '.join(space)} as well."
    lines = [
        "Every architecture is written once. The KAN arms replace an activation and the linear "
        "operator after it by a KAN layer, in the roles that their overrides name; depth, "
        "normalisation, initialisation and data are the same.",
        f"Budget: {', '.join(study.match)}. {_budget(study, cells)} Sizes and what mismatch "
        "remains are in the tables.",
        recipe,
        f"{study.seeds} seeds pair the arms: the same seed means the same split and the same "
        f"batches in the same order. {_split(cells)}",
        f"Looks are planned at {', '.join(map(str, study.looks))} seeds and share the level.",
        "The best epoch is chosen on validation data; the test set is evaluated once, with that "
        "epoch's weights.",
        f"A difference below {_margin(study.margin)} does not matter; that margin was set "
        "beforehand.",
    ]
    if any(cell.config["training_set"]["phases"] > 1 for cell in cells):
        lines[5] = (
            "Groups of classes are shown one after another. The test set is evaluated with the "
            "weights after the last of them; its parts also after each, for the record only."
        )
    for arm, texts in differences(cells, study).items():
        lines.append(f"Declared: {arm} differs from {study.baseline} in {', '.join(texts)}.")
    used = [f"{arm} is {control_text(study, arm)}" for arm in control_arms(study)]
    if used:
        lines.append(f"Control arms tell what of a KAN helps: {'; '.join(used)}.")
    if len(study.train_fraction) > 1:
        lines.append(
            "Fractions of the training split are stratified, a smaller one is part of every larger "
            "one, all arms get the same samples, and the number of training steps is the same."
        )
    if any(study.label_noise):
        lines.append(
            "Wrong training labels are drawn uniformly from the other classes, by the seed: all "
            "arms see the same ones. Validation and test labels are as they are."
        )
    if any(v for cell in cells for k, v in cell.config["evaluation"].items() if k != "test"):
        lines.append(
            "Corrupted test inputs are the same for all arms, which never trained on such; "
            "severities are explained in kanzoo/data/corruption.py."
        )
    return lines


BUDGETS = {
    "roles": "sizes inside the KAN roles are solved so that the cost equals that of the MLP twin; "
    "the trunk is kept unless the table says so",
    "network": "all sizes of the network are scaled so that the cost equals that of the MLP twin",
    "grid": "all sizes are kept, and the number of functions is solved",
    "width": "all sizes are those of the twin, and costs differ",
    "none": "all sizes are as configured, without a budget",
}


def _budget(study: StudyConfig, cells: list[Cell]) -> str:
    """What is solved for the KAN arms that the study names, each of which may choose."""
    arms: dict[str, dict[str, None]] = {}
    for cell in cells:
        if cell.arm in study.arms and is_kan(cell.config):
            match, how = cell.config["match"], cell.config["match_scope"]
            if match in ("width", "none"):
                how = match
            elif cell.config["match_by"] == "grid":
                how = "grid"
            arms.setdefault(how, {})[cell.arm] = None
    if len(arms) == 1:
        text = BUDGETS[next(iter(arms))]
        return f"{text[0].upper()}{text[1:]}."
    return " ".join(f"Of {', '.join(names)}: {BUDGETS[how]}." for how, names in arms.items())


def _split(cells: list[Cell]) -> str:
    """Whose split it is: that of a seed, or one for all."""
    seeds = {
        c.data: c.config["data"]["split_seed"] for c in cells if "split_seed" in c.config["data"]
    }
    fixed = [data for data, seed in seeds.items() if seed is not None]
    if seeds and len(fixed) == len(seeds):
        return "All seeds share one split: verdicts hold for it alone."
    return (
        "Every seed draws its own split into training and validation data, and into test data "
        "where there is no official test set"
        + (f"; of {', '.join(fixed)} all seeds share one." if fixed else ".")
    )


def references(cells: list[Cell]) -> list[str]:
    """What a prediction that learns nothing reaches, a sentence for each data set that has one."""
    found: dict[str, str] = {}  # empty for a data set without
    for cell in cells:
        result = cell.folder.result() if cell.data not in found else None
        if result is None:
            continue
        metric, scores = result["metric"], result.get("reference", {}).get("test", {})
        found[cell.data] = (
            f"On {cell.data} a prediction that learns nothing ({result['reference_name']}) reaches "
            f"a test {metric} of {scores[metric]:.4g}."
            if metric in scores
            else ""
        )
    return [line for line in found.values() if line]


def _margin(margin: float | dict[str, float]) -> str:
    if isinstance(margin, dict):
        return " or ".join(f"{value:g} ({metric})" for metric, value in margin.items())
    return f"{margin:g}"


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


def _edges(cells: list[Cell], baseline: str) -> "list[EdgeCurves]":
    """Edge functions of the first finished run of every KAN arm, in its first KAN layer."""
    from dataclasses import replace

    from kanzoo.interpret.edges import last_layer_curves
    from kanzoo.run.load import load_run

    drawn: dict[tuple[str, ...], EdgeCurves] = {}
    for cell in cells:
        checkpoint = cell.folder.path / "checkpoints" / "best.ckpt"
        if cell.arm == baseline or cell.kind in drawn or len(drawn) >= MAX_EDGES:
            continue
        if cell.folder.result() is None or not checkpoint.is_file():
            continue
        run = load_run(cell.folder.path)
        try:
            curves = last_layer_curves(run.net, run.validation_sample())
        except ValueError:  # a KAN without a basis has no edge functions
            continue
        several = len({c.match for c in cells}) > 1
        names = [cell.data, cell.model, cell.arm, *([cell.match] if several else [])]
        title = " ".join([*names, *(f"{name} {value}" for name, value in cell.axes if value)])
        note = f"layer {curves.title}, seed {cell.seed}"
        drawn[cell.kind] = replace(curves, title=title, note=note)
    return list(drawn.values())
