"""The sizes of a network for a budget: what is solved, what is kept, and what that costs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from kanzoo.bases.base import BasisFactory
from kanzoo.checks import check_name, check_whole
from kanzoo.layers.factory import LayerFactory
from kanzoo.models.base import Architecture
from kanzoo.models.budget import MATCH_BY, MATCHES, SCOPES, Options, match_budget, match_inner
from kanzoo.models.calls import Shape

# Options of a basis that say how many functions it has.
COUNTS = ("grid_size", "degree")
KEPT = ("heads",)  # options that no budget changes, but without which sizes say little


@dataclass(frozen=True)
class Budget:
    """What a network has in common with its MLP twin, and what may change for that.

    match: "params" or "flops" are made equal; "width" keeps the twin's sizes, "none" those given.
    scope: "roles" solves sizes inside the KAN roles, "network" scales all of it. by: "size", or
    "grid", which keeps all sizes and lowers the number of functions. amount: a number of parameters
    or FLOPs (parameters for "width") that every network is solved for, the twin too.
    Raises `ValueError` for what cannot be.
    """

    match: str = "none"
    scope: str = "roles"
    by: str = "size"
    amount: int | None = None

    def __post_init__(self) -> None:
        check_name("match", self.match, MATCHES)
        check_name("match_scope", self.scope, SCOPES)
        check_name("match_by", self.by, MATCH_BY)
        if self.amount is None:
            return
        check_whole("budget", self.amount, 1)
        if self.match == "none":
            raise ValueError(
                f"budget={self.amount} has no effect with match=none; use params, flops or width"
            )

    @property
    def counted(self) -> str:
        """What is made equal: "params" or "flops"."""
        return "flops" if self.match == "flops" else "params"


@dataclass(frozen=True)
class Sizes:
    """Solved options and layers.

    trunk_changed: why the trunk is not the twin's, if it is not. functions: how their number
    changed, if it did.
    """

    options: Options
    layers: LayerFactory
    trunk_changed: str = ""
    functions: str = ""


def solve_twin(shape: Shape, layers: LayerFactory, options: Options, budget: Budget) -> Sizes:
    """The MLP twin: as given, or scaled for an amount."""
    twin = layers.twin()
    if budget.amount is None:
        return Sizes(options, twin)
    return Sizes(_network(shape, twin, options, budget.counted, budget.amount), twin)


def solve_sizes(shape: Shape, layers: LayerFactory, options: Options, budget: Budget) -> Sizes:
    """The sizes of a network that is KAN in some roles."""
    twin = solve_twin(shape, layers, options, budget)
    if not layers.is_kan or budget.match in ("width", "none"):
        return Sizes(twin.options, layers)
    counted = budget.counted
    target = shape.one_cost(counted, twin.layers, twin.options)
    if budget.by == "grid":
        return _fewer_functions(shape, layers, options, counted, target)
    if budget.scope == "network":
        return Sizes(_network(shape, layers, options, counted, budget.amount or target), layers)
    roles = layers.roles_among(shape.cls.roles_for(shape.in_shape))
    inner = shape.cls.inner_sizes(roles, twin.options)
    if inner:
        exact = partial(shape.one_cost, counted, layers)
        steps = {name: shape.cls.step_of(name, twin.options) for name in inner}
        quick = shape.quick(counted, layers, twin.options, inner)
        match = match_inner(exact, target, twin.options, inner, steps, quick)
        if match is not None:
            return Sizes(match.options, layers)
    solved = _network(shape, layers, options, counted, budget.amount or target)
    if inner is None:  # all sizes are inside of KAN roles
        return Sizes(solved, layers)
    reason = (
        f"no {' and '.join(inner)} within range reaches the budget"
        if inner
        else f"no size lies inside {' and '.join(roles)}"
    )
    return Sizes(solved, layers, reason)


def _network(
    shape: Shape, layers: LayerFactory, options: Options, counted: str, target: int
) -> Options:
    coarse = shape.cls.coarse
    if coarse is None:
        raise ValueError(f"{shape.cls.__name__} has no size to solve; use match=width or none")
    return match_budget(
        partial(shape.one_cost, counted, layers),
        target,
        options,
        coarse=coarse,
        step=shape.cls.step_of(coarse, options),
        fine=shape.cls.fine,
    ).options


def _fewer_functions(
    shape: Shape, layers: LayerFactory, options: Options, counted: str, target: int
) -> Sizes:
    """The layers with the most functions that the budget allows, else the fewest there are."""
    basis = layers.basis
    assert isinstance(basis, BasisFactory)
    known = dict(basis.options)
    name = next((name for name in COUNTS if name in known), None)
    if name is None:
        return Sizes(options, layers)

    def with_count(count: int) -> LayerFactory:
        changed = tuple(sorted({**known, name: count}.items()))
        return replace(layers, basis=replace(basis, options=changed))

    low, high = 1, int(known[name]) + 1  # low fits or is the least, high does not fit
    while high - low > 1:
        middle = (low + high) // 2
        fits = shape.one_cost(counted, with_count(middle), options) <= target
        low, high = (middle, high) if fits else (low, middle)
    return Sizes(options, with_count(low), functions=f"{name} {known[name]} -> {low}")


def describe(cls: type[Architecture], twin: Sizes, solved: Sizes, roles: Sequence[str]) -> str:
    """The sizes of a network beside its twin's: "width 64 -> 64, heads 4, ffn 256 -> 28"."""
    if widths := solved.options.get("widths"):  # listed by hand: nothing was solved
        return f"widths {' '.join(map(str, widths))}"
    before = _named_sizes(cls, twin.options, roles)
    after = _named_sizes(cls, solved.options, roles)
    texts = [
        f"{before[name]:g} -> {size:g}" if roles else f"{size:g}" for name, size in after.items()
    ]
    named = [f"{name} {text}" for name, text in zip(after, texts, strict=True)]
    at = 1 if cls.coarse else 0
    named[at:at] = [f"{name} {solved.options[name]}" for name in KEPT if name in solved.options]
    return ", ".join([*named, *filter(None, [solved.functions])])


def _named_sizes(cls: type[Architecture], options: Options, roles: Sequence[str]) -> Options:
    """What a table shows: the coarse option, and what lies inside the roles or trims all."""
    inner = cls.inner_sizes(roles or cls.roles, options)
    if not inner:
        inner = {cls.fine: options[cls.fine]} if cls.fine else {}
    coarse = {cls.coarse: options[cls.coarse]} if cls.coarse else {}
    return {name.removesuffix("_width"): size for name, size in {**coarse, **inner}.items()}
