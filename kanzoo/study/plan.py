"""The cells of a study: data sets x architectures x arms x budgets x seeds."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from kanzoo import registry
from kanzoo.rundir import RunDir

MIN_SEEDS = 2
Config = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One run of a study: where it stands in the grid, and its whole configuration."""

    data: str
    model: str
    arm: str
    match: str
    seed: int
    config: Config
    overrides: tuple[str, ...]

    @property
    def folder(self) -> RunDir:
        return RunDir.of(self.config)

    @property
    def command(self) -> str:
        """The command that repeats this run alone."""
        return shlex.join(["python", "scripts/train.py", *self.overrides])

    @property
    def title(self) -> str:
        return f"{self.data} {self.model} {self.arm} {self.match} seed {self.seed}"


def plan_cells(
    study: dict[str, Any], runs: str, overwrite: bool, compose: Callable[[list[str]], Config]
) -> list[Cell]:
    """All cells of a `conf/study` node, seed by seed, so that an early stop leaves whole pairs.

    `compose` makes a configuration from overrides. Raises `ValueError` for a study that cannot give
    a verdict: no baseline arm, a baseline that is KAN, fewer than two seeds.
    """
    _check(study)
    first: list[Cell] = []
    common = [*study["overrides"], f"name={study['name']}", f"runs={runs}"]
    if overwrite:
        common.append("overwrite=true")
    grid = product(study["data"], study["models"].items(), study["arms"].items(), study["match"])
    for data, (model, model_overrides), (arm, arm_overrides), match in grid:
        words = [
            f"data={data}",
            f"model={model}",
            *arm_overrides,
            f"match={match}",
            *common,
            *model_overrides,
        ]
        config = compose(words)
        if arm == study["baseline"] and config["layers"]["kan_roles"]:
            raise ValueError(
                f"study.baseline={arm!r} has KAN layers; the baseline must be the MLP twin"
            )
        first.append(Cell(data, model, arm, match, 0, config, tuple(words)))
    return [
        replace(
            cell,
            seed=seed,
            config={**cell.config, "seed": seed},
            overrides=(*cell.overrides, f"seed={seed}"),
        )
        for seed in range(study["first_seed"], study["first_seed"] + study["seeds"])
        for cell in first
    ]


def _check(study: dict[str, Any]) -> None:
    for key in ("data", "models", "arms", "match"):
        if not study[key]:
            raise ValueError(f"study.{key} is empty: a study needs at least one")
    registry.check_name("study.baseline", study["baseline"], study["arms"])
    if len(study["arms"]) < 2:
        raise ValueError("study.arms has only the baseline: there is nothing to compare")
    if study["seeds"] < MIN_SEEDS:
        raise ValueError(f"study.seeds must be at least {MIN_SEEDS}, got {study['seeds']}")
    if study["margin"] <= 0:
        raise ValueError(f"study.margin must be positive, got {study['margin']}")
    for group, chosen in (("data", study["data"]), ("model", study["models"])):
        for name in chosen:
            registry.check_name(group, name, registry.names(group))
