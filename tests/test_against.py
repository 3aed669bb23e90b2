"""Two finished studies side by side."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_ledger import run_all, study

from kanzoo.compare import _job
from kanzoo.ledger.against import write_comparison
from kanzoo.ledger.main import main as ledger


def scores(folder: Path) -> dict[tuple[str, int], float]:
    table = pd.read_csv(folder / "report" / "results.csv")
    table = table[table["grid"].ne(5)]
    return {(str(r["arm"]), int(r["seed"])): r["test"] for r in table.to_dict("records")}


def test_the_same_arms_in_two_studies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = {"name": "longer", "margin": 0.02}
    first = run_all(study(tmp_path / "runs"))
    second = run_all(study(tmp_path / "runs", **other), better=0.2)
    config = study(tmp_path / "runs")
    capsys.readouterr()
    _job({**config, "against": "longer"})
    assert "against longer" in " ".join(capsys.readouterr().out.split())
    folder = first / "against-longer"
    rows = json.loads((folder / "verdicts.json").read_text())
    ours, theirs = scores(first), scores(second)
    for contrast, of_arm in (("change from study longer", False), ("against longer", True)):
        (row,) = (r for r in rows if r["contrast"] == contrast and r["arm"] == "kan"
                  and r["grid"] == "3")  # fmt: skip
        assert row["n_seeds"] == 5
        each = [ours["kan", s] - theirs["kan", s] for s in range(5)]
        if not of_arm:
            each = [d - (ours["mlp", s] - theirs["mlp", s]) for s, d in enumerate(each)]
        assert row["mean_difference"] == pytest.approx(np.mean(each), abs=1e-12)
        assert row["ci_low"] < row["mean_difference"] < row["ci_high"]
    assert {r["arm"] for r in rows if r["contrast"] == "against longer"} == {"mlp", "kan"}
    page = (folder / "index.html").read_text()
    for words in ("smoke against longer", "no look was planned", "margin (0.01 against 0.02)"):
        assert words in page
    ledger(["add", str(second), "--ledger", str(tmp_path / "ledgers" / "longer")])
    found, _ = write_comparison(first, tmp_path / "ledgers" / "longer", "again")
    assert [json.loads(json.dumps(v.to_dict())) for v in found] == rows


def test_what_cannot_be_compared_is_refused_in_a_line(tmp_path: Path) -> None:
    first = run_all(study(tmp_path / "runs"))
    changes: dict[str, dict[str, Any]] = {
        "no arm in common": {"arms": {"mlp": ["layers=mlp"], "other": ["layers=kan"]},
                             "axes": {"grid": {"values": {"3": ["basis.grid_size=3"],
                                                          "5": ["basis.grid_size=5"]},
                                               "arms": ["other"]}}},
        "other axes": {"axes": {}},
        "no seed in common": {"first_seed": 7},
    }  # fmt: skip
    for number, (words, keys) in enumerate(changes.items()):
        second = run_all(study(tmp_path / "runs", **{"name": f"other{number}", **keys}))
        with pytest.raises(ValueError, match=words) as refusal:
            write_comparison(first, second, "")
        assert "\n" not in str(refusal.value)
    with pytest.raises(ValueError, match="neither a reported study nor a ledger"):
        write_comparison(first, tmp_path / "none", "")


@pytest.mark.slow
def test_other_data_are_compared_by_differences_alone(tmp_path: Path) -> None:
    first = run_all(study(tmp_path / "runs"))
    second = run_all(study(tmp_path / "runs", name="wines", data=["wine"]))
    found, page = write_comparison(first, second, "")
    assert {v.data for v in found} == {"digits | wine"}
    assert {v.contrast for v in found} == {"", "change from study wines"}
    assert "scores themselves are not compared" in page.read_text()
