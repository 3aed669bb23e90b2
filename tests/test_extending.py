"""The recipes of docs/extending.md, followed to the letter beside an installed wheel."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, environment

BLOCK = re.compile(r"^```(python|yaml|bash)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# Runs commands one after the other, each in a process that has the packages of others loaded.
COMMANDS = """
import json, os, sys
import lightning.pytorch, torch, torchmetrics
site, commands = sys.argv[1], json.loads(sys.argv[2])
for (name, *words), variables in commands:
    child = os.fork()
    if child == 0:
        os.environ.update(variables)
        import importlib, kanzoo
        assert kanzoo.__file__.startswith(site)
        sys.argv = [name, *words, "logger=csv", "callbacks.progress=false"]
        importlib.import_module(f"kanzoo.{name}").main()
        break
    _, status = os.waitpid(child, 0)
    if status:
        sys.exit(f"{name} {words}: {status}")
"""


@pytest.mark.slow
def test_every_recipe_works_beside_an_installed_wheel(site: Path, tmp_path: Path) -> None:
    commands: list[tuple[list[str], dict[str, str]]] = []
    variables = {**environment(), "PYTHONPATH": os.pathsep.join([str(site), str(tmp_path)])}
    for kind, text in BLOCK.findall((ROOT / "docs" / "extending.md").read_text(encoding="utf-8")):
        first, _, rest = text.partition("\n")
        if kind != "bash":
            path = tmp_path / first.removeprefix("# ")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(rest, encoding="utf-8")
            continue
        for line in filter(None, text.splitlines()):
            program, *words = shlex.split(line.partition(" #")[0])
            if program == "export":
                variables |= dict([words[0].split("=")])
            else:
                commands.append(([program.removeprefix("kanzoo-"), *words], dict(variables)))
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, str(site), json.dumps(commands)],
        cwd=tmp_path, env=variables, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    results = [json.loads(p.read_text()) for p in tmp_path.rglob("result.json")]
    finished = len(commands)
    assert len(results) == finished
    assert finished >= 5
    assert {result["status"] for result in results} == {"finished"}
    assert {"cosine"} <= {result["basis"] for result in results}
    names = subprocess.run(
        [sys.executable, "-c", "import kanzoo; print(kanzoo.list_bases(), kanzoo.list_models())"],
        cwd=tmp_path, env=variables, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "cosine" in names
    assert "gated" in names


@pytest.mark.slow
def test_names_that_are_taken_and_packages_that_are_missing_are_refused(
    site: Path, tmp_path: Path
) -> None:
    taken = tmp_path / "thief" / "conf" / "basis" / "bspline.yaml"
    taken.parent.mkdir(parents=True)
    (tmp_path / "thief" / "__init__.py").touch()
    taken.write_text("_target_: kanzoo.bases.spline.BSpline\n")
    broken = tmp_path / "broken" / "conf" / "model" / "mine.yaml"
    broken.parent.mkdir(parents=True)
    (tmp_path / "broken" / "__init__.py").touch()
    broken.write_text("{[")
    (tmp_path / "failing").mkdir()
    (tmp_path / "failing" / "__init__.py").write_text("1 / 0\n")
    for package, model, reason in (
        ("thief", "mlp", "has the name of"),
        ("no_such", "mlp", "cannot be imported"),
        ("failing", "mlp", "cannot be imported: division by zero"),
        ("broken", "mine", "mine.yaml"),
    ):
        variables = {
            **environment(),
            "PYTHONPATH": os.pathsep.join([str(site), str(tmp_path)]),
            "KANZOO_EXTENSIONS": package,
        }
        code = "from kanzoo.train import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code, f"model={model}"],
            cwd=tmp_path,
            env=variables,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2, done.stderr
        assert reason in done.stderr
        assert done.stderr.count("\n") == 1
