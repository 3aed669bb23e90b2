"""The built wheel trains outside the checkout, with the configuration files inside it."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT, SMALL, environment

import kanzoo


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_conf(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (ROOT / "conf").rglob("*.yaml"):
        assert f"kanzoo/conf/{path.relative_to(ROOT / 'conf').as_posix()}" in names
    release = ROOT / kanzoo.zoo.RELEASE
    assert {f"kanzoo/release/{path.name}" for path in release.iterdir()} <= names
    for path in (ROOT / "kanzoo").rglob("*"):
        if path.suffix in (".py", ".typed", ".cpp", ".c", ".j2", ".css", ".js"):
            assert path.relative_to(ROOT).as_posix() in names
    assert "kanzoo/py.typed" in names
    assert not any(name.startswith(("tests/", "scripts/")) for name in names)


@pytest.mark.slow
def test_the_installed_wheel_trains_elsewhere(site: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    variables = {**environment(), "PYTHONPATH": os.fspath(site)}

    def run(entry: str, *words: str) -> "subprocess.CompletedProcess[str]":
        code = (
            f"import sys, kanzoo; assert kanzoo.__file__.startswith({os.fspath(site)!r})\n"
            f"from kanzoo.{entry} import main; sys.argv = ['{entry}', *{list(words)!r}]; main()"
        )
        return subprocess.run(
            [sys.executable, "-c", code], cwd=work, env=variables, capture_output=True, text=True
        )

    done = run("train", *SMALL, "trainer.max_epochs=1")
    assert done.returncode == 0, done.stderr
    (path,) = work.rglob("result.json")
    result = json.loads(path.read_text())
    assert result["status"] == "finished"
    assert result["git_sha"] is None  # it is no checkout
    done = run("evaluate", f"run={path.parent}")
    assert done.returncode == 0, done.stderr
    assert f"{result['test']['accuracy']:.4f}" in done.stdout
    assert run("train", "modle=vit").returncode == 2
    member = "digits-mlp-kan-bspline"
    done = run("evaluate", f"run=zoo:{member}")
    assert done.returncode == 0, done.stderr
    accuracy = kanzoo.zoo.card(member)["test"]
    assert f"{accuracy:.3f}" in done.stdout  # a test item is 0.003
