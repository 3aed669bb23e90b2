"""conf/ as the registry: every file is the schema of one class, and no other class is reachable."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml

from kanzoo import registry

CONF = registry.conf_dir()
FILES = sorted(path.relative_to(CONF).with_suffix("").as_posix() for path in CONF.glob("*/*.yaml"))
TARGETS = [name for name in FILES if "_target_:" in (CONF / f"{name}.yaml").read_text()]
# Options of Lightning's trainer that are no choice of a run: kanzoo sets them, or leaves them be.
PARTIAL = ("trainer", "optim")


def keywords(cls: type) -> set[str]:
    """Keyword-only options over the whole inheritance."""
    found: set[str] = set()
    for parent in cls.__mro__:
        init = vars(parent).get("__init__")
        if init is None or parent is object:
            continue
        parameters = inspect.signature(init).parameters.values()
        found |= {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return found


def test_every_group_has_files() -> None:
    groups = {name.split("/")[0] for name in FILES}
    assert groups == {path.name for path in CONF.iterdir() if path.is_dir()}
    assert all((CONF / f"{name}.yaml").read_text().startswith("#") for name in FILES)


@pytest.mark.parametrize("name", TARGETS)
def test_keys_are_the_options_of_the_class(name: str) -> None:
    node = yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8"))
    node.pop("defaults", None)  # choices in other groups
    cls = registry.locate(node.pop("_target_"))
    group = name.split("/")[0]
    if group in PARTIAL:
        known = {p for parent in cls.__mro__ for p in inspect.signature(parent.__init__).parameters}
        assert set(node) <= known
    elif group == "layers":
        fields = set(inspect.signature(cls).parameters) - {"basis"}
        assert set(node) == {f for f in fields if not f.startswith("_")}
    else:
        place = {"device", "dtype"} if group == "basis" else set()  # a layer's, no option
        assert set(node) == keywords(cls) - place


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "subprocess.Popen",
        "torch.load",
        "torch.hub.load",
        "torch.nn.functional.relu",
        "kanzoo.train.logging.FileHandler",
        "kanzoo.registry.importlib.import_module",
        "kanzoo.registry.Path",
        "kanzoo.rundir.subprocess.Popen",
        "kanzoo.run.config.compose",
        "torch.nn.modules.module.Any",
        "torch.optim.optimizer.Counter",
        "kanzoo.models",
        "kanzoo.models.mlp.MPL",
        "kanzoo.models.mpl.MLP",
        "kanzooevil.models.MLP",
        "kanzoo..models.mlp.MLP",
        "kanzoo.",
        "",
        None,
        3,
        ["kanzoo.models.mlp.MLP"],
    ],
)
def test_other_targets_are_refused(target: Any) -> None:
    with pytest.raises(ValueError, match="_target_"):
        registry.locate(target)


def test_allowed_targets_are_found() -> None:
    from torch import nn, optim

    assert registry.locate("torch.optim.AdamW") is optim.AdamW
    assert registry.locate("torch.nn.GELU") is nn.GELU


def test_unknown_names_list_the_allowed_and_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown model 'vti': allowed are .*mlp.*mean 'vit'"):
        registry.options("model", "vti")
    with pytest.raises(ValueError, match="unknown model"):
        registry.options("model", "../train")


def test_wrong_options_of_a_node_are_value_errors() -> None:
    node = registry.options("task", "classification")
    with pytest.raises(ValueError, match="label_smooting"):
        registry.instantiate({**node, "label_smooting": 0.1})
    with pytest.raises(ValueError, match="Classification"):
        registry.instantiate({**node, "label_smoothing": "a lot"})


def test_the_folder_of_a_checkout_is_beside_the_package() -> None:
    assert Path(registry.__file__).resolve().parents[1] / "conf" == CONF
