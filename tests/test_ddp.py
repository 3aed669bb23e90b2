"""Two processes do what one does: the same global batches, the same weights, one result."""

import csv
import json
from pathlib import Path

import pytest
import torch
from conftest import run_script

WORDS = [
    *("model=mlp", "model.width=16", "match=none", "logger=csv", "callbacks.progress=false"),
    *("trainer.max_epochs=2", "data.limit_train=256", "data.batch_size=64"),
]
# 360 test samples, 359 validation samples: neither a multiple of the batch size, one is odd.
DDP = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "data.val_size=359"]
ONE = ["data.val_size=359"]


def run(tmp_path: Path, name: str, *words: str) -> tuple[dict, dict[str, torch.Tensor], Path]:
    done = run_script("train", *WORDS, f"name={name}", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    (result,) = (tmp_path / "runs" / name).rglob("result.json")
    folder = result.parent
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return json.loads(result.read_text()), state["state_dict"], folder


@pytest.mark.slow
@pytest.mark.parametrize("layers", ["mlp", "kan"])
def test_two_processes_equal_one(tmp_path: Path, layers: str) -> None:
    result, weights, folder = run(tmp_path, "two", *DDP, f"layers={layers}")
    alone, reference, _ = run(tmp_path, "one", *ONE, f"layers={layers}")
    assert weights.keys() == reference.keys()
    for key, value in reference.items():
        torch.testing.assert_close(weights[key], value, rtol=1e-3, atol=1e-5)
    # Every sample counted once: the accuracy is a count over the official test set.
    for split, size in (("test", 360), ("val", 359)):
        count = result[split]["accuracy"] * size
        assert count == pytest.approx(round(count), abs=1e-3)
        assert result[split]["accuracy"] == pytest.approx(alone[split]["accuracy"], abs=1.5 / size)
        assert result[split]["loss"] == pytest.approx(alone[split]["loss"], rel=1e-4)
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows if row["val/loss"]] == ["0", "1"]
    assert result["params"] == alone["params"]
    # The same command again: nothing is started anew.
    before = (folder / "result.json").stat().st_mtime_ns
    again = run_script("train", *WORDS, "name=two", *DDP, f"layers={layers}", cwd=tmp_path)
    assert again.returncode == 0
    assert "skipped" in again.stderr
    assert (folder / "result.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_grids_that_move_and_are_refined(tmp_path: Path) -> None:
    """Both at the same step too; convolutions have more inputs than a sample of them holds."""
    words = [
        *("layers=kan", "basis=bspline_adaptive", "callbacks=grid", "model=convnet"),
        *("model.width=4", "callbacks.grid.update_every=2", "callbacks.grid.refine=[[1,7]]"),
        "callbacks.grid.optimizer_state=remap",
    ]
    result, weights, _ = run(tmp_path, "two", *DDP, *words)
    alone, reference, _ = run(tmp_path, "one", *ONE, *words)
    assert weights.keys() == reference.keys()
    for key, value in reference.items():
        torch.testing.assert_close(weights[key], value, rtol=1e-3, atol=1e-4, msg=key)
    assert result["params"] == alone["params"]
    assert result["test"]["loss"] == pytest.approx(alone["test"]["loss"], rel=1e-3)


@pytest.mark.slow
def test_two_processes_resume(tmp_path: Path) -> None:
    whole, weights, folder = run(tmp_path, "whole", *DDP)
    (folder / "result.json").unlink()
    again, other, _ = run(tmp_path, "whole", *DDP)
    assert (again["val"], again["test"]) == (whole["val"], whole["test"])
    assert all(torch.equal(weights[key], other[key]) for key in weights)
