"""Whether values are what they must be: what is not is a `ValueError` of one line.

It says what was wrong, what is allowed and, of names, which is nearest. Sections of a configuration
are dataclasses: the annotations of their fields say what is allowed, in the words of `typing`, with
`Bounds` for numbers.
"""

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
MAX_FUNCTIONS = 10_000  # that a basis may have, as options say
MAX_WHOLE = 2**63  # what PyTorch takes for a size is below


@dataclass(frozen=True)
class Bounds:
    """Limits of a number: `Annotated[int, Bounds(1)]`. `above` leaves the lower one out."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False

    def hold(self, value: float) -> bool:
        return self.low <= value <= self.high and not (self.above and value == self.low)

    def __str__(self) -> str:
        low = f"above {self.low:.12g}" if self.above else f"of at least {self.low:.12g}"
        if self.high == math.inf:
            return f" {low}"
        return (
            f" {low}, at most {self.high:.12g}"
            if self.above
            else f" {self.low:.12g} to {self.high:.12g}"
        )


Count = Annotated[int, Bounds(1)]
Index = Annotated[int, Bounds(0)]
Seed = Annotated[int, Bounds(0, 2**32 - 1)]  # what all random generators take
Positive = Annotated[float, Bounds(0, above=True)]
NotNegative = Annotated[float, Bounds(0)]
Share = Annotated[float, Bounds(0, 1)]
PositiveShare = Annotated[float, Bounds(0, 1, above=True)]


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Text that lists the allowed names and the one most like `name`."""
    allowed = list(allowed)
    near = difflib.get_close_matches(name, allowed, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"allowed are {', '.join(allowed) or 'none'}{hint}"


def check_name(kind: str, name: object, allowed: Iterable[str]) -> None:
    """Raise a `ValueError` that lists the allowed names and the nearest unless `name` is one."""
    allowed = list(allowed)
    if name not in allowed:
        raise ValueError(f"unknown {kind} {str(name)!r}: {nearest(str(name), allowed)}")


def check_whole(name: str, value: object, low: float, high: float = math.inf) -> int:
    """The value, if it is a whole number from `low` to `high`; else `ValueError`."""
    return check_value(name, value, Annotated[int, Bounds(low, high)])  # type: ignore[no-any-return]


def check_value(name: str, value: object, kind: Any) -> Any:
    """The value, if it is of a kind: an annotation, whose dataclasses are built from mappings."""

    def wrong() -> ValueError:
        return ValueError(f"{name} must be {describe(kind, name)}, got {value!r}")

    if get_origin(kind) in (Union, UnionType):
        fitting = [member for member in get_args(kind) if _fits(value, member)]
        if not fitting:
            raise wrong()
        return check_value(name, value, fitting[0])
    if not _fits(value, kind) and not (get_origin(kind) is Literal and isinstance(value, str)):
        raise wrong()
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    if isinstance(value, int) and abs(value) >= MAX_WHOLE:
        raise ValueError(f"{name} must be a whole number of 64 bits, got {value!r}")
    if is_dataclass(kind):
        assert isinstance(value, Mapping)
        return build(kind, value, f"{name}.")  # type: ignore[arg-type]
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        check_name(name, value, args)
    elif origin is Annotated and not args[1].hold(value):
        raise wrong()
    elif origin is list:
        assert isinstance(value, Sequence)
        return [check_value(name, entry, args[0]) for entry in value]
    elif origin is tuple:
        assert isinstance(value, Sequence)
        if len(value) != len(args):
            raise wrong()
        return tuple(check_value(name, *pair) for pair in zip(value, args, strict=True))
    elif origin is dict:
        assert isinstance(value, Mapping)
        return {str(k): check_value(f"{name}.{k}", v, args[1]) for k, v in value.items()}
    return value


def build(cls: type[T], values: Mapping[str, object], path: str = "") -> T:
    """A section of a configuration from plain values; `path` stands before its keys in messages."""
    kinds = field_kinds(cls)  # type: ignore[arg-type]
    for key in values:
        if key not in kinds:
            full = f"{path}{key}"
            allowed = [f"{path}{name}" for name in kinds]
            raise ValueError(f"unknown key {full!r}: {nearest(full, allowed)}")
    needed = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]  # type: ignore[arg-type]
    if missing := [f"{path}{key}" for key in needed if key not in values]:
        raise ValueError(f"keys are missing: {', '.join(missing)}")
    return cls(**{k: check_value(f"{path}{k}", v, kinds[k]) for k, v in values.items()})


@cache
def field_kinds(cls: type) -> dict[str, Any]:
    """The annotations of the fields of a section."""
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in fields(cls)}  # type: ignore[arg-type]


def describe(kind: Any, name: str = "") -> str:
    """What an annotation allows, in words; `name` is the key that it is for."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(describe(member, name) for member in sorted(args, key=_is_none))
    if origin is Annotated:
        return f"{describe(args[0])}{args[1]}"
    if origin is Literal:
        return f"text, one of {', '.join(args)}" if len(args) > 1 else str(args[0])
    if origin is tuple:
        return f"[{', '.join(describe(member) for member in args)}]"
    if is_dataclass(kind):  # a section that a group chooses, as logger=wandb does
        return f"chosen by {name.replace('.', '=')}" if "." in name else "named values"
    plain = {
        bool: "true or false", int: "a whole number", float: "a number", str: "text",
        NoneType: "null", list: "a list", dict: "named values",
    }  # fmt: skip
    return plain.get(origin or kind, str(kind))


def _is_none(kind: Any) -> bool:
    return kind is NoneType


def _fits(value: object, kind: Any) -> bool:
    """Whether a value is of the kind of thing that an annotation means, whatever its bounds."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(_fits(value, member) for member in args)
    if origin is Annotated:
        return _fits(value, args[0])
    if origin is Literal:
        return value in args
    kind = dict if is_dataclass(kind) else origin or kind
    if kind in (int, float):
        kinds = int if kind is int else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool)
    if kind in (list, tuple):
        return isinstance(value, (list, tuple))
    return kind in (object, Any) or isinstance(value, kind)
