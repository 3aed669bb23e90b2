"""Cases in which every two values of different factors meet, in place of the whole product."""

from collections.abc import Sequence
from itertools import combinations, product
from typing import Any

import pytest

Pair = tuple[tuple[int, int], tuple[int, int]]  # (factor, value) twice


def pairs_of(case: dict[int, int]) -> set[Pair]:
    """All pairs that a case, factor: value, holds."""
    return set(combinations(sorted(case.items()), 2))


def all_pairs(*sizes: int) -> list[tuple[int, ...]]:
    """Cases of value numbers that cover all pairs: greedy, the same at every call."""
    factors = range(len(sizes))
    missing = {
        ((i, a), (j, b))
        for i, j in combinations(factors, 2)
        for a, b in product(range(sizes[i]), range(sizes[j]))
    }
    cases: list[tuple[int, ...]] = []
    while missing:
        case = dict(min(missing))
        for factor in (f for f in factors if f not in case):
            values = [(len(cases) + value) % sizes[factor] for value in range(sizes[factor])]
            met = [len(pairs_of({**case, factor: value}) & missing) for value in values]
            case[factor] = values[met.index(max(met))]
        cases.append(tuple(case[factor] for factor in factors))
        missing -= pairs_of(case)
    return cases


def pairwise(**factors: Sequence[Any]) -> pytest.MarkDecorator:
    """`pytest.mark.parametrize` over the factors, every two values of which meet in a case.

    Values may be `pytest.param(value, marks=..., id=...)`.
    """
    options = [[_param(value) for value in values] for values in factors.values()]
    cases = [
        [options[factor][number] for factor, number in enumerate(case)]
        for case in all_pairs(*map(len, options))
    ]
    params = [
        pytest.param(
            *(param.values[0] for param in case),
            marks=[mark for param in case for mark in param.marks],
            id="-".join(str(param.id) for param in case),
        )
        for case in cases
    ]
    return pytest.mark.parametrize(tuple(factors), params)


def _param(value: Any) -> Any:
    """The value as `pytest.param` with a name."""
    if hasattr(value, "marks"):
        return value
    first = value[0] if isinstance(value, tuple) and value else value
    return pytest.param(value, id=getattr(first, "__name__", str(value)))
