"""The registry is the folder `conf/`: one YAML file per basis, model, data set and so on."""

import difflib
import importlib
import inspect
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ALLOWED_TARGETS = ("kanzoo.", "torch.optim.", "torch.nn.", "lightning.pytorch.")


@cache
def conf_dir() -> Path:
    """The folder of configuration files: inside an installed package, else beside it."""
    package = Path(__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"no configuration folder beside or inside {package}")


def names(group: str) -> list[str]:
    """Sorted names of the files of one configuration group."""
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


def options(group: str, name: str) -> dict[str, Any]:
    """Options in `conf/GROUP/NAME.yaml`; an unknown name raises `ValueError`.

    What the file chooses in other groups, its `defaults`, is for Hydra alone.
    """
    check_name(group, name, names(group))
    with (conf_dir() / group / f"{name}.yaml").open(encoding="utf-8") as file:
        content = yaml.safe_load(file) or {}
    content.pop("defaults", None)
    return content


def check_name(kind: str, name: object, allowed: Iterable[str]) -> None:
    """Raise a `ValueError` that lists the allowed names and the nearest unless `name` is one."""
    allowed = list(allowed)
    if name not in allowed:
        raise ValueError(f"unknown {kind} {str(name)!r}: {nearest(str(name), allowed)}")


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Text that lists the allowed names and the one most like `name`."""
    allowed = list(allowed)
    near = difflib.get_close_matches(name, allowed, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"allowed are {', '.join(allowed) or 'none'}{hint}"


def locate(target: str) -> type:
    """The class that a `_target_` names; only classes of the allowed packages are returned.

    A configuration found beside a checkpoint must not be able to run code, so the class must also
    have been defined there: `kanzoo.some_module.os.system` is refused.
    """
    refusal = ValueError(
        f"_target_ {target!r} is not allowed: it must be a class under {', '.join(ALLOWED_TARGETS)}"
    )
    if not isinstance(target, str) or not target.startswith(ALLOWED_TARGETS):
        raise refusal
    module_name, _, class_name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"_target_ {target!r} cannot be imported: {error}") from error
    if not inspect.isclass(found) or not f"{found.__module__}.".startswith(ALLOWED_TARGETS):
        raise refusal
    return found


def instantiate(node: dict[str, Any], *args: Any, **extra: Any) -> Any:
    """Build the object that a configuration node describes; its keys are keyword arguments.

    Raises `ValueError` for keys that the class does not have and values of a wrong type.
    """
    keywords = {key: value for key, value in node.items() if key != "_target_"}
    try:
        return locate(node["_target_"])(*args, **keywords, **extra)
    except TypeError as error:
        raise ValueError(f"{node['_target_']}: {error}") from error
