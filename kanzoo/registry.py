"""The registry is the folder `conf/`: one YAML file per basis, model, data set and so on.

Packages named in the environment variable `KANZOO_EXTENSIONS` (commas between them) add to it: the
YAML files in the folder `conf/` beside their code, and classes of their own.
"""

import ast
import copy
import importlib
import inspect
import os
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from kanzoo.checks import check_name

ALLOWED_TARGETS = ("torch.optim.", "torch.nn.")  # beside packages()


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
        except Exception as error:  # whatever a module of somebody else's says
            raise ValueError(f"KANZOO_EXTENSIONS={name} cannot be imported: {error}") from error
        if file is None:
            raise ValueError(f"KANZOO_EXTENSIONS={name} is not a package with an __init__.py")
        folders[name] = Path(file).resolve().parent
    return folders


def packages() -> tuple[str, ...]:
    """Prefixes of the classes that are kanzoo's or of an extension."""
    return ("kanzoo.", *(f"{name}." for name in extensions()))


_added: list[Path] = []


def add_conf_dir(folder: Path) -> None:
    """Add a folder of configuration files for the rest of the process, as `--config-dir` does."""
    if not folder.is_dir():
        raise ValueError(f"--config-dir {folder} is not a folder")
    if folder.resolve() not in conf_dirs():
        _added.append(folder.resolve())
        targets.cache_clear()


def conf_dirs() -> list[Path]:
    """All folders of configuration files: that of kanzoo, those of extensions, and added ones."""
    return [conf_dir(), *(folder / "conf" for folder in extensions().values()), *_added]


def files(group: str) -> dict[str, Path]:
    """The files of one configuration group by name, sorted; experiments may lie in folders."""
    paths: dict[str, Path] = {}
    for folder in (conf / group for conf in conf_dirs()):
        for path in folder.glob("**/*.yaml" if group == "experiment" else "*.yaml"):
            name = path.relative_to(folder).with_suffix("").as_posix()
            if name in paths:
                raise ValueError(f"{path} has the name of {paths[name]}; choose another")
            paths[name] = path
    return dict(sorted(paths.items()))


def names(group: str) -> list[str]:
    """Sorted names of the files of one configuration group."""
    return list(files(group))


def options(group: str, name: str) -> dict[str, Any]:
    """Options in `conf/GROUP/NAME.yaml`; an unknown name raises `ValueError`.

    What the file chooses in other groups, its `defaults`, is for Hydra alone.
    """
    found = files(group)
    check_name(group, name, list(found))
    path = found[name]
    return copy.deepcopy(_content(path, path.stat().st_mtime_ns))


@cache
def _content(path: Path, changed: int) -> dict[str, Any]:
    """The options in a file, which is read again when it has changed."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not readable YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no options")
    content.pop("defaults", None)
    return content


@cache
def targets(group: str) -> frozenset[str]:
    """The classes that the files of a group name."""
    nodes = (options(group, name) for name in names(group))
    return frozenset(node["_target_"] for node in nodes if "_target_" in node)


def moved(target: str, group: str) -> str:
    """The class of that name which the files of a group know, the target itself if none is."""
    name = target.rpartition(".")[2]
    same = (known for known in targets(group) if known.rpartition(".")[2] == name)
    return next(same, target) if target.startswith(packages()) else target


def check_targets(config: Mapping[str, Any], groups: Iterable[str]) -> None:
    """Raise a `ValueError` where a configuration names a class that no file of its group names.

    A configuration may have been found beside a downloaded run: nothing of it is imported before.
    Classes that have moved since it was written are named as they are now.
    """
    for group in groups:
        target = config[group].get("_target_")
        if isinstance(target, str) and target not in targets(group):
            config[group]["_target_"] = target = moved(target, group)
        if not isinstance(target, str) or target not in targets(group):
            raise ValueError(
                f"{group}._target_ {target!r} is not allowed: it must be one of "
                f"{', '.join(sorted(targets(group)))}"
            )


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
        cls = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"_target_ {target!r} cannot be imported: {error}") from error
    if not inspect.isclass(cls) or not f"{cls.__module__}.".startswith(allowed):
        raise refusal
    return cls


def instantiate(node: dict[str, Any], *args: Any, **extra: Any) -> Any:
    """Build the object that a configuration node describes; its keys are keyword arguments.

    Raises `ValueError` for keys that the class does not have and values of a wrong type.
    """
    keywords = {key: value for key, value in node.items() if key != "_target_"}
    try:
        return locate(node["_target_"])(*args, **keywords, **extra)
    except TypeError as error:
        raise ValueError(f"{node['_target_']}: {error}") from error


# What an annotation means for a value of a YAML file.
KINDS: dict[str, Any] = {
    **{kind.__name__: kind for kind in (bool, int, float, str)},
    "Path": str,
    **dict.fromkeys(("list", "tuple", "Sequence", "Iterable"), list[object]),
    **dict.fromkeys(("dict", "Mapping"), dict[str, object]),
}


@cache
def option_kinds(target: str) -> dict[str, Any]:
    """The kinds of a class's keyword options, as its source annotates them.

    Read from the source, since to import it would take seconds. Options without an annotation that
    is made of names in `KINDS` are left out, as are classes of other packages.
    """
    if not isinstance(target, str) or not target.startswith(packages()):
        return {}
    module, _, name = target.rpartition(".")
    package, *parts = module.split(".")
    folder = {"kanzoo": Path(__file__).parent, **extensions()}[package]
    files = (folder.joinpath(*parts).with_suffix(".py"), folder.joinpath(*parts, "__init__.py"))
    file = next(filter(Path.is_file, files), None)
    if file is None:
        return {}
    tree = ast.parse(file.read_text(encoding="utf-8"))
    homes = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    kinds: dict[str, Any] = {}
    for cls in (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name):
        for base in cls.bases:
            if isinstance(base, ast.Name):
                kinds |= option_kinds(homes.get(base.id, f"{module}.{base.id}"))
        for node in cls.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                kinds[node.target.id] = _kind(node.annotation)  # of a dataclass
            elif isinstance(node, ast.FunctionDef) and node.name == "__init__":
                kinds |= {arg.arg: _kind(arg.annotation) for arg in node.args.kwonlyargs}
    return {key: kind for key, kind in kinds.items() if kind is not object}


def _kind(node: ast.expr | None) -> Any:
    """The type that an annotation means, `object` where it does not say."""
    match node:
        case ast.BinOp(left=left, right=right):
            kinds = (_kind(left), _kind(right))
            return object if object in kinds else kinds[0] | kinds[1]
        case ast.Constant(value=None):
            return None
        case ast.Subscript(value=value):
            return _kind(value)
        case ast.Name(id=name):
            return KINDS.get(name, object)
    return object
