"""However a study came about, its verdicts are those of one undisturbed run."""

import copy
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from kanzoo.compare import _job
from kanzoo.run.config import compose

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


def run(folder: Path, runs: str, **changes: Any) -> None:
    """The study below a folder, with some of its keys changed."""
    config = compose("compare", ["study=smoke", f"runs={folder / runs}"])
    _job({**config, "study": copy.deepcopy({**config["study"], **STUDY, **changes})})


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


@pytest.mark.slow
@pytest.mark.usefixtures("inline")
def test_a_grown_study_has_the_verdicts_of_one_that_was_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Begun with one arm and three seeds fewer, and without the contrast of the new arm."""
    run(tmp_path, "undisturbed")
    arms = {name: ARMS[name] for name in ("mlp", "kan-bspline")}
    run(tmp_path, "grown", arms=arms, seeds=3, contrasts=[])
    (early,) = json.loads((tmp_path / "grown/growing/report/verdicts.json").read_text())
    assert (early["verdict"], early["n_seeds"]) == ("undecided", 3)
    capsys.readouterr()
    run(tmp_path, "grown")
    assert f"{CELLS - 6} of {CELLS} cells to run" in capsys.readouterr().err
    assert outcome(tmp_path, "grown") == outcome(tmp_path, "undisturbed")
    page = (tmp_path / "grown/growing/report/index.html").read_text()
    assert "seeds 3 to 4" in page
    assert "arms kan-rbf" in page
