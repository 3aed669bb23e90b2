"""Points at which a differential equation and the values on its border are asked for.

Axes: N points.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from kanzoo.checks import check_name, check_whole
from kanzoo.data.base import Counts, DataSpec, Split
from kanzoo.data.equations import EQUATIONS, Equation
from kanzoo.data.functions import DTYPES
from kanzoo.data.memory import InMemory
from kanzoo.data.seeding import keyed_seed


class Collocation(InMemory):
    """Points inside a box and on its border, and the solution of an equation where it is tested.

    `equation` is one of `EQUATIONS`. Training has `n_inside` points, drawn uniformly, without any
    value of u, and `n_border` on the sides where u is given; validation and test have `n_val` and
    `n_test` points inside with u and its derivatives. Targets are `(N, 4)`: 1 on the border, u, and
    its first derivatives. `split_seed` draws every point.
    """

    test_set = "independent"
    domain = "physics"

    def __init__(
        self,
        *,
        equation: str = "poisson",
        n_inside: int = 2000,
        n_border: int = 400,
        n_val: int = 500,
        n_test: int = 1000,
        split_seed: int | None = 0,
        dtype: str = "float32",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.equation_name = equation
        self.n_inside, self.n_border = n_inside, n_border
        self.n_val, self.n_test = n_val, n_test
        self.split_seed = split_seed
        self.dtype = dtype

    @property
    def equation(self) -> Equation:
        """The equation of that name."""
        return EQUATIONS[self.equation_name]

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the variables."""
        return self.equation.variables

    @property
    def name(self) -> str:
        """The name of the equation."""
        return self.equation_name

    @property
    def spec(self) -> DataSpec:
        """One value from two variables."""
        return DataSpec((2,), 1, "pde", kind="table")

    def check(self, *, world_size: int = 1) -> None:
        """Check the options."""
        check_name("equation", self.equation_name, EQUATIONS)
        check_name("dtype", self.dtype, DTYPES)
        for name in ("n_inside", "n_border", "n_val", "n_test"):
            check_whole(name, getattr(self, name), 2)
        if self.limit_train is not None:
            raise ValueError("limit_train is not for equations; set data.n_inside, data.n_border")
        if self.training_set.fraction != 1:
            raise ValueError("training_set.fraction is not for equations; set data.n_inside")
        super().check(world_size=world_size)

    def counts(self) -> Counts:
        """Return the sizes of the splits."""
        return self.limited_counts(self.n_inside + self.n_border, self.n_val, self.n_test)

    def draw(self, count: int, *key: str | int) -> np.ndarray:
        """Points drawn uniformly in the box, `(count, 2)`; `key` tells draws apart."""
        generator = np.random.default_rng(keyed_seed("collocation", *key, self.split_seed or 0))
        low = np.array(self.equation.low, float)
        return low + (1 - low) * generator.random((count, 2))

    def border(self) -> np.ndarray:
        """Points on the sides with values, as many on each but for one, `(n_border, 2)`."""
        points, sides = self.draw(self.n_border, "border"), self.equation.sides
        for index, (axis, end) in enumerate(sides):
            points[index :: len(sides), axis] = 1.0 if end else self.equation.low[axis]
        return points

    def cut(self) -> dict[str, Split]:
        """Draw the points and work out what is known there."""
        inside, border = self.draw(self.n_inside, "inside"), self.border()
        known = np.zeros((self.n_border, 4))
        known[:, 0], known[:, 1] = 1, self.equation.solution(border)[:, 0]
        train = np.concatenate([np.zeros((self.n_inside, 4)), known])
        splits = {"train": self._split(np.concatenate([inside, border]), train)}
        counts = self.counts()._asdict()
        for part in ("val", "test"):
            x = self.draw(getattr(self, f"n_{part}"), part)[: counts[part]]
            y = np.concatenate([np.zeros((len(x), 1)), self.equation.solution(x)], 1)
            splits[part] = self._split(x, y)
        return splits

    def _split(self, x: np.ndarray, y: np.ndarray) -> Split:
        kind = getattr(torch, self.dtype)
        first, second = (torch.from_numpy(np.ascontiguousarray(part)).to(kind) for part in (x, y))
        return Split(first, second)

    def candidates(self, count: int, epoch: int) -> Tensor:
        """Points of which training may take some at an epoch, the same for all networks."""
        return torch.from_numpy(self.draw(count, "candidates", epoch)).to(
            getattr(torch, self.dtype)
        )
