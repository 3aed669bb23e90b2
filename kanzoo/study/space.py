"""What tuning may change: the space of an arm, and the points of it that are tried.

Points are a scrambled Halton sequence (Halton 1960; Owen 2017): evenly spread however few there
are, the same for all arms, and known before anything runs. A search that learns from its trials has
nothing to learn from a dozen of them: Optuna's TPE draws its first ten at random.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from scipy.stats import qmc

from kanzoo.checks import check_name
from kanzoo.rundir import Config, flatten
from kanzoo.settings import StudyConfig, TuneConfig
from kanzoo.study.plan import Cell, arms_of

SEED_OFFSET = 1000
MAX_DRAWS = 64  # of points for each that is wanted: spaces of choices alone may have fewer
Space = Mapping[str, Config]
Settings = dict[str, Any]


def check_tuning(study: StudyConfig) -> None:
    """Raise a `ValueError` of one line for a tuning that is unfair or cannot be."""
    tune = study.tune
    if not tune.trials:
        return
    if not tune.space:
        raise ValueError("study.tune.space is empty: there is nothing to tune")
    if study.seeds > SEED_OFFSET:
        raise ValueError(f"study.seeds must be at most {SEED_OFFSET} where arms are tuned")
    arms = arms_of(study)
    for arm, space in tune.extra.items():
        check_name("arm of study.tune.extra", arm, arms)
        if space and not tune.allow_extra:
            raise ValueError(
                f"study.tune.extra gives {arm} more freedom than the other arms have "
                f"({', '.join(space)}); if that is meant, set study.tune.allow_extra=true"
            )
    for space in (tune.space, *tune.extra.values()):
        for key, dimension in space.items():
            _check_dimension(key, dimension)


def space_of(cell: Cell, options: TuneConfig) -> Space:
    """What is tuned for a cell, and where: what all arms have first."""
    return {**options.space, **options.extra.get(cell.arm, {})}


def sampler(options: TuneConfig) -> str:
    """The name of what chooses the points."""
    return f"scrambled Halton sequence, seed {options.seed}"


def points(space: Space, count: int, seed: int) -> list[Settings]:
    """So many different settings, fewer where the space has not as many.

    Two spaces that begin alike have the same values there.
    """

    def draws() -> Iterator[Settings]:
        sequence = qmc.Halton(len(space), scramble=True, rng=seed)
        for point in sequence.random(MAX_DRAWS * count):
            yield {
                key: _at(float(u), dimension)
                for u, (key, dimension) in zip(point, space.items(), strict=True)
            }

    different = {str(settings): settings for settings in draws()} if count else {}
    return list(islice(different.values(), count))


def recipe(cell: Cell, space: Space) -> Settings:
    """The values that a cell has as it is, whether or not the space holds them."""
    values = flatten({k: v for k, v in cell.config.items() if isinstance(v, dict)})
    return {key: values[key] for key in space if key in values}


def corner(space: Space, usual: Settings) -> Settings:
    """A point of the space as unlike the recipe as can be, to see what a cell makes of it."""
    return {
        key: next((c for c in d["choices"] if c != usual.get(key)), d["choices"][0])
        if "choices" in d
        else d["low"]
        for key, d in space.items()
    }


def words(settings: Settings) -> list[str]:
    """Settings as overrides."""
    return [f"{key}={'null' if value is None else value}" for key, value in settings.items()]


def _at(u: float, dimension: Config) -> Any:
    """The value at the share `u` of a dimension, rounded to what a command line shows."""
    if "choices" in dimension:
        return dimension["choices"][int(u * len(dimension["choices"]))]
    low, high = dimension["low"], dimension["high"]
    value = low * (high / low) ** u if dimension.get("log") else low + u * (high - low)
    return float(f"{value:.4g}")


def _check_dimension(key: str, dimension: Any) -> None:
    wrong = ValueError(
        f"study.tune: {key} must have choices, or low and high (with log: true for a logarithmic "
        f"scale), got {dimension}"
    )
    if not isinstance(dimension, dict):
        raise wrong
    if set(dimension) == {"choices"} and dimension["choices"]:
        return
    if not {"low", "high"} <= set(dimension) <= {"low", "high", "log"}:
        raise wrong
    low, high = dimension["low"], dimension["high"]
    if not low < high or (dimension.get("log") and low <= 0):
        raise wrong
