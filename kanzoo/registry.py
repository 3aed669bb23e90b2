"""The registry is the folder `conf/`: one YAML file per basis, model, data set and so on.

Packages named in the environment variable `KANZOO_EXTENSIONS` (commas between them) add to it: the
YAML files in the folder `conf/` beside their code, and classes of their own.
"""

import difflib
import importlib
import inspect
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ALLOWED_TARGETS = ("torch.optim.", "torch.nn.", "lightning.pytorch.")  # beside packages()


@cache
def conf_dir() -> Path:
    """The folder of configuration files: inside an installed package, else beside it."""
    package = Path(__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"no configuration folder beside or inside {package}")


@cache
def extensions() -> dict[str, Path]:
    """Packages that `KANZOO_EXTENSIONS` names, imported, and the folder of each."""
    folders = {}
    for name in filter(None, os.environ.get("KANZOO_EXTENSIONS", "").replace(" ", "").split(",")):
        try:
            file = importlib.import_module(name).__file__
        except ImportError as error:
            raise ValueError(f"KANZOO_EXTENSIONS={name} cannot be imported: {error}") from error
        if file is None:
            raise ValueError(f"KANZOO_EXTENSIONS={name} is not a package with an __init__.py")
        folders[name] = Path(file).resolve().parent
    return folders


def packages() -> tuple[str, ...]:
    """Prefixes of the classes that are kanzoo's or of an extension."""
    return ("kanzoo.", *(f"{name}." for name in extensions()))


def conf_dirs() -> list[Path]:
    """All folders of configuration files: that of kanzoo, then those of the extensions."""
    return [conf_dir(), *(folder / "conf" for folder in extensions().values())]


def files(group: str) -> dict[str, Path]:
    """The files of one configuration group by name, sorted."""
    found: dict[str, Path] = {}
    for folder in conf_dirs():
        for path in (folder / group).glob("*.yaml"):
            if path.stem in found:
                raise ValueError(f"{path} has the name of {found[path.stem]}; choose another")
            found[path.stem] = path
    return dict(sorted(found.items()))


def names(group: str) -> list[str]:
    """Sorted names of the files of one configuration group."""
    return list(files(group))


def options(group: str, name: str) -> dict[str, Any]:
    """Options in `conf/GROUP/NAME.yaml`; an unknown name raises `ValueError`.

    What the file chooses in other groups, its `defaults`, is for Hydra alone.
    """
    check_name(group, name, names(group))
    with files(group)[name].open(encoding="utf-8") as file:
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
    allowed = (*packages(), *ALLOWED_TARGETS)
    refusal = ValueError(
        f"_target_ {target!r} is not allowed: it must be a class under {', '.join(allowed)}"
    )
    if not isinstance(target, str) or not target.startswith(allowed):
        raise refusal
    module_name, _, class_name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"_target_ {target!r} cannot be imported: {error}") from error
    if not inspect.isclass(found) or not f"{found.__module__}.".startswith(allowed):
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
