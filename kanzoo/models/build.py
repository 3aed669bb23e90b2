"""From plain configuration values to objects: models with a solved budget, data, optimisers."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import nn

from kanzoo import registry
from kanzoo.bases.base import Basis, BasisFactory, make_factory
from kanzoo.checks import check_name, keywords_of
from kanzoo.layers.factory import LayerFactory
from kanzoo.layers.memory import check_memory
from kanzoo.models.base import Architecture
from kanzoo.models.calls import Shape
from kanzoo.models.cost import Cost
from kanzoo.models.solve import Budget, Sizes, describe, solve_sizes, solve_twin

NO_BUDGET = Budget()


@dataclass(frozen=True)
class ModelPlan:
    """An architecture with everything decided and counted, but no weights yet."""

    shape: Shape
    solved: Sizes
    twin: Sizes
    cost: Cost
    twin_cost: Cost
    kan_roles: tuple[str, ...]

    @property
    def options(self) -> dict[str, Any]:
        """The options of the architecture, solved."""
        return self.solved.options

    @property
    def layers(self) -> LayerFactory:
        """The layers, their basis solved."""
        return self.solved.layers

    @property
    def params(self) -> int:
        return self.cost.params

    @property
    def flops(self) -> int:
        return self.cost.flops

    @property
    def twin_params(self) -> int:
        return self.twin_cost.params

    @property
    def twin_flops(self) -> int:
        return self.twin_cost.flops

    @property
    def sizes(self) -> str:
        """The sizes beside the twin's, as a table shows them: "width 64 -> 64, heads 4, ..."."""
        return describe(self.shape.cls, self.twin, self.solved, self.kan_roles)

    def facts(self) -> dict[str, Any]:
        """What a run records: costs, sizes, and which roles are KAN."""
        return {
            **self.cost._asdict(),
            **{f"twin_{name}": value for name, value in self.twin_cost._asdict().items()},
            "options": self.options,
            "sizes": self.sizes,
            "trunk_changed": self.solved.trunk_changed,
            "kan_roles": list(self.kan_roles),
        }

    def build(self, seed: int | None = None) -> Architecture:
        """The network; with a seed, its weights depend on that alone and nothing is reseeded."""
        if seed is None:
            return self._construct()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._construct()

    def _construct(self) -> Architecture:
        shape = self.shape
        return construct(shape.cls, self.options, self.layers, shape.in_shape, shape.num_outputs)


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
    """The value with lists for tuples and without NumPy's numbers, as JSON has them."""
    if isinstance(value, np.generic):
        return value.item()
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
    budget: Budget = NO_BUDGET,
) -> ModelPlan:
    """Check an architecture and solve its size for a budget; no layer is built.

    The twin is as given, or solved for the amount of the budget.
    Raises `ValueError` for options that cannot be and for roles that the architecture lacks.
    """
    shape = Shape(cls, tuple(in_shape), num_outputs)
    declared = cls.roles_for(shape.in_shape)
    layers.check_roles(name, declared)
    layers = layers.resolve(cls.activated)
    twin = solve_twin(shape, layers, options, budget)
    twin_cost = shape.cost(twin.layers, twin.options)
    check_memory(twin_cost.params)
    solved = solve_sizes(shape, layers, options, budget)
    cost = shape.cost(solved.layers, solved.options)
    check_memory(cost.params)
    return ModelPlan(shape, solved, twin, cost, twin_cost, layers.roles_among(declared))


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
    budget: Budget = NO_BUDGET,
    name: str = "",
) -> ModelPlan:
    """The plan of a `conf/model` node."""
    options = {key: value for key, value in model.items() if key != "_target_"}
    cls = registry.locate(model["_target_"])
    if not issubclass(cls, Architecture):
        raise ValueError(f"model {model['_target_']} is not a kanzoo.models.base.Architecture")
    return plan_model(name or cls.__name__, cls, options, layers, in_shape, num_outputs, budget)


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
    match_scope: str = "roles",
    match_by: str = "size",
    seed: int | None = None,
    **options: Any,
) -> nn.Module:
    """A network of the zoo by name.

    Parameters
    ----------
    name : str
        Architecture, one of `kanzoo.list_models()`.
    layers : str, default "kan"
        Where KAN layers go, a name of `conf/layers`: "kan" (everywhere), "kan_activated",
        "kan_ffn" or "mlp" (nowhere: the MLP twin).
    basis : str or BasisFactory, default "bspline"
        Basis of the KAN layers: one of `kanzoo.list_bases()`, or `kanzoo.get_basis(...)`.
    kan_roles : str or iterable of str, optional
        Roles that are KAN in place of those of `layers`: "all", "activated" (those in which the MLP
        twin is not linear), one or several of those that the architecture declares
        (docs/models.md).
    in_shape : iterable of int, default (1, 28, 28)
        Shape of one sample, without the batch.
    num_outputs : int, default 10
        Classes, symbols or values that the network gives.
    match : {"params", "flops", "width", "none"}, optional
        What is solved to equal that of the MLP twin with the same options: trainable parameters,
        forward FLOPs, or nothing (None).
    match_scope : {"roles", "network"}, default "roles"
        What is solved for that: sizes inside the KAN roles, the trunk being kept where they
        suffice, or the width of the network.
    match_by : {"size", "grid"}, default "size"
        "grid" keeps all sizes and lowers the number of functions of the basis instead.
    seed : int, optional
        Seed that alone decides the weights; None draws them from PyTorch's generator.
    **options
        Options of the architecture, those of `conf/model/NAME.yaml`.

    Returns
    -------
    nn.Module
        The network, in training mode; inputs `(B, *in_shape)`.

    Raises
    ------
    ValueError
        For unknown names, with the nearest, and for options that cannot be.
    """
    node = registry.options("model", name)
    known = [key for key in (*node, *keywords_of(create_model)[0]) if key != "_target_"]
    for key in options:
        check_name(f"option of model {name!r}", key, known)
    layer_node = registry.options("layers", layers)
    if kan_roles is not None:
        layer_node["kan_roles"] = kan_roles
    factory = build_layers(layer_node, basis)
    budget = Budget(match or "none", match_scope, match_by)
    return build_plan({**node, **options}, factory, in_shape, num_outputs, budget, name).build(seed)


def list_models() -> list[str]:
    """Names for `create_model`."""
    return registry.names("model")


def list_bases() -> list[str]:
    """Names for `get_basis` and the `basis` option of layers and models."""
    return registry.names("basis")
