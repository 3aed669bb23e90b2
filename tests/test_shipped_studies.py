"""Studies that ship run from plan to report, cut down to cells of a moment."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import compose

from kanzoo import registry
from kanzoo.checks import value_text
from kanzoo.compare import _job
from kanzoo.ledger.grow import add
from kanzoo.ledger.store import read_ledger
from kanzoo.run.fit import train
from kanzoo.study.plan import SHORT_AXES, Cell, distinct
from kanzoo.study.run import Runner

GENERALIZE = {f"generalize_{data}" for data in ("mnist", "cifar10", "text", "series")}
LONG = {"mnist", "cifar10", *GENERALIZE}  # downloads, and hours
SMOKE = {"demo", "smoke", "smoke_dense", "smoke_graph"}  # run by `make demo` and `make smoke`
ALIKE = {"generalize_rows", "generalize_tables"}  # other data in what others say
NAMES = [name for name in registry.names("study") if name not in LONG | SMOKE | ALIKE]
SMALL = ["data.limit_val=28", "data.limit_test=36", "data.batch_size=32"]
FEW = ["data.limit_train=64", *SMALL]
POINTS = ["data.n_inside=48", "data.n_border=16", *SMALL]  # of equations


def reduced(name: str, runs: Path) -> dict[str, Any]:
    """A study with two seeds, one model, no controls, few samples and the fewest values an axis."""
    config = compose("compare", [f"study={name}", f"runs={runs}"])
    study = config["study"]
    phases = [w.partition("=")[2] for w in study["overrides"] if "phases=" in w] or ["1"]
    few = POINTS if name == "pde" else FEW
    further = [*few, f"trainer.max_epochs={phases[0]}"]
    model = next(iter(study["models"]))
    small = {"models": {model: study["models"][model]}, "seeds": 2, "controls": False}
    small["tune"] = {**study["tune"], "trials": 0}
    small |= {"further": further, "match": study["match"][:1]}
    for axis in SHORT_AXES:
        small[axis] = _ends(study[axis], study["interactions"].get(axis), 2)
    axes = {}
    for axis, options in study["axes"].items():
        count = 3 if axis == study["slope"] else 2
        values = _ends(list(options["values"]), study["interactions"].get(axis), count)
        axes[axis] = {**options, "values": {value: options["values"][value] for value in values}}
    return {**config, "study": {**study, **small, "axes": axes}}


def _ends(values: Sequence[Any], kept: Any, count: int) -> list[Any]:
    """So many of the values, the one that others are compared with among them."""
    wanted = [v for v in values if kept is not None and value_text(v) == value_text(kept)]
    rest = [v for v in values if v not in wanted]
    chosen = [*wanted, *rest][:count]
    return [v for v in values if v in chosen]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_study_runs_from_plan_to_report(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def here(self: Runner, cells: list[Cell]) -> None:
        for cell in distinct(cells):
            train(cell.config)

    monkeypatch.setattr(Runner, "__call__", here)
    config = reduced(name, tmp_path)
    _job(config)  # which ends with an error where a cell has failed
    study, folder = config["study"], tmp_path / name / "report"
    verdicts = json.loads((folder / "verdicts.json").read_text())
    arms = {v["arm"] for v in verdicts}
    assert arms == set(study["arms"]) - {study["baseline"]}
    assert {v["metric"] for v in verdicts} >= set(study["metrics"])
    for arm, other in study["contrasts"]:
        assert any(v["arm"] == arm and v["contrast"] == f"against {other}" for v in verdicts)
    for axis, value in study["interactions"].items():
        words = f"change from {axis.replace('_', ' ')} {value_text(value)}"
        assert any(v["contrast"] == words and v["n_seeds"] == 2 for v in verdicts), words
    assert (folder / "slopes.json").is_file() == (study["slope"] is not None)
    for verdict in verdicts:
        missing = verdict["metric"] == "forgetting"  # where two steps taught too little
        assert verdict["n_seeds"] == 2 or missing
    ledger = tmp_path / "ledger"
    assert add(tmp_path / name, ledger) == len(read_ledger(ledger).runs)  # once they pass its check
