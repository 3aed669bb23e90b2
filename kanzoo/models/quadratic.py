"""Costs as polynomials of sizes."""

from collections.abc import Callable
from typing import Any

START = 8  # multiples of the steps, from where on small sizes make no exception


class Quadratic:
    """A cost of whole sizes as the polynomial of degree two through a few of its values.

    A layer costs products of two sizes, so that this is exact; who needs to be sure compares a
    value. In Newton's form on the points of a simplex, all numbers are whole.
    """

    def __init__(
        self, cost: Callable[[dict[str, Any]], int], names: tuple[str, ...], steps: tuple[int, ...]
    ) -> None:
        self.names, self.steps = names, steps

        def at(*moved: int) -> int:
            multiples = [START + moved.count(i) for i in range(len(names))]
            values = [m * step for m, step in zip(multiples, steps, strict=True)]
            return cost(dict(zip(names, values, strict=True)))

        numbers = range(len(names))
        self.base = at()
        single = [at(i) for i in numbers]
        self.slopes = [value - self.base for value in single]
        self.curves = {
            (i, j): at(i, j) - single[i] - single[j] + self.base
            for j in numbers
            for i in range(j + 1)
        }

    def __call__(self, options: dict[str, Any]) -> int:
        """The cost at sizes that are multiples of the steps; other options are not looked at."""
        pairs = zip(self.names, self.steps, strict=True)
        u = [options[name] // step - START for name, step in pairs]
        cost = self.base + sum(v * slope for v, slope in zip(u, self.slopes, strict=True))
        for (i, j), curve in self.curves.items():
            cost += curve * (u[i] * (u[i] - 1) // 2 if i == j else u[i] * u[j])
        return cost
