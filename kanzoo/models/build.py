"""From plain configuration values to objects: models with a solved budget, data, optimisers."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import torch
from torch import nn

from kanzoo import registry
from kanzoo.bases.base import Basis, BasisFactory, make_factory
from kanzoo.checks import check_name, check_whole
from kanzoo.layers.factory import LayerFactory
from kanzoo.layers.parameters import count_params
from kanzoo.models.base import Architecture
from kanzoo.models.budget import MATCHES, count_and_spoil, match_budget
from kanzoo.models.memory import check_memory, counting


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


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


def plan_model(
    name: str,
    cls: type[Architecture],
    options: dict[str, Any],
    layers: LayerFactory,
    in_shape: Iterable[int],
    num_outputs: int,
    match: str | None,
    budget: int | None = None,
) -> ModelPlan:
    """Check an architecture on the meta device and solve its size for the twin's budget.

    With a `budget`, in parameters or FLOPs as `match` says, every network is solved for that, the
    MLP twin too. `twin_params` and `twin_flops` are those of the twin of equal role: as given, or
    solved for the budget.
    Raises `ValueError` for options that cannot be and for roles that the architecture lacks.
    """
    match = match or "none"
    check_name("match", match, MATCHES)
    in_shape = tuple(in_shape)
    layers.check_roles(name, cls.roles_for(in_shape))

    def cost(counter: str, factory: LayerFactory, trial: dict[str, Any]) -> int:
        items = tuple(sorted((key, _hashable(value)) for key, value in trial.items()))
        return _count(counter, cls, in_shape, num_outputs, factory, items)  # type: ignore[arg-type]

    def solve(factory: LayerFactory, target: int) -> dict[str, Any]:
        return match_budget(
            lambda trial: cost(match, factory, trial),
            target,
            options,
            coarse=cls.coarse,
            step=cls.coarse_step(options),
            fine=cls.fine,
        ).options

    twin = layers.twin()
    twin_options = options if budget is None else solve(twin, check_budget(budget, match))
    solved = twin_options
    check_memory(cost("params", twin, twin_options))
    if layers.is_kan and match != "none":
        solved = solve(layers, budget or cost(match, twin, options))
    check_memory(cost("params", layers, solved))
    return ModelPlan(
        cls,
        in_shape,
        num_outputs,
        layers,
        solved,
        params=cost("params", layers, solved),
        flops=cost("flops", layers, solved),
        twin_params=cost("params", twin, twin_options),
        twin_flops=cost("flops", twin, twin_options),
    )


def check_budget(budget: object, match: str) -> int:
    """The budget, if it is one; `ValueError` of one line otherwise."""
    budget = check_whole("budget", budget, 1)
    if match == "none":
        raise ValueError(f"budget={budget} has no effect with match=none; use params or flops")
    return budget


_FLOPS: dict[Any, int] = {}


@cache
def _count(
    counter: str,
    cls: type[Architecture],
    in_shape: tuple[int, ...],
    num_outputs: int,
    layers: LayerFactory,
    options: tuple[tuple[str, Any], ...],
) -> int:
    with torch.random.fork_rng(devices=[]), torch.device("meta"), counting(dict(options)):
        net = cls(in_shape, num_outputs, layers, **dict(options))
    if counter == "params":
        return count_params(net)
    # Trimming tries many values of the fine option that round to the same sizes.
    same = tuple(option for option in options if option[0] != cls.fine)
    key = (cls, in_shape, num_outputs, layers, same, *(p.shape for p in net.parameters()))
    if key not in _FLOPS:
        _FLOPS[key] = count_and_spoil(net, in_shape)
    return _FLOPS[key]


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
    budget: int | None = None,
) -> ModelPlan:
    """The plan of a `conf/model` node."""
    options = {key: value for key, value in model.items() if key != "_target_"}
    cls = registry.locate(model["_target_"])
    if not issubclass(cls, Architecture):
        raise ValueError(f"model {model['_target_']} is not a kanzoo.models.base.Architecture")
    return plan_model(
        name or cls.__name__, cls, options, layers, in_shape, num_outputs, match, budget
    )


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

    Parameters
    ----------
    name : str
        Architecture, one of `kanzoo.list_models()`.
    layers : str, default "kan"
        Where KAN layers go, a name of `conf/layers`: "kan" (everywhere), "kan_ffn" or "mlp"
        (nowhere: the MLP twin).
    basis : str or BasisFactory, default "bspline"
        Basis of the KAN layers: one of `kanzoo.list_bases()`, or `kanzoo.get_basis(...)`.
    kan_roles : str or iterable of str, optional
        Roles that are KAN in place of those of `layers`: "all", one or several of those that the
        architecture declares (docs/models.md).
    in_shape : iterable of int, default (1, 28, 28)
        Shape of one sample, without the batch.
    num_outputs : int, default 10
        Classes, symbols or values that the network gives.
    match : {"params", "flops", "none"}, optional
        What is solved to equal that of the MLP twin with the same options: trainable parameters,
        forward FLOPs, or nothing (None).
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
    for key in options:
        check_name(f"option of model {name!r}", key, [k for k in node if k != "_target_"])
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
