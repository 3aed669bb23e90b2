"""The cells of a study: data sets x architectures x arms x budgets x further axes x seeds."""

import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path

from kanzoo import registry
from kanzoo.checks import build, check_name, value_text
from kanzoo.rundir import Config, RunDir
from kanzoo.settings import AxisConfig, RunConfig, StudyConfig
from kanzoo.study.controls import applies, borrowed, chooses_model, control_arms, is_borrowing
from kanzoo.study.looks import check_looks
from kanzoo.study.overrides import check_apart, check_words, match_words

MIN_SEEDS = 2
MIN_JUDGED = 5  # pairs of seeds below which there is no verdict
MIN_SIZES = 3  # of a slope
MAX_RUNS = 100_000  # cells or trials of a study, each a few milliseconds of planning
Axes = tuple[tuple[str, str], ...]
Point = Sequence[tuple[str, list[str]]]  # the value on every axis, and its overrides

# Axes with a key of their own in a study, and what they change.
SHORT_AXES = {
    "train_fraction": "training_set.fraction",
    "label_noise": "training_set.label_noise",
}
RESERVED = (
    *("data", "model", "arm", "match", "seed", "status", "reason", "metric", "mode", "test", "val"),
    *("layers", "basis", "sizes", "corruption", "severity", "run_dir", "command"),
)


@dataclass(frozen=True)
class Cell:
    """One run of a study: where it stands in the grid, and its whole configuration.

    axes: the further axes and its value on each, empty for an arm that an axis does not concern.
    """

    data: str
    model: str
    arm: str
    match: str
    seed: int
    config: Config
    overrides: tuple[str, ...]
    axes: Axes = ()

    @cached_property
    def settings(self) -> RunConfig:
        return build(RunConfig, self.config)

    @cached_property
    def folder(self) -> RunDir:
        return RunDir.of(self.config)

    @property
    def command(self) -> str:
        """The command that repeats this run alone."""
        return shlex.join(["python", "scripts/train.py", *self.overrides])

    @property
    def kind(self) -> tuple[str, ...]:
        """What tells it from the other cells of its seed."""
        return (self.data, self.model, self.arm, self.match, *(value for _, value in self.axes))

    @property
    def title(self) -> str:
        axes = [f"{name} {value}" for name, value in self.axes if value]
        words = [self.data, self.model, self.arm, self.match, *axes, f"seed {self.seed}"]
        return " ".join(filter(None, words))


@dataclass(frozen=True)
class Axis:
    """A further axis: its values with the overrides of each; the arms it concerns, None for all."""

    name: str
    values: dict[str, list[str]]
    arms: tuple[str, ...] | None = None


def plan_cells(
    study: StudyConfig,
    runs: str,
    overwrite: bool,
    compose: Callable[[list[str]], Config],
    tuned: Mapping[tuple[str, ...], Iterable[str]] | None = None,
) -> list[Cell]:
    """All cells of a `conf/study` node, seed by seed, so that an early stop leaves whole pairs.

    `compose` makes a configuration from overrides; `tuned` holds further overrides by the kind of a
    cell. Raises `ValueError` for a study that cannot give a verdict: no baseline arm, a baseline
    that is KAN, fewer than two seeds.
    """
    check_study(study)
    axes = axes_of(study)
    arms = arms_of(study)
    identity = [f"name={study.name}", f"runs={runs}", *(["overwrite=true"] if overwrite else [])]

    def cell_of(data: str, model: str, arm: str, match: str, point: Point) -> Cell:
        values = (value for value, _ in point)
        position: Axes = tuple(zip((axis.name for axis in axes), values, strict=True))
        cell = Cell(data, model, arm, match, 0, {}, (), position)
        at = [word for _, words in point for word in words]
        own, at, chosen = words_of(study, model, arm, at)
        words = [f"data={data}", *study.overrides, *own, *study.further, *match_words(match), *at]
        words += [*chosen, *identity, *(tuned or {}).get(cell.kind, ())]
        taken = borrowed(arms[arm], lambda other: cell_of(data, model, other, match, point).config)
        if arm in study.arms:
            check_apart(f"study.arms.{arm}", chosen, "what it takes from another arm", taken)
        words += taken
        config = compose(words)
        if study.split == "fixed" and config["data"].get("split_seed", 0) is None:
            words.append("data.split_seed=0")
            config = {**config, "data": {**config["data"], "split_seed": 0}}
        if wandb := config["logger"]["wandb"]:
            tags = [*wandb["tags"], arm]
            words.append(f"logger.wandb.tags={json.dumps(tags)}")
            config = {**config, "logger": {**config["logger"], "wandb": {**wandb, "tags": tags}}}
        return replace(cell, config=config, overrides=tuple(words))

    first: list[Cell] = []
    for data, model in product(study.data, study.models):
        start = [next(iter(axis.values.items())) for axis in axes]
        twin = cell_of(data, model, study.baseline, study.match[0], start).config
        if twin["layers"]["kan_roles"]:
            raise ValueError(
                f"study.baseline={study.baseline!r} has KAN layers; the baseline must be the "
                "MLP twin"
            )
        for arm, match in product(arms, study.match):
            if applies(arm, study, twin):
                points = product(*(_values(axis, arm) for axis in axes))
                first += [cell_of(data, model, arm, match, point) for point in points]
    first = _without_twins(first, study)
    check_number("the cells", len(first) * study.seeds)
    return [
        at_seed(cell, seed)
        for seed in range(study.first_seed, study.first_seed + study.seeds)
        for cell in first
    ]


def words_of(
    study: StudyConfig, model: str, arm: str, at: list[str]
) -> tuple[list[str], list[str], list[str]]:
    """The overrides of a model, of a point of the axes (`at`) and of an arm, as a cell has them."""
    own, chosen = study.models[model], [w for w in arms_of(study)[arm] if not is_borrowing(w)]
    if chooses_model(chosen):  # the sizes are those of the model's architecture
        sizes = ("model=", "model.", "budget=")
        own = [word for word in own if not word.startswith(sizes)]
        if arm not in study.arms:  # a control is at every point, whatever its architecture
            at = [word for word in at if not word.startswith(sizes)]
    elif not chooses_model(own):
        own = [f"model={model}", *own]
    return own, at, chosen


def _without_twins(cells: list[Cell], study: StudyConfig) -> list[Cell]:
    """Leave out what an axis made the same as the baseline: there is nothing to compare."""
    baseline = study.baseline
    paths = {cell.folder.path for cell in cells if cell.arm == baseline}
    kept = [c for c in cells if c.arm == baseline or c.folder.path not in paths]
    for arm in {cell.arm for cell in cells} - {cell.arm for cell in kept}:
        if arm in study.arms:
            raise ValueError(f"study.arms.{arm} is the same as the baseline {baseline!r}")
    return kept


def check_number(what: str, count: int) -> None:
    """Raise a `ValueError` of one line where a study would have more runs than can be planned."""
    if count > MAX_RUNS:
        raise ValueError(
            f"{what} of this study would be {count:,} runs, at most {MAX_RUNS:,} can be planned: "
            "fewer seeds, trials, arms or values do"
        )


def at_seed(cell: Cell, seed: int) -> Cell:
    """The cell of the same kind with another seed."""
    words = (word for word in cell.overrides if not word.startswith("seed="))
    config = {**cell.config, "seed": seed}
    return replace(cell, seed=seed, config=config, overrides=(*words, f"seed={seed}"))


def first_of_kinds(cells: list[Cell]) -> list[Cell]:
    """One cell of every kind: those of the first seed."""
    return [cell for cell in cells if cell.seed == cells[0].seed]


def distinct(cells: Iterable[Cell]) -> list[Cell]:
    """The cells without those that share their run with an earlier one."""
    return [group[0] for group in same_runs(cells)]


def same_runs(cells: Iterable[Cell]) -> list[list[Cell]]:
    """The cells, those together that share their run."""
    groups: dict[Path, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.folder.path, []).append(cell)
    return list(groups.values())


def arms_of(study: StudyConfig) -> dict[str, list[str]]:
    """The arms and their overrides, the control arms included where the study wants them."""
    return {**study.arms, **control_arms(study)}


def axes_of(study: StudyConfig) -> list[Axis]:
    """The axes with more than one value, and all that the study names itself."""
    short = [
        Axis(name, {value_text(value): [f"{key}={value}"] for value in getattr(study, name)})
        for name, key in SHORT_AXES.items()
        if getattr(study, name) != [{"train_fraction": 1.0, "label_noise": 0.0}[name]]
    ]
    named = [
        Axis(
            name,
            axis.values,
            tuple(axis.arms) if axis.arms else None,
        )
        for name, axis in study.axes.items()
    ]
    return short + named


def active_axes(study: StudyConfig) -> list[str]:
    """Names of the axes that tell cells apart, as columns of results."""
    return [axis.name for axis in axes_of(study) if len(axis.values) > 1 or axis.arms]


def check_study(study: StudyConfig) -> None:
    """Raise a `ValueError` of one line for a study that cannot be."""
    for key in ("data", "models", "arms", "match", *SHORT_AXES):
        if not getattr(study, key):
            raise ValueError(f"study.{key} is empty: a study needs at least one")
        values = [str(value) for value in getattr(study, key)]
        if len(set(values)) < len(values):
            raise ValueError(f"study.{key} names something twice: {', '.join(values)}")
    arms = arms_of(study)
    check_name("study.baseline", study.baseline, study.arms)
    if len(arms) < 2:
        raise ValueError("study.arms has only the baseline: there is nothing to compare")
    if study.seeds < MIN_SEEDS:
        raise ValueError(f"study.seeds must be at least {MIN_SEEDS}, got {study.seeds}")
    if not 0 < study.alpha < 1:
        raise ValueError(f"study.alpha must be between 0 and 1, got {study.alpha}")
    check_looks(study.looks, study.seeds)
    for pair in study.contrasts:
        if len(set(pair)) != 2 or len(pair) != 2:
            raise ValueError(f"study.contrasts must list pairs of arms, got {pair}")
        for arm in pair:
            check_name("arm of study.contrasts", arm, arms)
        if study.baseline in pair:
            raise ValueError(f"study.contrasts has {pair}: arms are compared with it anyway")
    if study.slope is not None:
        check_name("axis of study.slope", study.slope, study.axes)
        if len(study.axes[study.slope].values) < MIN_SIZES:
            raise ValueError(
                f"study.slope: axis {study.slope!r} needs {MIN_SIZES} sizes for a slope"
            )
    for name in study.data:
        check_name("data", name, registry.names("data"))
    for name, words in study.models.items():
        if not any(word.startswith("model=") for word in words):
            check_name("model", name, registry.names("model"))
    for name, axis in study.axes.items():
        _check_axis(name, axis, arms)
    _check_interactions(study)
    check_words(study, arms, axes_of(study))


def seeds_needed(study: StudyConfig) -> str:
    """Why a plan has too few seeds for a verdict; empty where it has enough."""
    needed = max(study.looks[0], MIN_JUDGED)
    if study.seeds >= needed:
        return ""
    return f"no verdicts: the first is at {needed} seeds, and these are {study.seeds}"


def _check_axis(name: str, axis: AxisConfig, arms: Iterable[str]) -> None:
    if name in RESERVED or name in SHORT_AXES or not name.isidentifier():
        raise ValueError(f"study.axes.{name}: an axis needs a plain name that is not taken")
    if not axis.values:
        raise ValueError(f"study.axes.{name} must have values, each with its overrides")
    if axis.arms == []:
        raise ValueError(f"study.axes.{name}.arms is empty: leave it out for all arms")
    for arm in axis.arms or ():
        check_name(f"arm of study.axes.{name}", arm, arms)


def _check_interactions(study: StudyConfig) -> None:
    """Differences are compared along axes that there are, with those at a value that they have."""
    values = {name: [*map(value_text, getattr(study, name))] for name in SHORT_AXES}
    values |= {name: [*axis.values] for name, axis in study.axes.items()}
    for name, value in study.interactions.items():
        check_name("axis of study.interactions", name, [*values, "severity"])
        allowed = values.get(name, ["0"])
        check_name(f"value of study.interactions.{name}", value_text(value), allowed)
        if name != "severity" and len(allowed) < 2:
            raise ValueError(f"study.interactions: {name} has one value, so that nothing changes")


def _values(axis: Axis, arm: str) -> list[tuple[str, list[str]]]:
    if axis.arms is not None and arm not in axis.arms:
        return [("", [])]
    return list(axis.values.items())
