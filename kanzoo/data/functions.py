"""Functions to be fitted: the Kolmogorov-Arnold paper's, Feynman's equations, and one's own.

Axes: N samples, F variables.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kanzoo.checks import check_name, check_whole, nearest
from kanzoo.data.base import PARTS, Counts, DataSpec, Split
from kanzoo.data.formula import (
    compile_formula,
    formula_values,
    formula_variables,
    parse_formula,
)
from kanzoo.data.memory import InMemory
from kanzoo.data.seeding import keyed_seed
from kanzoo.data.special import (
    BOTH,
    HIGH,
    SPECIAL,
    TOY,
    Range,
    feynman_file,
    feynman_table,
    high_dimensional,
)
from kanzoo.data.tabular import moments

DTYPES = ("float32", "float64")
STANDARDISE = ("none", "inputs", "targets", "both")


@dataclass(frozen=True)
class Function:
    """A function of named variables, each in its range; `formula` where it can be written so."""

    name: str
    variables: tuple[str, ...]
    ranges: tuple[Range, ...]
    call: Callable[[np.ndarray], np.ndarray]
    """From `(N, F)` to `(N,)`, float64."""
    formula: str | None = None


def written(name: str, formula: str, ranges: Mapping[str, Range]) -> Function:
    """The function of a formula; the order of `ranges` is that of its variables."""
    variables = tuple(ranges)
    return Function(name, variables, tuple(ranges.values()), _compiled(formula, variables), formula)


@lru_cache(maxsize=256)
def _compiled(formula: str, variables: tuple[str, ...]) -> Callable[[np.ndarray], np.ndarray]:
    return compile_formula(parse_formula(formula, variables), variables)


def function_names(root: str | Path) -> list[str]:
    """Every name that `find_function` knows."""
    names = [*TOY, high_dimensional.__name__, *SPECIAL]
    return [*names, *(f"feynman_{name}" for name in feynman_table(root))]


def find_function(name: str, root: str | Path = "data") -> Function:
    """The function of a name; an unknown one raises `ValueError` with the nearest."""
    if name in TOY:
        return written(name, *TOY[name])
    if name in SPECIAL:
        special = SPECIAL[name]
        return Function(name, ("x", "y"), special.ranges, special)
    if name == high_dimensional.__name__:
        return Function(name, HIGH, (BOTH,) * len(HIGH), high_dimensional)
    feynman = feynman_table(root)
    plain = name.removeprefix("feynman_")
    if plain in feynman:
        return written(f"feynman_{plain}", *feynman[plain])
    table = feynman_file(root)
    if plain != name and not table.is_file():
        known = ", ".join(f"feynman_{each}" for each in feynman)
        raise ValueError(f"unknown function {name!r}: without {table} there are only {known}")
    raise ValueError(f"unknown function {name!r}: {nearest(name, function_names(root))}")


def user_function(formula: str) -> Function:
    """The function of a user's formula; its variables in natural order, each from -1 to 1."""
    variables = formula_variables(formula)
    if not variables:
        raise ValueError(f"formula {formula!r} has no variable")
    return written(formula, formula, dict.fromkeys(variables, (-1.0, 1.0)))


class Regression(InMemory):
    """One value from several numbers, in their own units or standardised by the training split.

    `standardise` is "none", "inputs", "targets" or "both"; `prior` a formula of the inputs whose
    values are taken off the targets.
    """

    columns: tuple[str, ...]
    moments: dict[str, tuple[torch.Tensor, torch.Tensor]]
    """Mean and deviation of "inputs" and "targets" where they are standardised, once loaded."""

    def __init__(
        self,
        *,
        standardise: str = "none",
        prior: str | None = None,
        dtype: str = "float32",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.standardise = standardise
        self.prior = prior
        self.dtype = dtype

    @property
    def spec(self) -> DataSpec:
        """One value from as many numbers as there are columns."""
        return DataSpec((len(self.columns),), 1, "regression", kind="table")

    def check(self, *, world_size: int = 1) -> None:
        """Check the options."""
        check_name("standardise", self.standardise, STANDARDISE)
        check_name("dtype", self.dtype, DTYPES)
        super().check(world_size=world_size)

    def residue(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """What the prior leaves of values `(N,)` at x `(N, F)`."""
        return y if self.prior is None else y - formula_values(self.prior, self.columns, x)

    def scaled(self, splits: dict[str, Split], *, targets: bool = True) -> dict[str, Split]:
        """Standardise float64 splits by the training split, and give them their dtype.

        Without `targets` these, which are classes, stay as they are.
        """
        kind = torch.float64 if self.dtype == "float64" else torch.float32
        self.moments = {}
        for column, what in enumerate(("inputs", "targets")[: 2 if targets else 1]):
            if self.standardise in (what, "both"):
                mean, deviation = self.moments[what] = moments(splits["train"][column])
                for part, split in splits.items():
                    pair = list(split)
                    pair[column] = (pair[column] - mean) / deviation
                    splits[part] = Split(*pair)
        return {
            part: Split(x.to(kind), y.to(kind) if targets else y) for part, (x, y) in splits.items()
        }


class Functions(Regression):
    """Points drawn uniformly in a box, and a function's value at each.

    `function` names one of the library, or `formula` writes it out, as "x*y + sin(z)". `ranges`
    replaces the ranges: [low, high] for all variables, a list with a pair for each in their order
    (that of the library; of a formula natural, x2 before x10), or a mapping from names. `noise` is
    the deviation of normal noise on training targets, relative to the targets' own; validation
    and test targets are exact. `split_seed` draws points and noise, each split by itself, so that
    the number of training points leaves the other splits alone. `standardise` scales "inputs",
    "targets" or "both" with mean and deviation of the training split; "none" leaves errors in
    units of the function. With a formula of the same variables as `prior`, targets are what it
    leaves of the function's values: the network fits the residue, and its errors are those of the
    prior and the network together.
    """

    test_set = "independent"
    domain = "functions"

    def __init__(
        self,
        *,
        function: str | None = "exp_sin",
        formula: str | None = None,
        ranges: Any = None,
        n_train: int = 3000,
        n_val: int = 1000,
        n_test: int = 1000,
        noise: float = 0.0,
        split_seed: int | None = 0,
        root: str = "data",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.function = function
        self.formula = formula
        self.ranges = ranges
        self.n_train = n_train
        self.n_val = n_val
        self.n_test = n_test
        self.noise = noise
        self.split_seed = split_seed
        self.root = root
        self._target: Function | None = None

    @property
    def target(self) -> Function:
        """The function with its ranges; raises `ValueError` where there is none."""
        if self._target is None:
            if self.formula is not None:
                function = user_function(self.formula)
            elif isinstance(self.function, str):
                function = find_function(self.function, self.root)
            else:
                raise ValueError("set data.function to a name or data.formula to a formula")
            self._target = replace(function, ranges=self._ranges(function))
        return self._target

    @property
    def name(self) -> str:
        """The formula or the name of the function."""
        return self.formula or str(self.function)

    @property
    def columns(self) -> tuple[str, ...]:  # type: ignore[override]
        """The names of the variables."""
        return self.target.variables

    def check(self, *, world_size: int = 1) -> None:
        """Check the options."""
        for part in PARTS:
            check_whole(f"n_{part}", getattr(self, f"n_{part}"), 2)
        if isinstance(self.noise, bool) or not 0 <= self.noise < float("inf"):
            raise ValueError(f"noise must be a number of at least 0, not {self.noise!r}")
        super().check(world_size=world_size)
        if self.prior is not None:
            parse_formula(self.prior, self.columns)
        _ = self.target  # making it checks the name

    def counts(self) -> Counts:
        """Return the sizes that were asked for."""
        return self.limited_counts(self.n_train, self.n_val, self.n_test)

    def points(self, part: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the points `(N, F)` of a split and the exact values `(N,)`, float64."""
        target = self.target
        generator = np.random.default_rng(keyed_seed("points", part, self.split_seed or 0))
        low, high = np.array(target.ranges).T
        x = low + (high - low) * generator.random((getattr(self, f"n_{part}"), len(low)))
        y = target.call(x)
        wrong = np.flatnonzero(~np.isfinite(y))
        if len(wrong):
            values = zip(target.variables, x[wrong[0]], strict=True)
            where = ", ".join(f"{name}={value:.6g}" for name, value in values)
            raise ValueError(
                f"{target.formula or target.name} is not a finite real number at {where}; "
                "change data.ranges"
            )
        return x, y

    def cut(self) -> dict[str, Split]:
        """Draw the points, work out the function, and add noise to the training targets."""
        drawn = {part: self.points(part) for part in PARTS}
        y = drawn["train"][1]
        if np.ptp(y) <= 1e-12 * abs(y).max():
            raise ValueError(f"{self.name} is constant, {y[0]:.6g}, on its ranges")
        if self.noise:
            generator = np.random.default_rng(keyed_seed("noise", self.split_seed or 0))
            y += self.noise * y.std() * generator.standard_normal(len(y))
        counts = self.counts()._asdict()
        splits = {
            part: Split(
                torch.from_numpy(x)[: counts[part]],
                torch.from_numpy(self.residue(x, y))[: counts[part], None],
            )
            for part, (x, y) in drawn.items()
        }
        return self.scaled(splits)

    def _ranges(self, function: Function) -> tuple[Range, ...]:
        given = self.ranges
        if given is None:
            return function.ranges
        names = function.variables
        if isinstance(given, Mapping):
            for key in given:
                if key not in names:
                    raise ValueError(f"ranges: unknown variable {key!r}: {nearest(key, names)}")
            known = dict(zip(names, function.ranges, strict=True))
            pairs = [given.get(name, known[name]) for name in names]
        elif isinstance(given, Sequence) and all(isinstance(end, int | float) for end in given):
            pairs = [given] * len(names)
        else:
            pairs = list(given) if isinstance(given, Sequence) else []
        if len(pairs) != len(names):
            raise ValueError(
                f"ranges must be [low, high] or such a pair for each of {', '.join(names)}, "
                f"not {given!r}"
            )
        return tuple(_pair(name, pair) for name, pair in zip(names, pairs, strict=True))


def _pair(name: str, pair: object) -> Range:
    try:
        low, high = (float(end) for end in pair)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        low = high = 0.0
    if not -float("inf") < low < high < float("inf"):
        raise ValueError(f"the range of {name} must be two increasing numbers, not {pair!r}")
    return low, high
