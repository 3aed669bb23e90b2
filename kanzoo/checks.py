"""Whether values are what they must be: what is not is a `ValueError` of one line.

It says what was wrong, what is allowed and, of names, which is nearest. Sections of a configuration
are dataclasses: the annotations of their fields say what is allowed, in the words of `typing`, with
`Bounds` for numbers.
"""

import contextlib
import difflib
import inspect
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache, wraps
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    ParamSpec,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

P = ParamSpec("P")
T = TypeVar("T")
Check = Callable[[str, Any], Any]  # of the name of an option and its value
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


def nearest_name(name: str, allowed: Iterable[str]) -> str | None:
    """The allowed name most like `name`; None if none is like it."""
    return next(iter(difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.5)), None)


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Text that lists the allowed names and the one most like `name`."""
    allowed = list(allowed)
    near = nearest_name(name, allowed)
    hint = f"; did you mean {near!r}?" if near else ""
    return f"allowed are {', '.join(allowed) or 'none'}{hint}"


def check_name(kind: str, name: object, allowed: Iterable[str]) -> None:
    """Raise a `ValueError` that lists the allowed names and the nearest unless `name` is one."""
    allowed = list(allowed)
    if name not in allowed:
        raise ValueError(f"unknown {kind} {str(name)!r}: {nearest(str(name), allowed)}")


def check_keywords(function: Callable[P, T]) -> Callable[P, T]:
    """The same function, which names the nearest of its options for one that it does not have."""
    names, takes_all = keywords_of(function)
    if takes_all:
        return function
    known, is_init = frozenset(names), function.__name__ == "__init__"

    @wraps(function)
    def checked(*args: P.args, **keywords: P.kwargs) -> T:
        if not keywords.keys() <= known:
            owner = type(args[0]) if is_init else function
            allowed = _options(owner) if isinstance(owner, type) else names
            for name in keywords:
                check_name(f"option of {owner.__name__}", name, allowed)
        return function(*args, **keywords)

    return checked


def check_init(cls: type[T]) -> type[T]:
    """The class, with `check_keywords` where it is made, unless its parent makes it."""
    if "__init__" in vars(cls):
        cls.__init__ = check_keywords(vars(cls)["__init__"])  # type: ignore[method-assign]
    return cls


def _options(cls: type) -> list[str]:
    """Keywords that a class takes, those that it hands on to its parents too."""
    options: list[str] = []
    for parent in cls.__mro__:
        if "__init__" in vars(parent):
            names, takes_all = keywords_of(vars(parent)["__init__"])
            options += names
            if not takes_all:
                break
    return list(dict.fromkeys(options))


def keywords_of(function: Callable[..., object]) -> tuple[list[str], bool]:
    """Names that a function takes as keywords, and whether it takes all."""
    parameters = inspect.signature(function).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = [p.name for p in parameters if p.kind in kinds and p.name != "self"]
    return names, any(p.kind is p.VAR_KEYWORD for p in parameters)


def check_whole(name: str, value: object, low: float, high: float = math.inf) -> int:
    """The value, if it is a whole number from `low` to `high`, NumPy's too; else `ValueError`."""
    if not isinstance(value, bool):
        with contextlib.suppress(TypeError):
            value = operator.index(value)  # type: ignore[arg-type]
    if type(value) is int and low <= value <= high and abs(value) < MAX_WHOLE:
        return value
    return check_value(name, value, Annotated[int, Bounds(low, high)])  # type: ignore[no-any-return]


def value_text(value: object) -> str:
    """A value as a name or a column shows it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def check_value(name: str, value: object, kind: Any) -> Any:
    """The value, if it is of a kind: an annotation, whose dataclasses are built from mappings."""
    return _check_of(kind)(name, value)


@cache  # studies check thousands of configurations against a few hundred annotations
def _check_of(kind: Any) -> Check:
    """What checks values of an annotation: a function of their name and the value."""
    if get_origin(kind) in (Union, UnionType):
        return _check_of_union(kind)
    fits, inside = _fits_of(kind), _check_inside(kind)
    is_literal = get_origin(kind) is Literal

    def check(name: str, value: Any) -> Any:
        if not fits(value) and not (is_literal and isinstance(value, str)):
            raise _wrong(name, value, kind)
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} must be a finite number, got {value!r}")
        if isinstance(value, int) and abs(value) >= MAX_WHOLE:
            raise ValueError(f"{name} must be a whole number of 64 bits, got {value!r}")
        return inside(name, value) if inside else value

    return check


def _check_of_union(kind: Any) -> Check:
    members = [(_fits_of(member), _check_of(member)) for member in get_args(kind)]

    def check(name: str, value: Any) -> Any:
        for fits, check_member in members:
            if fits(value):
                return check_member(name, value)
        raise _wrong(name, value, kind)

    return check


def _check_inside(kind: Any) -> Check | None:
    """What is left to check of a value that fits: names, bounds and entries; None for nothing."""
    origin, args = get_origin(kind), get_args(kind)

    def bounds(name: str, value: Any) -> Any:
        if not args[1].hold(value):
            raise _wrong(name, value, kind)
        return value

    def names(name: str, value: Any) -> Any:
        check_name(name, value, args)
        return value

    def entries(name: str, value: Any) -> list[Any]:
        return [checks[0](name, each) for each in value]

    def pairs(name: str, value: Any) -> tuple[Any, ...]:
        if len(value) != len(args):
            raise _wrong(name, value, kind)
        return tuple(entry(name, each) for entry, each in zip(checks, value, strict=True))

    def values(name: str, value: Any) -> dict[str, Any]:
        named = {value_text(key): each for key, each in value.items()}
        return {key: checks[1](f"{name}.{key}", each) for key, each in named.items()}

    if is_dataclass(kind):
        return lambda name, value: build(kind, value, f"{name}.")  # type: ignore[arg-type]
    if origin in (list, tuple, dict):
        checks = [_check_of(entry) for entry in args]
    known: dict[Any, Check] = {
        Annotated: bounds, Literal: names, list: entries, tuple: pairs, dict: values,
    }  # fmt: skip
    return known.get(origin)


def _wrong(name: str, value: object, kind: Any) -> ValueError:
    return ValueError(f"{name} must be {describe(kind, name)}, got {value!r}")


def build(cls: type[T], values: Mapping[str, object], path: str = "") -> T:
    """A section of a configuration from plain values; `path` stands before its keys in messages."""
    checks, needed = _section(cls)  # type: ignore[arg-type]
    for key in values:
        if key not in checks:
            full = f"{path}{key}"
            allowed = [f"{path}{name}" for name in checks]
            raise ValueError(f"unknown key {full!r}: {nearest(full, allowed)}")
    if missing := [f"{path}{key}" for key in needed if key not in values]:
        raise ValueError(f"keys are missing: {', '.join(missing)}")
    return cls(**{key: checks[key](f"{path}{key}", value) for key, value in values.items()})


@cache
def _section(cls: type) -> tuple[dict[str, Check], list[str]]:
    """What checks the fields of a section, and which of them have no default."""
    needed = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]
    return {name: _check_of(kind) for name, kind in field_kinds(cls).items()}, needed


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


@cache
def _fits_of(kind: Any) -> Callable[[object], bool]:
    """Whether values are of the kind of thing that an annotation means, whatever its bounds."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        members = [_fits_of(member) for member in args]
        return lambda value: any(fits(value) for fits in members)
    if origin is Annotated:
        return _fits_of(args[0])
    if origin is Literal:
        return lambda value: value in args
    kind = dict if is_dataclass(kind) else origin or kind
    if kind in (int, float):
        numbers = int if kind is int else (int, float)
        return lambda value: isinstance(value, numbers) and not isinstance(value, bool)
    if kind in (list, tuple):
        return lambda value: isinstance(value, (list, tuple))
    if kind in (object, Any):
        return lambda value: True
    return lambda value: isinstance(value, kind)
