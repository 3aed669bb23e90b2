"""Cases in which every two values of different factors meet, in place of the whole product."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import pytest


def pairs_of(case: Sequence[int]) -> set[tuple[int, int, int, int]]:
    """(factor, factor, value, value) of all pairs that a case of value numbers holds."""
    return {(i, j, case[i], case[j]) for i, j in combinations(range(len(case)), 2)}


def all_pairs(*sizes: int) -> list[tuple[int, ...]]:
    """Cases of value numbers that cover all pairs: greedy, the same at every call."""
    missing = {
        (i, j, a, b)
        for i, j in combinations(range(len(sizes)), 2)
        for a in range(sizes[i])
        for b in range(sizes[j])
    }
    cases: list[tuple[int, ...]] = []
    while missing:
        i, j, a, b = min(missing)
        case = {i: a, j: b}
        for k in (k for k in range(len(sizes)) if k not in case):

            def gain(value: int, k: int = k) -> int:
                new = {
                    (min(k, o), max(k, o), *((value, v) if k < o else (v, value)))
                    for o, v in case.items()
                }
                return len(new & missing)

            order = [(len(cases) + value) % sizes[k] for value in range(sizes[k])]
            case[k] = max(order, key=gain)
        cases.append(tuple(case[k] for k in range(len(sizes))))
        missing -= pairs_of(cases[-1])
    return cases


def pairwise(**factors: Sequence[Any]) -> pytest.MarkDecorator:
    """`pytest.mark.parametrize` over the factors, every two values of which meet in a case."""
    values = [list(options) for options in factors.values()]
    cases = all_pairs(*map(len, values))
    chosen = [tuple(values[k][number] for k, number in enumerate(case)) for case in cases]
    return pytest.mark.parametrize(tuple(factors), chosen, ids=_name)


def _name(value: Any) -> str | None:
    first = value[0] if isinstance(value, tuple) and value else value
    return getattr(first, "__name__", None) if callable(first) else None
