"""Networks on disk: weights as safetensors, how to build the network as JSON beside them.

Neither file can run code. The JSON names classes of kanzoo and plain values, and everything in it
is checked before a network is built: `NAME.safetensors` and `NAME.json` may come from anyone.
"""

import inspect
import json
import logging
import math
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from kanzoo import __version__, kernels, registry
from kanzoo.bases.base import Basis, BasisFactory, make_factory
from kanzoo.layers.edges import STRUCTURE
from kanzoo.layers.factory import LayerFactory
from kanzoo.models.base import Architecture
from kanzoo.models.build import construct
from kanzoo.rundir import write_atomic

log = logging.getLogger("kanzoo")

FORMAT = 1
KEYS = (
    *("format", "kanzoo", "training"),
    *("model", "layers", "basis", "basis_name", "in_shape", "num_outputs"),
)
SUFFIXES = (".safetensors", ".json")
MARKS = tuple(f".{name}" for name in STRUCTURE)  # that any layer can take from its state
MAX_JSON = 2**20  # bytes
MAX_NUMBER = 2**24  # of any size or count in a recipe
MAX_BASIS = 2**12  # of any in a basis, whose grid is computed before weights can be compared
MAX_GROWTH = 100  # numbers that are built for every one stored: grids may have been coarsened


def save(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a network of the zoo to `PATH.safetensors` and `PATH.json`, each in one step.

    `path` may carry either suffix. Stored are all parameters and buffers in their dtypes, grids of
    any size among them, and whether the network was in training or evaluation mode; not which
    parameters were frozen. A network that `create_model` did not build, or that was changed since
    (by `kanify`, say), has no recipe to build it again and is a `ValueError`.
    """
    config_path, weights_path = _paths(path)
    recipe = getattr(model, "recipe", None) if isinstance(model, Architecture) else None
    if recipe is None:
        raise ValueError(
            f"{type(model).__name__} was not built by kanzoo.create_model, so its recipe is "
            "unknown: save its state_dict() by safetensors, and to load it build and kanify the "
            "network as before, then load_state_dict"
        )
    config = {"format": FORMAT, "kanzoo": __version__, "training": model.training, **recipe}
    try:
        text = json.dumps(config, indent=2, allow_nan=False) + "\n"
        like = _build(_check(json.loads(text)), "meta")
    except (TypeError, ValueError) as error:
        raise ValueError(f"the network cannot be saved: {error}") from error
    if _structure(like) != _structure(model):
        raise ValueError(
            "the network was changed after create_model had built it, so its recipe is unknown: "
            "save its state_dict() by safetensors, and to load it build and change the network as "
            "before, then load_state_dict"
        )
    config_path.parent.mkdir(parents=True, exist_ok=True)
    temporary = weights_path.with_name(f".{weights_path.name}.{os.getpid()}")
    try:
        save_file(_separate(model.state_dict()), temporary, metadata={"format": "pt"})
        temporary.replace(weights_path)
    finally:
        temporary.unlink(missing_ok=True)
    write_atomic(config_path, text)


def load(path: str | os.PathLike[str], *, device: torch.device | str = "cpu") -> Architecture:
    """The network that `save` wrote, in the mode in which it was saved.

    `path` is that of `save`, or of either file. Files that are damaged, do not belong together or
    ask for anything but a network of kanzoo are a `ValueError` of one line.
    """
    config_path, weights_path = _paths(path)
    config = _read(config_path)
    state = _read_weights(weights_path)
    try:
        config = _check(config)
        _check_size(config, state)
        net = _build(config, "cpu")
    except Exception as error:  # whatever a constructor says to values that it was not made for
        raise ValueError(f"{config_path}: {_one_line(error)}") from error
    try:
        _match_dtypes(net, state)
        net.load_state_dict(state)
    except (RuntimeError, ValueError) as error:
        text = f"{weights_path} does not fit {config_path.name}: {_one_line(error)}"
        raise ValueError(text) from error
    return net.train(config["training"]).to(device)


def _paths(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """The JSON and the safetensors file that a path stands for."""
    path = Path(path)
    stem = path.stem if path.suffix in SUFFIXES else path.name
    if not stem:
        raise ValueError(f"{str(path)!r} names no file")
    return path.with_name(f"{stem}.json"), path.with_name(f"{stem}.safetensors")


def _structure(net: nn.Module) -> tuple[list[tuple[str, type]], set[str]]:
    """Modules and names of tensors, without what marks edges: any layer can take that."""
    names = {name for name in net.state_dict() if not name.endswith(MARKS)}
    return [(name, type(part)) for name, part in net.named_modules()], names


def _separate(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors on the CPU, no two of which share memory."""
    apart: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in state.items():
        tensor = value.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    return apart


def _read(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"{path} does not exist: a network is saved as NAME.safetensors and .json")
    if path.stat().st_size > MAX_JSON:
        raise ValueError(f"{path} is too large to be the configuration of a network")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not readable JSON: {_one_line(error)}") from error


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ValueError(f"{path} does not exist: a network is saved as NAME.safetensors and .json")
    try:
        return load_file(path)
    except (SafetensorError, KeyError, OSError) as error:
        raise ValueError(f"{path} is not a whole safetensors file: {_one_line(error)}") from error


def _check(config: Any) -> dict[str, Any]:
    """The configuration, if it has the known keys, plain values and sane sizes."""
    if not isinstance(config, dict):
        raise ValueError("it holds no configuration")
    if "format" in config and config["format"] != FORMAT:
        raise ValueError(f"format {config['format']!r} is not {FORMAT}, which this version reads")
    for key in config:
        registry.check_name("key", key, KEYS)
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


def _class(node: dict[str, Any], kind: type) -> tuple[Any, dict[str, Any]]:
    """The class that a node names, which must be of a kind, and its options, which it must have."""
    options = {key: value for key, value in node.items() if key != "_target_"}
    target = node.get("_target_")
    if not isinstance(target, str) or not target.startswith(registry.packages()):
        raise ValueError(f"_target_ {target!r} is not a class of kanzoo")
    cls = registry.locate(target)
    if not issubclass(cls, kind) or inspect.isabstract(cls) or cls is kind:
        raise ValueError(f"_target_ {target!r} is not a {kind.__module__}.{kind.__name__}")
    known = inspect.signature(cls).parameters.values()
    names = [p.name for p in known if p.kind is p.KEYWORD_ONLY]
    for key in options:
        registry.check_name(f"option of {cls.__name__}", key, set(names) - {"device", "dtype"})
    return cls, options


def _layers(config: dict[str, Any]) -> LayerFactory:
    """The layer factory of a checked configuration."""
    options = dict(config["layers"])
    known = [field.name for field in fields(LayerFactory) if field.init and field.name != "basis"]
    for key in options:
        registry.check_name("option of layers", key, known)
    if config["basis"] is None:
        return LayerFactory(**options)
    cls, basis_options = _class(config["basis"], Basis)
    basis: BasisFactory = make_factory(cls, config["basis_name"] or "", **basis_options)
    if options.get("backend") == "compiled":
        reason = kernels.unavailable_reason(order=basis_options.get("spline_order", 3))
        if reason is not None:
            log.warning("backend 'compiled' is not available here, 'auto' is used: %s", reason)
            options["backend"] = "auto"
    return LayerFactory(**options, basis=basis)


def _build(config: dict[str, Any], device: str) -> Architecture:
    """The network of a checked configuration; the global generators are left alone."""
    cls, options = _class(config["model"], Architecture)
    with torch.random.fork_rng(devices=[]):
        layers, shape = _layers(config), tuple(config["in_shape"])
        layers.check_roles(cls.__name__, cls.roles)
        with torch.device(device):
            return construct(cls, options, layers, shape, config["num_outputs"])


def _check_size(config: dict[str, Any], state: dict[str, Tensor]) -> None:
    """Raise `ValueError` unless the configuration and the stored weights name the same tensors.

    The network is built without memory, and no further than the stored weights go.
    """
    left = 2 * len(state) + 100  # tied parameters and ones replaced in construction come twice

    def count(_module: nn.Module, _name: str, _parameter: nn.Parameter) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError(f"it describes a far larger network than the {len(state)} tensors")

    handle = register_module_parameter_registration_hook(count)
    try:
        expected = _build(config, "meta").state_dict()
    finally:
        handle.remove()
    for kind, names in (
        ("lack", expected.keys() - state.keys()),
        ("have besides", {n for n in state if not n.endswith(MARKS)} - expected.keys()),
    ):
        if names:
            some = ", ".join(sorted(names)[:3])
            raise ValueError(f"the weights {kind} {len(names)} of its tensors, as {some}")
    stored = sum(tensor.numel() for tensor in state.values())
    if sum(tensor.numel() for tensor in expected.values()) > MAX_GROWTH * (stored + 1000):
        raise ValueError("it describes a far larger network than the stored weights")


def _match_dtypes(net: nn.Module, state: dict[str, Tensor]) -> None:
    """Give the network the dtypes of the stored tensors."""
    kinds = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    if len(kinds) == 1:
        net.to(kinds.pop())  # what is not stored, but follows the dtype, too
    for name, tensor in net.state_dict(keep_vars=True).items():
        dtype = state[name].dtype
        if tensor.is_floating_point() != dtype.is_floating_point or (
            not tensor.is_floating_point() and dtype != tensor.dtype
        ):
            raise ValueError(f"{name} is of {dtype}, not of {tensor.dtype}")
        if tensor.dtype != dtype:
            tensor.data = tensor.data.to(dtype)


def _one_line(error: Exception) -> str:
    """The message of an error without its line breaks, cut to a readable length."""
    text = " ".join(str(error).split())
    return text if len(text) <= 400 else f"{text[:400]} ..."
