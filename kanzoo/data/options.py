"""Checks of option values that several data sets share."""

from collections.abc import Sequence
from difflib import get_close_matches
from math import inf


def check_whole(name: str, value: object, low: int, high: int | None = None) -> None:
    """Raise `ValueError` unless `value` is an `int` from `low` to `high`."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):  # type: ignore[operator]
        allowed = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} must be a whole number {allowed}, not {value!r}")


def check_flag(name: str, value: object) -> None:
    """Raise `ValueError` unless `value` is true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, not {value!r}")


def check_part(name: str, value: object) -> None:
    """Raise `ValueError` unless `value` can be a count (an int) or a fraction (a float)."""
    count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if not count and not (isinstance(value, float) and 0 < value < 1):
        raise ValueError(
            f"{name} must be a count of at least 1 or a fraction between 0.0 and 1.0, not {value!r}"
        )


def part_size(name: str, value: float, total: int) -> int:
    """Return how many of `total` samples a count or a fraction means: at least one, not all."""
    check_part(name, value)
    size = value if isinstance(value, int) else round(value * total)
    if not 1 <= size < total:
        raise ValueError(
            f"{name}={value} takes {size} of {total} samples; allowed are 1 to {total - 1}"
        )
    return size


def check_choice(name: str, value: object, allowed: Sequence[str]) -> None:
    """Raise `ValueError` that names the nearest unless `value` is one of `allowed`."""
    if value not in allowed:
        near = get_close_matches(str(value), allowed, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {value!r}{hint}")


def check_positive(name: str, value: object) -> None:
    """Raise `ValueError` unless `value` is a finite number above zero."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value < inf:  # type: ignore[operator]
        raise ValueError(f"{name} must be a number above 0, not {value!r}")
