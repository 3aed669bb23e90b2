"""Tuning: the same for every arm, on validation data and other seeds, and it goes on."""

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from test_compare import configured

from kanzoo.compare import _job
from kanzoo.run.config import Composer, compose
from kanzoo.study import comparison
from kanzoo.study.comparison import best_words, check_trials, plan
from kanzoo.study.plan import Cell, distinct, first_of_kinds
from kanzoo.study.report.tuning import tuning_record
from kanzoo.study.tune import SEED_OFFSET, Tuning, check_tuning, tune

SPACE = {"optim.lr": {"low": 1e-4, "high": 1.0, "log": True}}
COMPOSER = Composer("train")


def study_of(tmp_path: Path, *, trials: int = 12, **changes: Any) -> dict[str, Any]:
    options = configured(tmp_path)["study"]["tune"]
    wanted = {**options, "trials": trials, "batch": 4, "space": SPACE, **changes}
    return configured(tmp_path, tune=wanted)


class Bench:
    """Runs cells without training: the score is best at a learning rate of 0.1, less for KANs."""

    def __init__(self, fails: bool = False) -> None:
        self.done: list[Cell] = []
        self.rounds = 0
        self.fails = fails

    def __call__(self, cells: list[Cell]) -> None:
        self.rounds += 1
        for cell in distinct(cells):
            folder = cell.folder
            if folder.result() is not None:
                continue
            self.done.append(cell)
            folder.write_config()
            rate = cell.config["optim"]["lr"]
            if self.fails and rate > 0.1:
                (folder.path / "failure.txt").write_text("diverged\n")
                continue
            kan = cell.config["choices"]["layers"] == "kan"
            score = 1 - abs(math.log10(rate) + 1) / 4 - 0.1 * kan
            folder.write_result({"status": "finished", "val": {"accuracy": score}, "test": None})


def tuned(config: dict[str, Any], bench: Bench) -> list[Tuning]:
    kinds = distinct(first_of_kinds(plan(config)))
    tunings = [Tuning(cell, "accuracy", "max") for cell in kinds]
    folder = Path(config["runs"]) / "smoke" / "tuning"
    tune(tunings, comparison.study_of(config), folder, bench, COMPOSER)
    return tunings


def test_every_arm_gets_the_same_trials_and_the_study_what_is_best(tmp_path: Path) -> None:
    config, bench = study_of(tmp_path), Bench()
    tunings = tuned(config, bench)
    assert [t.cell.arm for t in tunings] == ["mlp", "kan"]
    assert [len(t.trials) for t in tunings] == [12, 12]
    first = [[trial["settings"] for trial in t.trials[:4]] for t in tunings]
    assert first[0] == first[1], "one sampler, one seed, one space"
    assert first[0][0] == {"optim.lr": 0.003}, "the recipe as it is comes first"
    evaluated = plan(config, best_words(plan(config), tunings))
    for cell in evaluated:
        (best,) = (t.best for t in tunings if t.cell.arm == cell.arm)
        assert best is not None
        assert cell.config["optim"]["lr"] == best["settings"]["optim.lr"]
        assert best["value"] == max(trial["value"] for trial in best and _of(tunings, cell.arm))
        assert compose("train", list(cell.overrides)) == cell.config
        assert cell.config["evaluation"]["test"] is True
    assert abs(math.log10(evaluated[0].config["optim"]["lr"]) + 1) < 0.5, "it has found something"


def _of(tunings: list[Tuning], arm: str) -> list[dict[str, Any]]:
    return next(t.trials for t in tunings if t.cell.arm == arm)


def test_trials_see_no_test_and_no_seed_of_the_study(tmp_path: Path) -> None:
    config, bench = study_of(tmp_path, trials=2, seeds=2), Bench()
    tuned(config, bench)
    seeds = {cell.seed for cell in bench.done}
    assert seeds == {SEED_OFFSET, SEED_OFFSET + 1}
    assert not seeds & {cell.seed for cell in plan(config)}
    places = {cell.folder.path for cell in plan(config)}
    for cell in bench.done:
        assert cell.config["evaluation"]["test"] is False
        assert compose("train", list(cell.overrides)) == cell.config
        assert cell.folder.path not in places
        assert Path(config["runs"]) / "smoke" / "tuning" in cell.folder.path.parents


def test_tuning_goes_on_where_it_was(tmp_path: Path) -> None:
    class PowerCut(Bench):
        def __call__(self, cells: list[Cell]) -> None:
            if self.rounds == 2:
                raise KeyboardInterrupt
            super().__call__(cells)

    whole = tuned(study_of(tmp_path / "a"), Bench())
    config, first, second = study_of(tmp_path / "b"), PowerCut(), Bench()
    with pytest.raises(KeyboardInterrupt):
        tuned(config, first)
    again = tuned(config, second)
    assert [t.trials for t in again] == [t.trials for t in whole]
    done = [cell.folder.path for cell in (*first.done, *second.done)]
    assert len(done) == len(set(done)), "nothing was run twice"
    third = Bench()
    tuned(config, third)
    assert third.done == []


def test_a_failed_trial_is_recorded_and_the_others_go_on(tmp_path: Path) -> None:
    config, bench = study_of(tmp_path), Bench(fails=True)
    tunings = tuned(config, bench)
    folder = Path(config["runs"]) / "smoke" / "tuning"
    rows = pd.read_csv(folder / "trials.csv")
    assert len(rows) == 24
    failed = rows[rows["value"].isna()]
    assert len(failed) > 0
    assert set(failed["reason"]) == {"diverged"}
    assert (failed["optim.lr"] > 0.1).all()
    best = json.loads((folder / "tuning.json").read_text())["best"]
    assert [row["best"] for row in best] == [t.best for t in tunings]
    record = tuning_record(tunings, comparison.study_of(config).tune)
    assert record is not None
    assert [row["failed"] for row in record["rows"]] == [
        sum(trial["value"] is None for trial in t.trials) for t in tunings
    ]


def test_where_no_trial_works_the_recipe_stays(tmp_path: Path) -> None:
    config = study_of(tmp_path, trials=2)
    tunings = tuned(config, lambda cells: None)  # type: ignore[arg-type]
    assert {trial["reason"] for t in tunings for trial in t.trials} == {"not run"}
    assert plan(config, best_words(plan(config), tunings)) == plan(config)


def test_kinds_that_share_their_runs_share_their_tuning(tmp_path: Path) -> None:
    config = study_of(tmp_path, trials=3)
    config["study"]["match"] = ["params", "flops"]
    tunings = tuned(config, Bench())
    assert len(tunings) == 3, "the MLP is the same under both budgets"
    cells = plan(config, best_words(plan(config), tunings))
    rates = {c.match: c.config["optim"]["lr"] for c in cells if c.arm == "mlp"}
    assert rates["params"] == rates["flops"]


def test_more_freedom_for_one_arm_is_refused_unless_declared(tmp_path: Path) -> None:
    extra = {"kan": {"basis.grid_range": {"choices": [[-1, 1], [-3, 3]]}}}
    with pytest.raises(ValueError, match=r"more freedom.*basis.grid_range.*allow_extra=true"):
        check_tuning(comparison.study_of(study_of(tmp_path, extra=extra)))
    config = study_of(tmp_path, trials=6, extra=extra, allow_extra=True)
    check_tuning(comparison.study_of(config))
    check_trials(config, plan(config))
    tunings = tuned(config, Bench())
    assert set(tunings[0].trials[0]["settings"]) == {"optim.lr"}
    assert {str(trial["settings"]["basis.grid_range"]) for trial in tunings[1].trials} == {
        "[-1, 1]",
        "[-3, 3]",
    }
    record = tuning_record(tunings, comparison.study_of(config).tune)
    assert record is not None
    assert record["extra"] == [("kan", "basis.grid_range", "one of [-1, 1], [-3, 3]")]


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"trials": -1}, "study.tune.trials"),
        ({"trials": 1.5}, "study.tune.trials"),
        ({"seeds": 0}, "study.tune.seeds"),
        ({"batch": 0}, "study.tune.batch"),
        ({"space": {}}, "nothing to tune"),
        ({"space": {"optim.lr": {"low": 1.0, "high": 0.1}}}, "optim.lr"),
        ({"space": {"optim.lr": {"low": 0.0, "high": 0.1, "log": True}}}, "optim.lr"),
        ({"space": {"optim.lr": 3}}, "optim.lr"),
        ({"space": {"optim.rl": {"low": 0.01, "high": 0.1}}}, "'optim.lr'"),
        ({"extra": {"kna": {}}}, "'kan'"),
        ({"tirals": 3}, "'study.tune.trials'"),
    ],
)
def test_bad_tuning_is_refused_at_once(tmp_path: Path, changes: dict[str, Any], hint: str) -> None:
    config = study_of(tmp_path, **changes)
    with pytest.raises(ValueError, match=r"\w") as refusal:
        check_trials(config, plan(config))
    assert hint in str(refusal.value)
    assert not list(tmp_path.iterdir())


def test_no_tuning_is_the_rule(tmp_path: Path) -> None:
    config = study_of(tmp_path, trials=0, space={})
    check_trials(config, plan(config))
    assert tuning_record([], comparison.study_of(config).tune) is None


@pytest.mark.slow
def test_a_tuned_study_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = study_of(tmp_path, trials=2, batch=2)
    _job(config)
    folder = Path(config["runs"]) / "smoke"
    text = (folder / "report" / "index.html").read_text()
    assert "Tuning record" in text
    rows = pd.read_csv(folder / "tuning" / "trials.csv")
    assert len(rows) == 4
    results = pd.read_csv(folder / "report" / "results.csv")
    for arm, found in rows.groupby("arm"):
        best = found.loc[found["value"].idxmax(), "optim.lr"]
        commands = results.loc[results["arm"] == arm, "command"]
        assert commands.str.contains(f"optim.lr={best:g} ").all()
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("result.json")}
    assert len(before) == 8
    capsys.readouterr()
    _job(config)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("result.json")} == before
