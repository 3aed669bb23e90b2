"""A run is known by chosen names and options: code may move under results that are kept."""

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, SMALL, environment
from engine_study import declared

from kanzoo import registry
from kanzoo.run.config import compose
from kanzoo.rundir import FORMAT, RunDir, identity
from kanzoo.study.record import check_record, write_record

GROUPS = ("model", "basis", "data", "task", "optim", "sched")


def test_no_class_path_is_part_of_a_run() -> None:
    config = compose("train", [])
    moved = copy.deepcopy(config)
    for group in GROUPS:
        moved[group]["_target_"] = f"elsewhere.{group}"
    assert RunDir.of(moved) != RunDir.of(config)  # they hold their configurations
    assert RunDir.of(moved).path == RunDir.of(config).path
    assert "kanzoo." not in json.dumps(identity(config))


@pytest.mark.parametrize("group", GROUPS)
def test_another_choice_is_another_run_whatever_its_options(group: str) -> None:
    config = compose("train", [])
    other = copy.deepcopy(config)
    other["choices"][group] = next(
        name for name in registry.names(group) if name != config["choices"][group]
    )
    assert RunDir.of(other).config_hash != RunDir.of(config).config_hash


def test_the_basis_of_a_twin_does_not_matter() -> None:
    paths = {
        RunDir.of(compose("train", ["layers=mlp", f"basis={basis}"])).path
        for basis in ("bspline", "rbf")
    }
    assert len(paths) == 1


def test_folders_of_other_formats_are_refused_in_one_line(tmp_path: Path) -> None:
    config = compose("train", [f"runs={tmp_path}"])
    folder = RunDir.of(config)
    folder.write_config()
    folder.check_config()
    study = declared()
    write_record(study, tmp_path)
    check_record(study, tmp_path)
    message = f"is of format 1, .* reads and writes {FORMAT}: choose another"
    for path, check in (
        (folder.path / "config.yaml", folder.check_config),
        (tmp_path / "study.yaml", lambda: check_record(study, tmp_path)),
    ):
        content = yaml.safe_load(path.read_text())
        assert content.pop("format") == FORMAT
        path.write_text(yaml.safe_dump(content))
        with pytest.raises(ValueError, match=message):
            check()


@pytest.mark.slow
def test_a_finished_run_is_found_after_its_classes_have_moved(tmp_path: Path) -> None:
    for name in ("kanzoo", "conf", "scripts"):
        shutil.copytree(ROOT / name, tmp_path / name)
    variables = {**environment(), "PYTHONPATH": str(tmp_path)}

    def run(script: str, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, f"scripts/{script}.py", *words],
            cwd=tmp_path, env=variables, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    assert "finished before" not in run("train", *SMALL)
    (result,) = tmp_path.glob("runs/**/result.json")
    evaluate = ("evaluate", f"run={result.parent}")
    scores = run(*evaluate)
    for module in ("models/mlp", "bases/spline", "data/vision", "training/objective"):
        path, name = tmp_path / "kanzoo" / f"{module}.py", f"kanzoo.{module.replace('/', '.')}"
        path.rename(path.with_stem(f"moved_{path.stem}"))
        moved = name.replace(path.stem, f"moved_{path.stem}")
        for path in (*tmp_path.rglob("*.py"), *tmp_path.rglob("*.yaml")):
            if "runs" not in path.parts:
                text = path.read_text(encoding="utf-8")
                path.write_text(text.replace(name, moved))
    assert "kanzoo.models.moved_mlp" in (tmp_path / "conf" / "model" / "mlp.yaml").read_text()
    assert "finished before, skipped" in run("train", *SMALL)
    assert run(*evaluate) == scores
