"""Configurations by Hydra, and checks that refuse a typo before anything heavy is imported."""

import copy
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import hydra
import yaml
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kanzoo import registry
from kanzoo.checks import check_name, check_value, field_kinds, nearest
from kanzoo.rundir import Config, flatten
from kanzoo.settings import CompareConfig, EvaluateConfig, ExplainConfig, RunConfig

OPTIONAL_GROUPS = ("experiment", "debug")
RESOLVER = r"\$\{.*:"  # ${oc.env:NAME} and its kind; not ${key}
FROM_ENVIRONMENT = ("data.root", "root")
ROOTS: dict[str, type] = {
    "train": RunConfig,
    "compare": CompareConfig,
    "evaluate": EvaluateConfig,
    "explain": ExplainConfig,
}


class Extensions(SearchPathPlugin):
    """Hydra finds the configuration files of extensions beside those of kanzoo."""

    @classmethod
    def register(cls) -> None:
        """Make Hydra know this plugin; restoring Hydra's state forgets it."""
        Plugins.instance().register(cls)

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in registry.conf_dirs()[1:]:
            search_path.append("extension", f"file://{folder}")


def compose(config_name: str, overrides: list[str]) -> Config:
    """The checked, resolved configuration of a list of overrides, as plain values."""
    overrides = selections(config_name, overrides)
    config = check_overrides(config_name, overrides)
    return to_plain(config, dict(config.hydra.runtime.choices))


class Composer:
    """`compose` for many lists of overrides: every file of a group is read once.

    The choice of a group decides its node and perhaps others, as data choose a task; beside that,
    groups do not refer to each other, so that a configuration is made of them and of the single
    values that change in them. What is not as simple as that goes the long way.
    """

    def __init__(self, config_name: str) -> None:
        self.config_name = config_name
        self.groups, _ = _root_names(config_name)
        self.parser = OverridesParser.create()
        self.base = compose(config_name, [])
        self.nodes: dict[str, dict[str, tuple[object, str]]] = {}
        self.values: dict[str, object] = {}

    def __call__(self, overrides: list[str]) -> Config:
        """The checked, resolved configuration of a list of overrides."""
        names = [word.partition("=")[0].lstrip("+") for word in overrides]
        groups = [name for name in names if name in self.groups]
        plain = all(re.fullmatch(r"\+*[a-z_]+(\.[a-z_]+)*=[^$]*", word) for word in overrides)
        known = not {*groups} & {*OPTIONAL_GROUPS} and "choices" not in names
        if not (plain and known) or len(set(groups)) < len(groups):
            return compose(self.config_name, overrides)
        schema, choices = dict(self.base), dict(self.base["choices"])
        words = [w for n, w in zip(names, overrides, strict=True) if n in self.groups]
        for chosen in (self._nodes(word) for word in words):
            for name, (node, choice) in chosen.items():
                if name not in groups:  # data choose their task, unless one is chosen
                    schema[name], choices[name] = node, choice
        for name, word in zip(groups, words, strict=True):
            schema[name], choices[name] = self._nodes(word)[name]
        config = copy.deepcopy({**schema, "choices": choices})
        for name, word in zip(names, overrides, strict=True):
            if name in self.groups:
                continue
            *path, key = name.split(".")
            node = _inside(config, path)
            if key not in node or isinstance(node[key], dict):
                return compose(self.config_name, overrides)  # which knows what to say
            node[key] = self._value(word)
        for key in {name.split(".")[0] for name in names if name not in self.groups}:
            _check_section(self.config_name, key, config[key], schema[key])
        return config

    def _nodes(self, word: str) -> dict[str, tuple[object, str]]:
        """The nodes that the choice of a group changes, and their names; its own in any case."""
        if word not in self.nodes:
            group = word.partition("=")[0].lstrip("+")
            name = str(self._value(word))
            _check_choice(group, name)
            config = _compose(self.config_name, [f"{group}={name}"])
            plain = to_plain(config, dict(config.hydra.runtime.choices))
            self.nodes[word] = {
                key: (plain[key], choice)
                for key, choice in plain["choices"].items()
                if key == group or choice != self.base["choices"].get(key)
            }
        return self.nodes[word]

    def _value(self, word: str) -> object:
        if word not in self.values:
            with _one_line():
                (override,) = self.parser.parse_overrides([word])
            if override.is_sweep_override():
                raise ValueError(f"{word!r} has several values: a run takes one")
            self.values[word] = override.value()
        return copy.deepcopy(self.values[word])


def _inside(values: Config, path: list[str]) -> Config:
    """The node at a path, empty where there is none."""
    for part in path:
        values = values.get(part) or {}
        if not isinstance(values, dict):
            return {}
    return values


def to_plain(config: DictConfig, choices: Mapping[str, str | None]) -> Config:
    """Plain resolved values, with the names chosen in the groups under `choices`."""
    masked = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    for key, value in flatten(_raw(masked)).items():
        if key not in FROM_ENVIRONMENT and re.search(RESOLVER, str(value)):
            raise ValueError(
                f"{key}={value} would write a value of the environment into the files of a run; "
                f"only {' and '.join(FROM_ENVIRONMENT)} may come from there"
            )
    with _one_line():
        plain = OmegaConf.to_container(masked, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    values = {str(key): value for key, value in plain.items()}
    groups = {key: name for key, name in choices.items() if "/" not in key and name is not None}
    return {**values, "choices": groups} if groups else values


def selections(config_name: str, overrides: list[str]) -> list[str]:
    """Overrides in which names of what a study has select among that, as `study.models=[mlp]`."""
    if config_name != "compare":
        return overrides
    return [re.sub(r"^study\.(data|models|arms)=(?!\{)", r"study.select.\1=", w) for w in overrides]


def check_overrides(
    config_name: str, overrides: list[str], *, multirun: bool = False
) -> DictConfig:
    """The configuration of a list of overrides, of several values the first.

    Raises a `ValueError` of one line for an unknown key or group, or a value of a wrong kind.

    The files of `conf/` are the schema: a key that the chosen files do not have is refused, also
    with Hydra's `+`, which would otherwise add it and have no effect.
    """
    parsed = parse_overrides(overrides)
    groups, keys = _root_names(config_name)
    plain: list[str] = []
    for override in parsed:
        text = str(override.input_line)
        name = override.key_or_group
        if re.split(r"[./@]", name)[0] == "hydra":
            continue
        if override.is_delete():
            raise ValueError(
                f"{text!r}: keys cannot be removed, only changed; most can be null, as {name}=null"
            )
        if "." not in name:
            check_name("key", name, [*groups, *keys])
        if name in groups and text.startswith("+"):
            raise ValueError(f"{text!r}: a file of a group is chosen without +: {text.lstrip('+')}")
        values = _values(override)
        if len(values) > 1 and not multirun:
            raise ValueError(f"{text!r} has several values: add -m to run them all")
        if name in groups:
            for value in values:
                _check_choice(name, value)
        for value in values[1:]:
            check_overrides(config_name, [*plain, f"{name}={value}"], multirun=True)
        plain.append(f"{name}={values[0]}" if values else text.lstrip("+"))
    # Hydra takes any key after "++", so that unknown ones are reported in one place.
    forced = [word if word.split("=")[0] in groups else f"++{word}" for word in plain]
    final = _compose(config_name, forced)
    if not multirun and any(re.match(r"\+*hydra|\+[^+]", word) for word in overrides):
        _compose(config_name, overrides)  # what Hydra says to them as they are
    if multirun and final.trainer.get("strategy") != "auto":
        raise ValueError(
            "-m cannot run multi-process trainers one after the other: start one run at a time, "
            "or a study with scripts/compare.py"
        )
    choices = dict(final.hydra.runtime.choices)
    chosen = [f"{g}={choices[g]}" for g in groups if g not in OPTIONAL_GROUPS and choices.get(g)]
    _check_keys(
        config_name, _raw(final), _schema(config_name, tuple(registry.conf_dirs()), *chosen)
    )
    return final


@cache
def _schema(config_name: str, folders: tuple[Path, ...], *choices: str) -> Config:
    """The values of the files that choices in groups name, of which all others are changes."""
    return _raw(_compose(config_name, list(choices)))


def parse_overrides(overrides: list[str]) -> list[Override]:
    """Overrides as Hydra reads them; `ValueError` names the one that it cannot read."""
    parser = OverridesParser.create()
    parsed = []
    for text in overrides:
        if re.search("[\ud800-\udfff]", text):
            raise ValueError(f"{text!r} is not text in UTF-8")
        try:
            parsed += parser.parse_overrides([text])
        except HydraException as error:
            raise ValueError(
                f"{text!r} cannot be read: it must be KEY=VALUE, and a value with other characters "
                "than letters, digits and _ - . / : % + @ in quotes of its own, as "
                """'name="a (b)"'"""
            ) from error
    return parsed


@contextmanager
def _one_line() -> Iterator[None]:
    """Errors of Hydra, OmegaConf and YAML as a `ValueError` of one line."""
    try:
        yield
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from error


def _compose(config_name: str, overrides: list[str]) -> DictConfig:
    state = Singleton.get_state()  # a study composes its cells inside a running Hydra job
    GlobalHydra.instance().clear()
    Extensions.register()
    try:
        with (
            _one_line(),
            hydra.initialize_config_dir(str(registry.conf_dir()), version_base="1.3"),
        ):
            return hydra.compose(config_name, overrides, return_hydra_config=True)
    finally:
        Singleton.set_state(state)


def _raw(config: DictConfig) -> Config:
    values = OmegaConf.to_container(config, resolve=False)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items() if key != "hydra"}


def _root_names(config_name: str) -> tuple[list[str], list[str]]:
    """Groups in the defaults list of a root file, and its own keys."""
    text = (registry.conf_dir() / f"{config_name}.yaml").read_text(encoding="utf-8")
    root = yaml.safe_load(text)
    defaults = [entry for entry in root.pop("defaults", []) if isinstance(entry, dict)]
    groups = [key for entry in defaults for key in entry if not key.startswith("override")]
    return groups, [key for key in root if key != "hydra" and key not in groups]


def _values(override: Override) -> list[str]:
    value = override.value()
    if isinstance(value, Glob):
        return [str(name) for name in value.filter(registry.names(override.key_or_group))]
    if override.is_sweep_override():
        return [str(value) for value in override.sweep_string_iterator()]
    return [str(override.get_value_element_as_str())]


def _check_choice(group: str, value: str) -> None:
    if group in OPTIONAL_GROUPS and value == "null":
        return
    check_name(group, value, registry.names(group))


def _check_keys(config_name: str, values: Config, schema: Config) -> None:
    """Refuse unknown keys, and values that are not what a section or a class takes."""
    for key in values:
        if key not in schema:
            raise ValueError(f"unknown key {key!r}: {nearest(key, schema)}")
        _check_section(config_name, key, values[key], schema[key])


def _check_section(config_name: str, key: str, value: object, default: object) -> None:
    """Check one key of a root file: a section with types of its own, or the options of a class."""
    if not isinstance(default, dict) or "_target_" not in default:
        check_value(key, value, field_kinds(ROOTS[config_name])[key])
        return
    if not isinstance(value, dict):
        raise ValueError(f"{key} must be chosen by {key}=..., got {value!r}")
    if not isinstance(default["_target_"], str):
        raise ValueError(f"{key}._target_ must name a class, got {default['_target_']!r}")
    kinds = registry.option_kinds(default["_target_"])
    for option, chosen in value.items():
        full = f"{key}.{option}"
        if option not in default:
            allowed = [f"{key}.{name}" for name in default if name != "_target_"]
            raise ValueError(f"unknown key {full!r}: {nearest(full, allowed)}")
        if option == "_target_" and chosen != default[option]:
            raise ValueError(f"{full} cannot be changed from the command line")
        kind = object if default[option] is None else type(default[option])
        check_value(full, chosen, kinds.get(option, kind))
