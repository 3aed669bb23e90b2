"""The recipe of a network: named classes of kanzoo and plain values, checked before it is built."""

import inspect
import logging
import math
from dataclasses import fields
from typing import Any

import torch

from kanzoo import registry
from kanzoo.bases.base import Basis, BasisFactory, make_factory
from kanzoo.checks import check_name
from kanzoo.layers import KANLinear
from kanzoo.layers.factory import LayerFactory
from kanzoo.models.base import Architecture
from kanzoo.models.build import construct

log = logging.getLogger("kanzoo")

FORMAT = 1
KEYS = (
    *("format", "kanzoo", "training"),
    *("model", "layers", "basis", "basis_name", "in_shape", "num_outputs"),
)
MAX_NUMBER = 2**24  # of any size or count in a recipe
MAX_DEPTH = 2**10  # of any architecture, whose modules are made before weights can be compared
MAX_BASIS = 2**12  # of any in a basis, whose grid is computed before weights can be compared


def check_recipe(config: Any) -> dict[str, Any]:
    """The configuration, if it has the known keys, plain values and sane sizes."""
    if not isinstance(config, dict):
        raise ValueError("it holds no configuration")
    if "format" in config and config["format"] != FORMAT:
        raise ValueError(f"format {config['format']!r} is not {FORMAT}, which this version reads")
    for key in config:
        check_name("key", key, KEYS)
    missing = [key for key in KEYS if key not in config]
    if missing:
        raise ValueError(f"keys are missing: {', '.join(missing)}")
    shape = config["in_shape"]
    if not isinstance(shape, list) or not shape or not all(map(_is_size, shape)):
        raise ValueError(f"in_shape must be a list of positive whole numbers, got {shape!r}")
    if not _is_size(config["num_outputs"]) or math.prod(shape) > MAX_NUMBER:
        raise ValueError("in_shape or num_outputs is not a size that a network can have")
    if not isinstance(config["training"], bool):
        raise ValueError(f"training must be true or false, got {config['training']!r}")
    for key in ("model", "layers", "basis"):
        node = config[key]
        if not isinstance(node, dict) and not (key == "basis" and node is None):
            raise ValueError(f"{key} must hold named values, got {node!r}")
        for name, value in (node or {}).items():
            if not _is_plain(value, MAX_BASIS if key == "basis" else MAX_NUMBER):
                raise ValueError(f"{key}.{name} must be a plain value of sane size, got {value!r}")
    depth = config["model"].get("depth", 1)
    if isinstance(depth, int) and depth > MAX_DEPTH:
        raise ValueError(f"model.depth={depth} is above {MAX_DEPTH}")
    name = config["basis_name"]
    if name is not None and not isinstance(name, str):
        raise ValueError(f"basis_name must be a name, got {name!r}")
    return config


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_NUMBER


def _is_plain(value: object, limit: int) -> bool:
    """Whether a value is a scalar or a list of them, and no count above a limit."""
    if isinstance(value, list):
        return len(value) <= 64 and all(_is_scalar(entry) for entry in value)
    return _is_scalar(value) and (not isinstance(value, int) or abs(value) <= limit)


def _is_scalar(value: object) -> bool:
    if isinstance(value, (int, float)):
        return math.isfinite(value)
    return value is None or isinstance(value, str)


def _class(node: dict[str, Any], kind: type, group: str) -> tuple[Any, dict[str, Any]]:
    """The class that a node names, which must be of a kind, and its options, which it must have.

    One that has moved since the node was written is known by its name in a group of `conf/`.
    """
    options = {key: value for key, value in node.items() if key != "_target_"}
    target = node.get("_target_")
    if not isinstance(target, str) or not target.startswith(registry.packages()):
        raise ValueError(f"_target_ {target!r} is not a class of kanzoo")
    try:
        cls = registry.locate(target)
    except ValueError:
        cls = registry.locate(registry.moved(target, group))
    if not issubclass(cls, kind) or inspect.isabstract(cls) or cls is kind:
        raise ValueError(f"_target_ {target!r} is not a {kind.__module__}.{kind.__name__}")
    known = inspect.signature(cls).parameters.values()
    names = [p.name for p in known if p.kind is p.KEYWORD_ONLY]
    for key in options:
        check_name(f"option of {cls.__name__}", key, set(names) - {"device", "dtype"})
    return cls, options


def _layers(config: dict[str, Any]) -> LayerFactory:
    """The layer factory of a checked configuration."""
    options = dict(config["layers"])
    known = [field.name for field in fields(LayerFactory) if field.init and field.name != "basis"]
    for key in options:
        check_name("option of layers", key, known)
    if config["basis"] is None:
        return LayerFactory(**options)
    cls, basis_options = _class(config["basis"], Basis, "basis")
    basis: BasisFactory = make_factory(cls, config["basis_name"] or "", **basis_options)
    factory = LayerFactory(**options, basis=basis)
    try:
        KANLinear(2, 1, basis=basis, backend=factory.backend)
    except ValueError as error:
        log.warning("backend 'auto' is used: %s", error)
        factory = LayerFactory(**options | {"backend": "auto"}, basis=basis)
    return factory


def build_recipe(config: dict[str, Any], device: str) -> Architecture:
    """The network of a checked configuration; the global generators are left alone."""
    cls, options = _class(config["model"], Architecture, "model")
    with torch.random.fork_rng(devices=[]):
        layers, shape = _layers(config), tuple(config["in_shape"])
        layers.check_roles(cls.__name__, cls.roles)
        with torch.device(device):
            return construct(cls, options, layers, shape, config["num_outputs"])
