"""Weights & Biases: the runs of a study as one project, and the sweep in `docs/`."""

import subprocess
import sys
from pathlib import Path

import engine_study
import pytest
import yaml
from test_train import wandb_records

from kanzoo.registry import conf_dir
from kanzoo.run.config import Composer, compose
from kanzoo.run.fit import train
from kanzoo.study.comparison import plan
from kanzoo.study.wandb_links import link_wandb_runs

DOCS = conf_dir().parent / "docs"


@pytest.mark.slow
def test_wandb_sync_finds_all_runs_of_a_study(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    words = [word for word in engine_study.SHORT if word != "logger=csv"]
    cells = plan(engine_study.configured(runs, overrides=words))
    for cell in cells:
        train(cell.config)
    for _ in range(2):  # links that are there are left
        link_wandb_runs(cells, runs / "smoke")
    moved = tmp_path / "moved"
    (runs / "smoke").rename(moved)
    sync = [sys.executable, "-m", "wandb", "sync", "--dry-run", str(moved / "wandb")]
    done = subprocess.run(sync, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Would sync 4 run(s)" in done.stderr + done.stdout
    names = {path.name.partition("-smoke-")[2] for path in (moved / "wandb").iterdir()}
    assert len(names) == 4  # every run has an id of its own: its hash and seed
    for cell in cells:
        folder = moved / cell.folder.path.relative_to(runs / "smoke")
        (run,) = [r["run"] for r in wandb_records(folder) if r["type"] == "run"]
        assert run["run_group"] == "smoke"
        assert run["project"] == "kanzoo"
        assert run["tags"] == [cell.arm, *(["bspline"] if cell.arm == "kan" else [])]
        kind = {"mlp": "mlp", "kan": "kan-bspline"}[cell.arm]
        assert run["display_name"] == f"digits-mlp-{kind}-seed{cell.seed}"
        assert compose("train", list(cell.overrides)) == cell.config


def test_the_sweep_drives_the_training_command() -> None:
    if not DOCS.is_dir():
        pytest.skip("installed without docs/")
    sweep = yaml.safe_load((DOCS / "wandb_sweep.yaml").read_text(encoding="utf-8"))
    assert (DOCS.parent / sweep["program"]).is_file()
    fixed = [word for word in sweep["command"] if "=" in word]
    assert sweep["command"][-1] == "${args_no_hyphens}"  # key=value, as Hydra reads it
    quick = Composer("train")
    for key, node in sweep["parameters"].items():
        values = node.get("values") or [node["min"], node["max"]]
        for value in values:
            config = quick([*fixed, f"{key}={value}"])
            group, _, name = key.partition(".")
            assert config[group][name] == value
    metric = sweep["metric"]
    assert metric == {"name": "val/accuracy", "goal": "maximize"}
    assert compose("train", fixed)["logger"]["wandb"]["mode"] == "online"
