"""However a study came about, its verdicts are those of one undisturbed run."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from conftest import command, environment, run_script

MEASURED = {"step_time_ratio", "memory_ratio"}  # which no two runs have in common
SCORES = ["arm", "seed", "status", "test", "val", "test_ece", "params", "flops", "epochs"]
ARMS = {
    "mlp": ["layers=mlp"],
    "kan-bspline": ["layers=kan", "basis=bspline"],
    "kan-rbf": ["layers=kan", "basis=rbf"],
}
STUDY: dict[str, Any] = {
    **{"name": "growing", "title": "Growing", "question": "Does the order matter?"},
    **{"data": ["digits"], "models": {"mlp": ["model.width=8"]}, "arms": ARMS, "controls": False},
    **{"baseline": "mlp", "match": ["params"], "first_seed": 0, "seeds": 5, "looks": [5]},
    **{"margin": 0.01, "alpha": 0.05, "contrasts": [["kan-rbf", "kan-bspline"]]},
    "overrides": [
        *("callbacks.progress=false", "logger=csv"),
        *("trainer.max_epochs=2", "data.limit_train=96", "data.batch_size=32"),
    ],
}
CELLS = len(ARMS) * STUDY["seeds"]


def words(folder: Path, runs: str, **changes: Any) -> list[str]:
    """The words after `compare.py` for the study, declared in a folder of its own."""
    file = folder / f"declared-{runs}-{len(changes)}" / "study" / "growing.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump({**STUDY, **changes}))
    return ["study=growing", f"--config-dir={file.parents[1]}", f"runs={runs}", "engine.workers=1"]


def finish(folder: Path, said: list[str]) -> str:
    done = run_script("compare", *said, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stderr


def finished(folder: Path, runs: str) -> set[Path]:
    return set((folder / runs).rglob("result.json"))


def half_trained(runs: Path) -> bool:
    """Whether a run has saved its first epoch and has no result yet."""
    saved = (path.parents[1] for path in runs.rglob("checkpoints/last.ckpt"))
    return any(not (run / "result.json").exists() for run in saved)


def outcome(folder: Path, runs: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The verdicts without what is measured by the clock, and the scores of all runs."""
    report = folder / runs / "growing" / "report"
    verdicts = json.loads((report / "verdicts.json").read_text())
    assert len(verdicts) == 3
    assert all(v.keys() > MEASURED and v["n_seeds"] == 5 for v in verdicts)
    table = pd.read_csv(report / "results.csv").sort_values(["arm", "seed"])
    assert len(table) == CELLS
    kept = [{k: v for k, v in verdict.items() if k not in MEASURED} for verdict in verdicts]
    return kept, table[SCORES].to_dict("records")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an undisturbed run of the study, in `undisturbed`."""
    folder = tmp_path_factory.mktemp("studies")
    finish(folder, words(folder, "undisturbed"))
    return folder


@pytest.mark.slow
def test_a_killed_study_that_goes_on_has_the_verdicts_of_an_undisturbed_one(folder: Path) -> None:
    said = words(folder, "killed")
    with (folder / "killed.log").open("w") as log:
        process = subprocess.Popen(
            command("compare", *said),
            cwd=folder,
            env=environment(),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            while len(finished(folder, "killed")) < 4 or not half_trained(folder / "killed"):
                assert process.poll() is None, (folder / "killed.log").read_text()
                time.sleep(0.02)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    before = {path: path.stat().st_mtime_ns for path in finished(folder, "killed")}
    assert 4 <= len(before) < CELLS
    assert not (folder / "killed" / "growing" / "report").exists()
    assert f"{CELLS - len(before)} of {CELLS} cells to run" in finish(folder, said)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert outcome(folder, "killed") == outcome(folder, "undisturbed")


@pytest.mark.slow
def test_a_grown_study_has_the_verdicts_of_one_that_was_whole(folder: Path) -> None:
    """Begun with one arm and three seeds fewer, and without the contrast of the new arm."""
    arms = {name: ARMS[name] for name in ("mlp", "kan-bspline")}
    finish(folder, words(folder, "grown", arms=arms, seeds=3, contrasts=[]))
    (early,) = json.loads((folder / "grown/growing/report/verdicts.json").read_text())
    assert (early["verdict"], early["n_seeds"]) == ("undecided", 3)
    assert f"{CELLS - 6} of {CELLS} cells to run" in finish(folder, words(folder, "grown"))
    assert outcome(folder, "grown") == outcome(folder, "undisturbed")
    page = (folder / "grown/growing/report/index.html").read_text()
    assert "seeds 3 to 4" in page
    assert "arms kan-rbf" in page
