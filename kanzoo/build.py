"""From plain configuration values to objects: models with a solved budget, data, optimisers."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import torch
from torch import nn

from kanzoo import registry
from kanzoo.bases.base import Basis, BasisFactory, make_factory
from kanzoo.layers.factory import LayerFactory
from kanzoo.models.base import Architecture
from kanzoo.study.budget import MATCHES, count_flops, count_params, match_budget


@dataclass(frozen=True)
class ModelPlan:
    """An architecture with everything decided and counted, but no weights yet."""

    cls: type[Architecture]
    in_shape: tuple[int, ...]
    num_outputs: int
    layers: LayerFactory
    options: dict[str, Any]
    params: int
    flops: int
    twin_params: int
    twin_flops: int

    def build(self, seed: int | None = None) -> Architecture:
        """The network; with a seed, its weights depend on that alone and nothing is reseeded."""
        if seed is None:
            return self._construct()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._construct()

    def _construct(self) -> Architecture:
        return construct(self.cls, self.options, self.layers, self.in_shape, self.num_outputs)


def construct(
    cls: type[Architecture],
    options: dict[str, Any],
    layers: LayerFactory,
    in_shape: tuple[int, ...],
    num_outputs: int,
) -> Architecture:
    """The network, which remembers how it was built as `recipe`: plain values that JSON can hold.

    A basis without a role is left out.
    """
    net = cls(in_shape, num_outputs, layers, **options)
    names = [field.name for field in fields(layers) if field.init and field.name != "basis"]
    basis = layers.basis
    assert isinstance(basis, BasisFactory)
    net.recipe = {
        "model": {"_target_": _target(cls), **_plain(options)},
        "layers": {name: _plain(getattr(layers, name)) for name in names},
        "basis": {"_target_": _target(basis.cls), **_plain(dict(basis.options))}
        if layers.is_kan
        else None,
        "basis_name": basis.name if layers.is_kan else None,
        "in_shape": list(in_shape),
        "num_outputs": num_outputs,
    }
    return net


def _target(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _plain(value: Any) -> Any:
    """The value with lists for tuples, as JSON has them."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (tuple, list)) else value


def plan_model(
    name: str,
    cls: type[Architecture],
    options: dict[str, Any],
    layers: LayerFactory,
    in_shape: Iterable[int],
    num_outputs: int,
    match: str | None,
) -> ModelPlan:
    """Check an architecture on the meta device and solve its size for the twin's budget.

    Raises `ValueError` for options that cannot be and for roles that the architecture lacks.
    """
    match = match or "none"
    registry.check_name("match", match, MATCHES)
    in_shape = tuple(in_shape)
    layers.check_roles(name, cls.roles_for(in_shape))

    def cost(counter: str, factory: LayerFactory, trial: dict[str, Any]) -> int:
        items = tuple(sorted(trial.items()))
        return _count(counter, cls, in_shape, num_outputs, factory, items)  # type: ignore[arg-type]

    twin = layers.twin()
    solved = options
    if layers.is_kan and match != "none":
        solved = match_budget(
            lambda trial: cost(match, layers, trial),
            cost(match, twin, options),
            options,
            coarse=cls.coarse,
            step=cls.coarse_step(options),
            fine=cls.fine,
        ).options
    return ModelPlan(
        cls,
        in_shape,
        num_outputs,
        layers,
        solved,
        params=cost("params", layers, solved),
        flops=cost("flops", layers, solved),
        twin_params=cost("params", twin, options),
        twin_flops=cost("flops", twin, options),
    )


@cache
def _count(
    counter: str,
    cls: type[Architecture],
    in_shape: tuple[int, ...],
    num_outputs: int,
    layers: LayerFactory,
    options: tuple[tuple[str, Any], ...],
) -> int:
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        net = cls(in_shape, num_outputs, layers, **dict(options))
    return count_params(net) if counter == "params" else count_flops(net, in_shape)


def build_layers(
    layers: dict[str, Any], basis: dict[str, Any] | BasisFactory | str
) -> LayerFactory:
    """The layer factory of a `conf/layers` node with the basis of a `conf/basis` node."""
    if isinstance(basis, dict):
        keywords = {key: value for key, value in basis.items() if key != "_target_"}
        cls = registry.locate(basis["_target_"])
        if not issubclass(cls, Basis):
            raise ValueError(f"basis {basis['_target_']} is not a kanzoo.bases.base.Basis")
        basis = make_factory(cls, **keywords)
    return registry.instantiate(layers, basis=basis)


def build_plan(
    model: dict[str, Any],
    layers: LayerFactory,
    in_shape: Iterable[int],
    num_outputs: int,
    match: str | None,
    name: str = "",
) -> ModelPlan:
    """The plan of a `conf/model` node."""
    options = {key: value for key, value in model.items() if key != "_target_"}
    cls = registry.locate(model["_target_"])
    if not issubclass(cls, Architecture):
        raise ValueError(f"model {model['_target_']} is not a kanzoo.models.base.Architecture")
    return plan_model(name or cls.__name__, cls, options, layers, in_shape, num_outputs, match)


def check_kind(model: dict[str, Any], name: str, kind: str, data: str) -> None:
    """Raise a `ValueError` that names the models which can, unless this one takes such data."""
    kinds = registry.locate(model["_target_"]).kinds  # type: ignore[attr-defined]
    if kind in kinds:
        return
    able = [
        other
        for other in registry.names("model")
        if kind in registry.locate(registry.options("model", other)["_target_"]).kinds  # type: ignore[attr-defined]
    ]
    raise ValueError(
        f"data {data!r} are of kind {kind!r}, and model {name!r} takes {', '.join(kinds)}; "
        f"models for {kind!r} are {', '.join(able) or 'none'}"
    )


def create_model(
    name: str,
    *,
    layers: str = "kan",
    basis: str | BasisFactory = "bspline",
    kan_roles: str | Iterable[str] | None = None,
    in_shape: Iterable[int] = (1, 28, 28),
    num_outputs: int = 10,
    match: str | None = None,
    seed: int | None = None,
    **options: Any,
) -> nn.Module:
    """A network of the zoo by name.

    `layers` names a file of `conf/layers`, `kan_roles` overrides its roles ("all", one, several),
    `options` are those of `conf/model/NAME.yaml`. With `match`, the size is solved so that
    trainable parameters or forward FLOPs equal those of the MLP twin with the same options. With a
    seed, the weights depend on it alone. Unknown names raise `ValueError` with the nearest.
    """
    node = registry.options("model", name)
    for key in options:
        registry.check_name(f"option of model {name!r}", key, [k for k in node if k != "_target_"])
    layer_node = registry.options("layers", layers)
    if kan_roles is not None:
        layer_node["kan_roles"] = kan_roles
    factory = build_layers(layer_node, basis)
    plan = build_plan({**node, **options}, factory, in_shape, num_outputs, match, name)
    return plan.build(seed)


def list_models() -> list[str]:
    """Names for `create_model`."""
    return registry.names("model")


def list_bases() -> list[str]:
    """Names for `get_basis` and the `basis` option of layers and models."""
    return registry.names("basis")
