"""Written attacks: inputs that would run code if anything of them were executed."""

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run
from fuzzing import in_process, time_limit

import kanzoo
from kanzoo import evaluate, train
from kanzoo.data.formula import parse_formula
from kanzoo.explain import explain
from kanzoo.files import read_arrays, read_json, seal
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


def written(text: str) -> Path:
    Path("result.json").write_text(text)
    return Path("result.json")


def arrays() -> None:
    with zipfile.ZipFile("items.npz", "w") as archive, archive.open("a.npy", "w") as file:
        np.lib.format.write_array(file, np.array([Code()], dtype=object), allow_pickle=True)
    read_arrays(Path("items.npz"))


def bomb(lines: Callable[[int], str]) -> Callable[[], None]:
    """A configuration whose lines name the ones before them again and again."""
    return lambda: configuration("\n".join(["a0: &a0 [x]", *map(lines, range(1, 30))]))


def compressed_checkpoint() -> None:
    """Zeros that unpack to a thousand times as much."""
    buffer = io.BytesIO()
    torch.save({"state_dict": {"net.w": torch.zeros(2**20)}}, buffer)
    packed = io.BytesIO()
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    Path("last.ckpt").write_bytes(seal(packed.getvalue()))
    read_checkpoint(Path("last.ckpt"))


def pipe(read: Callable[[Path], object]) -> Callable[[], object]:
    """A pipe that nobody writes to, in the place of a file."""

    def attack() -> object:
        os.mkfifo("pipe")
        return read(Path("pipe"))

    return attack


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
    "lists in YAML that grow": bomb(lambda n: f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]"),
    "mappings in YAML that grow": bomb(
        lambda n: f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}"
    ),
    "YAML that holds itself": lambda: configuration("a: &a [*a]\nb: &b {c: *b}\n"),
    "YAML without end": lambda: configuration("a: " + "[" * 50_000),
    "JSON without end": lambda: read_json(written("[" * 10**6)),
    "checkpoint that unpacks": compressed_checkpoint,
    "pipe as configuration": pipe(read_config),
    "pipe as result": pipe(read_json),
    "pipe as checkpoint": pipe(read_checkpoint),
    "pipe as arrays": pipe(read_arrays),
    "device as result": lambda: read_json(Path("/dev/zero")),
    "import in a formula": lambda: parse_formula("__import__('os').mkdir('owned')"),
    "attribute in a formula": lambda: parse_formula("x.__class__.__mro__[1]"),
    "function in a formula": lambda: parse_formula("eval(x)"),
    "lambda in a formula": lambda: parse_formula("(lambda: x)()"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_no_code_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with time_limit(), pytest.raises(ValueError, match=r"^[^\n]+$"):
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


@pytest.mark.parametrize(
    ("command", "words", "line"),
    [
        (evaluate, ['run="a\x1b[2J"'], "a\\x1b[2J is not the folder"),  # a terminal obeys it
        (train, ["runs=\udcff"], "is not text in UTF-8"),
    ],
)
def test_what_is_said_is_plain_text(
    command: Any, words: list[str], line: str, tmp_path: Path
) -> None:
    outcome = in_process(command.main, words, tmp_path)
    outcome.check()
    assert line in outcome.error


def test_folders_that_links_lead_to_are_left_alone(train_run: Run, tmp_path: Path) -> None:
    """Pages and checkpoints are replaced; those elsewhere are not."""
    train_run()
    (folder,) = tmp_path.glob("train/*/*/seed0")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious.json").write_text("{}")
    (folder / "explain").symlink_to(elsewhere)
    with pytest.raises(ValueError, match=r"explain is a link"):
        explain(folder)
    (folder / "checkpoints").rename(tmp_path / "moved")
    (folder / "checkpoints").symlink_to(elsewhere)
    with pytest.raises(ValueError, match=r"checkpoints is a link"):
        train_run("overwrite=true")
    assert [path.name for path in elsewhere.glob("*.json")] == ["precious.json"]
