"""Written attacks: inputs that would run code if anything of them were executed."""

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import kanzoo
from kanzoo.data.formula import parse_formula
from kanzoo.files import seal
from kanzoo.models.weights import read_checkpoint
from kanzoo.rundir import read_config


class Code:
    """Unpickled it makes the file `owned` in the working folder."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("owned",)


def checkpoint(sealed: bool) -> Path:
    buffer = io.BytesIO()
    torch.save({"state_dict": Code()}, buffer)
    path = Path("last.ckpt")
    path.write_bytes(seal(buffer.getvalue()) if sealed else buffer.getvalue())
    return path


def plain_pickle() -> None:
    Path("last.ckpt").write_bytes(pickle.dumps(Code()))
    read_checkpoint(Path("last.ckpt"))


def network(weights: bytes | None = None, **changes: object) -> None:
    net = kanzoo.create_model("mlp", in_shape=(2,), num_outputs=1, width=2)
    kanzoo.save(net, "net")
    content = json.loads(Path("net.json").read_text())
    for key, value in changes.items():
        content[key] = {**content[key], **value} if isinstance(value, dict) else value
    Path("net.json").write_text(json.dumps(content))
    if weights is not None:
        Path("net.safetensors").write_bytes(weights)
    kanzoo.load("net")


def configuration(text: str) -> None:
    Path("config.yaml").write_text(text)
    read_config(Path("config.yaml"))


def arrays() -> None:
    with zipfile.ZipFile("items.npz", "w") as archive, archive.open("a.npy", "w") as file:
        np.lib.format.write_array(file, np.array([Code()], dtype=object), allow_pickle=True)
    with np.load("items.npz") as items:
        items["a"]


ATTACKS: dict[str, Callable[[], object]] = {
    "pickle as checkpoint": plain_pickle,
    "checkpoint without checksum": lambda: read_checkpoint(checkpoint(sealed=False)),
    "checkpoint with checksum": lambda: read_checkpoint(checkpoint(sealed=True)),
    "pickle as safetensors": lambda: network(pickle.dumps(Code())),
    "function as model": lambda: network(model={"_target_": "os.mkdir"}),
    "function behind a module of ours": lambda: network(
        model={"_target_": "kanzoo.files.os.mkdir"}
    ),
    "module of another folder": lambda: network(model={"_target_": "owned.module.Class"}),
    "function as basis": lambda: network(
        basis={"_target_": "kanzoo.registry.importlib.import_module"}
    ),
    "objects in YAML": lambda: configuration("name: !!python/object/apply:os.mkdir [owned]\n"),
    "names in YAML": lambda: configuration("name: !!python/name:os.mkdir\n"),
    "objects in arrays": arrays,
    "import in a formula": lambda: parse_formula("__import__('os').mkdir('owned')"),
    "attribute in a formula": lambda: parse_formula("x.__class__.__mro__[1]"),
    "function in a formula": lambda: parse_formula("eval(x)"),
    "lambda in a formula": lambda: parse_formula("(lambda: x)()"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_no_code_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        ATTACKS[name]()
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "change",
    [{"model": {"depth": 2**24}}, {"model": {"width": 2**24}}, {"basis": {"spline_order": 4096}}],
)
def test_sizes_that_no_file_holds_are_refused_at_once(
    change: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        network(None, **change)


@pytest.mark.parametrize("name", ["max", "min"])
def test_nested_choices_are_bounded(name: str) -> None:
    text = "x"
    for number in range(60):
        text = f"{name}({text}, sin(x{number}) + 1)"
    with pytest.raises(ValueError, match="more than 4 calls of max and min"):
        parse_formula(text)
    parse_formula(f"{name}(x, y)")
