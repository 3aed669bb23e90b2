"""Networks on disk: weights, and beside them as JSON how to build the network.

Neither file can run code. The JSON names classes of kanzoo and plain values, and everything in it
is checked before a network is built; weights are safetensors, or the tensors of a checkpoint: both
files may come from anyone.
"""

import io
import json
import math
import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from kanzoo import __version__, zoo
from kanzoo.checks import check_keywords, check_name
from kanzoo.files import read_file, read_json, unseal, write_atomic
from kanzoo.layers.edges import STRUCTURE
from kanzoo.models.base import Architecture
from kanzoo.models.recipe import FORMAT, build_recipe, check_recipe

SUFFIXES = (".safetensors", ".json")
RECIPE = Path("checkpoints", "network.json")  # in the folder of a run
MARKS = tuple(
    f".{name}" for name in (*STRUCTURE, "given_affine")
)  # that any layer can take from its state
MAX_JSON = 2**20  # bytes
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
    try:
        text = _text(recipe, model.training)
        like = build_recipe(check_recipe(json.loads(text)), "meta")
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


def save_recipe(net: Architecture, folder: Path) -> None:
    """Write into the folder of a run how to build its network, which `load` goes by."""
    assert net.recipe is not None
    path = folder / RECIPE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, _text(net.recipe, training=False))


@check_keywords
def load(
    path: str | os.PathLike[str],
    *,
    checkpoint: str = "best",
    device: torch.device | str = "cpu",
) -> Architecture:
    """The network that `save` wrote, that a run has trained, or a trained member of the zoo.

    Parameters
    ----------
    path
        What `save` was given, or either of its files: the network comes in the mode in which it was
        saved. Or the folder of a run: the network comes in evaluation mode and in the dtype that it
        was trained in. Or `zoo:NAME`, a member that `kanzoo.zoo.names()` lists, in evaluation mode.
    checkpoint
        Of a run: "best", by the metric of its validation data, or "last".
    device
        Where the network shall be.

    Raises
    ------
    ValueError
        In one line, for files that are damaged, do not belong together or ask for anything but a
        network of kanzoo.
    """
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"path must name a file or the folder of a run, got {path!r}")
    try:
        torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"device must be one of PyTorch's, as cpu or cuda:0, got {device!r}"
        ) from error
    if isinstance(path, str) and path.startswith(zoo.PREFIX):
        path = zoo.path(path)
    if Path(path).is_dir():
        config_path, weights_path = Path(path) / RECIPE, find_checkpoint(Path(path), checkpoint)
    else:
        config_path, weights_path = _paths(path)
    config = _read(config_path)
    state = _read_weights(weights_path)
    try:
        config = check_recipe(config)
        _check_size(config, state)
        net = build_recipe(config, "cpu")
    except Exception as error:  # whatever a constructor says to values that it was not made for
        raise ValueError(f"{config_path}: {_one_line(error)}") from error
    try:
        _match_dtypes(net, state)
        net.load_state_dict(state)
    except (RuntimeError, ValueError) as error:
        text = f"{weights_path} does not fit {config_path.name}: {_one_line(error)}"
        raise ValueError(text) from error
    return net.train(config["training"]).to(device)


def find_checkpoint(folder: Path, name: str) -> Path:
    """A checkpoint in the folder of a run; `ValueError` where there is none of this name."""
    if not (folder / "config.yaml").is_file():
        raise ValueError(f"{folder} is not the folder of a run: it holds no config.yaml")
    names = sorted(path.stem for path in (folder / "checkpoints").glob("*.ckpt"))
    check_name("checkpoint", name, names)
    return folder / "checkpoints" / f"{name}.ckpt"


def _text(recipe: dict[str, Any], training: bool) -> str:
    config = {"format": FORMAT, "kanzoo": __version__, "training": training, **recipe}
    return json.dumps(config, indent=2, allow_nan=False) + "\n"


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
        return read_json(path)
    except ValueError as error:
        raise ValueError(f"{path} is not readable JSON: {_one_line(error)}") from error


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ValueError(f"{path} does not exist: a network is saved as NAME.safetensors and .json")
    if path.suffix == ".ckpt":
        return _read_network(path)
    try:
        return load_file(path)
    except (SafetensorError, KeyError, OSError) as error:
        raise ValueError(f"{path} is not a whole safetensors file: {_one_line(error)}") from error


def read_checkpoint(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """What a checkpoint of a run holds, tensors and plain values; `ValueError` if it is damaged."""
    try:
        archive = io.BytesIO(unseal(read_file(path, math.inf)))
        with zipfile.ZipFile(archive) as entries:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.infolist()):
                raise ValueError("it is compressed, and might unpack to any size")
        archive.seek(0)
        content = torch.load(archive, map_location=map_location, weights_only=True)
    except Exception as error:  # whatever unpickling says to a file that is none
        raise ValueError(f"{path} is damaged: {_one_line(error)}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a checkpoint of a run")
    return content


def _read_network(path: Path) -> dict[str, Tensor]:
    """The network's tensors in a checkpoint of a run."""
    state = read_checkpoint(path).get("state_dict", {})
    named = {str(k).removeprefix("net."): v for k, v in state.items() if k.startswith("net.")}
    if not named or not all(isinstance(value, Tensor) for value in named.values()):
        raise ValueError(f"{path} is not a checkpoint of a run: it holds no network")
    return named


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
        expected = build_recipe(config, "meta").state_dict()
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
