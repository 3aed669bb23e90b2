"""A share of samples, as several data sets take it: a count or a fraction."""


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
