"""Every architecture of conf/model at a tiny size, on every kind of data that it accepts."""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

import kanzoo
from kanzoo import registry
from kanzoo.bases.base import BasisFactory, get_basis
from kanzoo.layers import KANLayer
from kanzoo.models.base import Architecture
from kanzoo.models.build import ModelPlan, build_layers, build_plan
from kanzoo.models.solve import Budget

MODELS = registry.names("model")
BASES = registry.names("basis")
OUTPUTS = 10
SHAPES: dict[str, tuple[int, ...]] = {
    "image": (1, 8, 8),
    "sequence": (6, 5),
    "table": (5,),
    "tokens": (6,),
    "dense": (1, 8, 8),
    "graph": (6, 9),
}
# Sizes that keep a network tiny, where it has such an option; beside them the least depth.
TINY = {"width": 8, "heads": 2, "patch_size": 4}
DEPTHS = range(1, 13)


def cls_of(name: str) -> type[Architecture]:
    cls = registry.locate(registry.options("model", name)["_target_"])
    assert issubclass(cls, Architecture)
    return cls


ON_IMAGES = [name for name in MODELS if {"image", "dense"} & set(cls_of(name).kinds)]
SIZED = [name for name in MODELS if cls_of(name).coarse]
# Every basis in one architecture, every architecture with B-splines and with some others.
ROTATED = sorted(
    {(SIZED[i % len(SIZED)], basis) for i, basis in enumerate(BASES)}
    | {(model, "bspline") for model in SIZED}
)


def main_kind(name: str) -> str:
    """Images if a model accepts them, else the first kind that it does."""
    kinds = cls_of(name).kinds
    return "image" if "image" in kinds else kinds[0]


def roles_of(name: str, kind: str | None = None) -> tuple[str, ...]:
    return cls_of(name).roles_for(SHAPES[kind or main_kind(name)])


def choices_of_roles(name: str, kind: str | None = None) -> list[Any]:
    """The twin, everything KAN, and every role alone."""
    return [(), "all", *((role,) for role in roles_of(name, kind))]


@cache
def sizes(name: str, width: int = 8) -> dict[str, Any]:
    """Options of a tiny network that has layers in all its roles."""
    known = registry.options("model", name)
    tiny = {key: size for key, size in {**TINY, "width": width}.items() if key in known}
    for depth in DEPTHS if "depth" in known else (None,):
        options = tiny if depth is None else {**tiny, "depth": depth}
        try:
            plans = [plan(name, (role,), **options) for role in roles_of(name)]
        except ValueError:
            continue
        if all(one.params > one.twin_params for one in plans):
            return options
    raise AssertionError(f"no depth of {name} is accepted and has all roles")


def roomy(name: str) -> dict[str, Any]:
    """What makes neighbouring sizes cost nearly the same where no ratio trims between them."""
    cls = cls_of(name)
    if cls.fine or cls.coarse is None:
        return {}
    return {cls.coarse: 8 * registry.options("model", name)[cls.coarse]}


@cache
def matching_sizes(name: str) -> dict[str, Any]:
    """Options of a network just large enough for sizes that cost the same."""
    for width in (32, 64, 128, 256, 512):
        options = sizes(name, width)
        if plan(name, (), **options).params > (8000 if cls_of(name).fine else 200_000):
            return options
    raise AssertionError(f"{name} stays small at any width")


def plan(
    name: str,
    roles: Any,
    kind: str | None = None,
    basis: str | BasisFactory = "bspline",
    match: str = "none",
    scope: str = "roles",
    by: str = "size",
    **options: Any,
) -> ModelPlan:
    basis = get_basis(basis) if isinstance(basis, str) else basis
    layers = build_layers({**registry.options("layers", "kan"), "kan_roles": roles}, basis)
    node = {**registry.options("model", name), **options}
    return build_plan(
        node, layers, SHAPES[kind or main_kind(name)], OUTPUTS, Budget(match, scope, by), name
    )


def make(name: str, roles: Any, kind: str | None = None, **options: Any) -> Any:
    return kanzoo.create_model(
        name,
        kan_roles=roles,
        in_shape=SHAPES[kind or main_kind(name)],
        num_outputs=OUTPUTS,
        **{"seed": 1, **sizes(name), **options},
    )


def inputs(kind: str, count: int = 6, seed: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if kind == "tokens":
        return torch.randint(0, OUTPUTS, (count, *SHAPES[kind]), generator=generator)
    return torch.randn(count, *SHAPES[kind], generator=generator)


def out_shape(kind: str, count: int = 6) -> tuple[int, ...]:
    if kind == "tokens":
        return (count, *SHAPES[kind], OUTPUTS)
    return (count, OUTPUTS, *(SHAPES[kind][1:] if kind == "dense" else ()))


def check_gradients(net: nn.Module, out: Tensor) -> None:
    """Every parameter gets a finite gradient that is not zero everywhere."""
    net.zero_grad()
    (out * torch.randn(out.shape, generator=torch.Generator().manual_seed(7))).sum().backward()
    for key, p in net.named_parameters():
        assert p.grad is not None, key
        assert p.grad.isfinite().all(), key
        assert p.grad.count_nonzero() > 0, key


def check_batch_mates(net: nn.Module, x: Tensor) -> None:
    """In evaluation a sample's output is the same in any company.

    In float64: deep networks of wavy functions enlarge rounding.
    """
    net.eval().double()
    x = x if x.dtype == torch.int64 else x.double()
    with torch.no_grad():
        whole = net(x)
        torch.testing.assert_close(whole[2:3], net(x[2:3]), rtol=1e-4, atol=1e-5)
        mates = x[:2].flip(0) if x.dtype == torch.int64 else 1e3 * x[:2]
        far = torch.cat([mates, x[2:]])
        torch.testing.assert_close(net(far)[2:], whole[2:], rtol=1e-4, atol=1e-5)


def check_causality(net: nn.Module, x: Tensor) -> None:
    """Other inputs from a position on leave all outputs before it as they are, and change it."""
    net.eval().double()
    x = x if x.dtype == torch.int64 else x.double()
    dim = 2 if x.dim() == 4 else 1  # an image is read row by row
    place = x.shape[dim] // 2
    past, future = x.split((place, x.shape[dim] - place), dim)
    changed = OUTPUTS - 1 - future if x.dtype == torch.int64 else -2 * future
    with torch.no_grad():
        before = net.every_position(x)
        after = net.every_position(torch.cat([past, changed], dim))
    torch.testing.assert_close(after[:, :place], before[:, :place], rtol=1e-5, atol=1e-6)
    assert (after[:, place] - before[:, place]).abs().amax(-1).min() > 0


def layers_of(net: nn.Module) -> dict[str, KANLayer]:
    return {key: m for key, m in net.named_modules() if isinstance(m, KANLayer)}


def is_kan(layer: KANLayer) -> bool:
    return layer.expansion.num_functions > 1
