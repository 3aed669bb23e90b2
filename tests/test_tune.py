"""Tuning: the same for every arm, on validation data and other seeds, and it goes on."""

import json
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import compose
from test_compare import configured

from kanzoo.checks import build
from kanzoo.compare import _job
from kanzoo.errors import Stopped
from kanzoo.settings import TuneConfig
from kanzoo.study.comparison import check_cells, check_trials, plan, tune_arms
from kanzoo.study.overrides import tuning_order
from kanzoo.study.plan import Cell, distinct
from kanzoo.study.report.tuning import rate_range, tuning_record
from kanzoo.study.space import SEED_OFFSET, points
from kanzoo.study.tune import Trial, TrialRuns, Tuning

SPACE = {"optim.lr": {"low": 1e-4, "high": 1.0, "log": True}}
NO_SKILL = 0.1
Score = Callable[[Cell], float | None]


def study_of(tmp_path: Path, *, trials: int = 12, **changes: Any) -> dict[str, Any]:
    options = configured(tmp_path)["study"]["tune"]
    wanted = {**options, "trials": trials, "space": SPACE, **changes}
    return configured(tmp_path, tune=wanted)


def near_a_tenth(cell: Cell) -> float:
    """Best at a learning rate of 0.1, less for KANs."""
    kan = cell.config["choices"]["layers"] == "kan"
    return 1 - abs(math.log10(cell.config["optim"]["lr"]) + 1) / 4 - 0.1 * kan


class Bench:
    """Runs cells without training: what they score is given, None where they diverge."""

    def __init__(self, score: Score = near_a_tenth) -> None:
        self.done: list[Cell] = []
        self.score = score

    def __call__(self, cells: list[Cell]) -> None:
        for cell in distinct(cells):
            folder = cell.folder
            if folder.result() is not None:
                continue
            self.done.append(cell)
            folder.write_config()
            score = self.score(cell)
            if score is None:
                (folder.path / "failure.txt").write_text("a loss diverged\n")
                continue
            val = {"accuracy": score}
            reference = {"val": {"accuracy": NO_SKILL}}
            folder.write_result(
                {"status": "finished", "val": val, "test": None, "reference": reference}
            )


def tuned(config: dict[str, Any], bench: Bench) -> tuple[list[Tuning], list[Cell]]:
    cells = plan(config)
    return tune_arms(config, cells, check_cells(cells), TrialRuns(bench))


def trials_of(config: dict[str, Any]) -> pd.DataFrame:
    return pd.read_csv(Path(config["runs"]) / "smoke" / "tuning" / "trials.csv")


def options_of(config: dict[str, Any]) -> TuneConfig:
    return build(TuneConfig, config["study"]["tune"])


# --- what is tried -------------------------------------------------------------------------------


def test_points_fill_the_space_evenly_and_begin_alike_in_larger_spaces() -> None:
    rate = SPACE["optim.lr"]
    tried = [settings["optim.lr"] for settings in points(SPACE, 8, seed=0)]
    eighths = sorted(int((math.log10(value) + 4) / 4 * 8) for value in tried)
    assert eighths == list(range(8)), "one in each eighth, on the logarithmic scale"
    larger = {"optim.lr": rate, "optim.weight_decay": {"low": 0.0, "high": 0.1}}
    assert [settings["optim.lr"] for settings in points(larger, 8, seed=0)] == tried
    assert [settings["optim.lr"] for settings in points(SPACE, 8, seed=1)] != tried
    few = {"basis": {"choices": ["a", "b", "c"]}}
    assert sorted(p["basis"] for p in points(few, 20, seed=0)) == ["a", "b", "c"]


def test_every_arm_gets_the_same_trials_and_the_study_what_is_best(tmp_path: Path) -> None:
    config, bench = study_of(tmp_path), Bench()
    tunings, evaluated = tuned(config, bench)
    assert [t.cell.arm for t in tunings] == ["mlp", "kan"]
    tried = [[trial.settings for trial in t.trials] for t in tunings]
    assert tried[0] == tried[1], "one sequence of points"
    assert len(tried[0]) == 12
    assert tried[0][0] == {"optim.lr": 0.003}, "the recipe as it is comes first"
    for cell in evaluated:
        (tuning,) = (t for t in tunings if t.cell.arm == cell.arm)
        assert tuning.best is not None
        assert cell.config["optim"]["lr"] == tuning.best.settings["optim.lr"]
        assert tuning.best.value == max(trial.value or 0 for trial in tuning.trials)
        assert compose("train", list(cell.overrides)) == cell.config
        assert cell.config["evaluation"]["test"] is True
    assert abs(math.log10(evaluated[0].config["optim"]["lr"]) + 1) < 0.25, "it has found something"


def test_trials_see_no_test_no_seed_of_the_study_and_fewer_epochs(tmp_path: Path) -> None:
    config, bench = study_of(tmp_path, trials=2, seeds=2, finalist_seeds=3, epochs=0.4), Bench()
    config["study"]["overrides"] = [
        word.replace("max_epochs=1", "max_epochs=10") for word in config["study"]["overrides"]
    ]
    tuned(config, bench)
    seeds = {cell.seed for cell in bench.done}
    assert seeds == set(range(SEED_OFFSET, SEED_OFFSET + 5))
    assert not seeds & {cell.seed for cell in plan(config)}
    places = {cell.folder.path for cell in plan(config)}
    for cell in bench.done:
        assert cell.config["evaluation"]["test"] is False
        assert cell.config["trainer"]["max_epochs"] == 4
        assert compose("train", list(cell.overrides)) == cell.config
        assert cell.folder.path not in places
        assert Path(config["runs"]) / "smoke" / "tuning" in cell.folder.path.parents


def test_trials_show_all_phases_at_once(tmp_path: Path) -> None:
    config = study_of(tmp_path, trials=1, finalists=0, epochs=0.5)
    words = ["trainer.max_epochs=9", "training_set.phases=3"]
    config["study"]["overrides"] = [*config["study"]["overrides"], *words]
    bench = Bench()
    tuned(config, bench)
    configs = [cell.settings for cell in bench.done]
    assert {(c.training_set.phases, c.trainer.max_epochs) for c in configs} == {(1, 4)}


def test_the_grids_of_a_trial_change_at_the_same_shares_of_its_training(tmp_path: Path) -> None:
    config = study_of(tmp_path, trials=1, finalists=0, epochs=0.5)
    grid = ["callbacks=grid", "callbacks.grid.update_until=60"]
    config["study"]["arms"]["kan"] += [*grid, "callbacks.grid.refine=[[4,7],[9,12]]"]
    config["study"]["overrides"] = [*config["study"]["overrides"], "trainer.max_epochs=10"]
    bench = Bench()
    tuned(config, bench)
    (kan,) = (cell.config for cell in bench.done if cell.arm == "kan")
    assert kan["trainer"]["max_epochs"] == 5
    assert kan["callbacks"]["grid"]["refine"] == [[2, 7], [4, 12]]
    assert kan["callbacks"]["grid"]["update_until"] == 30


def test_the_recipe_is_a_trial_where_the_space_does_not_hold_it(tmp_path: Path) -> None:
    space = {"optim.lr": {"low": 0.5, "high": 1.0, "log": True}}

    def low_is_good(cell: Cell) -> float:
        return 1 - cell.config["optim"]["lr"]

    tunings, cells = tuned(study_of(tmp_path, trials=4, space=space), Bench(low_is_good))
    assert all(t.best is t.trials[0] and t.is_tuned for t in tunings)
    assert {cell.config["optim"]["lr"] for cell in cells} == {0.003}


# --- what is taken -------------------------------------------------------------------------------


def test_the_best_two_run_again_and_the_mean_decides(tmp_path: Path) -> None:
    """The trial that leads by luck of the first seed falls behind the one that is better."""
    rates = [settings["optim.lr"] for settings in points(SPACE, 5, 0)]
    lucky, good, third = rates[:3]
    first = {lucky: 0.9, good: 0.85, third: 0.84}

    def score(cell: Cell) -> float:
        rate = cell.config["optim"]["lr"]
        if cell.seed == SEED_OFFSET:
            return first.get(rate, 0.5)
        return {lucky: 0.7, good: 0.86, third: 0.99}[rate]

    config, bench = study_of(tmp_path, trials=6), Bench(score)
    tunings, _ = tuned(config, bench)
    for tuning in tunings:
        assert tuning.best is not None
        assert tuning.best.settings == {"optim.lr": good}
        assert tuning.best.scores == [0.85, 0.86, 0.86]
        assert tuning.best.first == 0.85
        again = [t.settings["optim.lr"] for t in tuning.trials if len(t.scores) == 3]
        assert sorted(again) == sorted([lucky, good])
    assert len(bench.done) == 2 * (6 + 2 * 2)
    rows = trials_of(config)
    assert rows.loc[rows["chosen"], "optim.lr"].tolist() == [good, good]
    once, _ = tuned(study_of(tmp_path / "once", trials=6, finalists=0), Bench(score))
    assert {t.best.settings["optim.lr"] for t in once if t.best} == {lucky}


def test_a_trial_that_diverges_counts_as_no_skill_and_is_published(tmp_path: Path) -> None:
    def score(cell: Cell) -> float | None:
        return None if cell.config["optim"]["lr"] > 0.1 else near_a_tenth(cell)

    config = study_of(tmp_path)
    tunings, _ = tuned(config, Bench(score))
    rows = trials_of(config)
    assert len(rows) == 24
    failed = rows[rows["failed"] > 0]
    assert len(failed) > 0
    assert set(failed["reason"]) == {"a loss diverged"}
    assert (failed["value"] == NO_SKILL).all()
    assert (failed["optim.lr"] > 0.1).all()
    record = json.loads((Path(config["runs"]) / "smoke/tuning/tuning.json").read_text())
    assert [row["best"]["value"] for row in record["best"]] == [
        t.best.value for t in tunings if t.best
    ]
    shown = tuning_record(tunings, options_of(config), {"accuracy": 0.01}, {"mlp": 0, "kan": 1})
    assert shown is not None
    assert [row["failed"] for row in shown["rows"]] == [
        sum(bool(trial.reasons) for trial in t.trials) for t in tunings
    ]


@pytest.mark.slow
def test_divergence_with_a_further_seed_costs_a_trial_its_lead(tmp_path: Path) -> None:
    rates = [settings["optim.lr"] for settings in points(SPACE, 3, 0)]

    def score(cell: Cell) -> float | None:
        rate = cell.config["optim"]["lr"]
        if rate == rates[0]:
            return 0.95 if cell.seed == SEED_OFFSET else None
        return 0.9 if rate == rates[1] else 0.2

    tunings, _ = tuned(study_of(tmp_path, trials=4), Bench(score))
    assert {t.best.settings["optim.lr"] for t in tunings if t.best} == {rates[1]}
    for tuning in tunings:
        assert tuning.trials[1].value == pytest.approx((0.95 + 2 * NO_SKILL) / 3)


def test_where_no_trial_works_the_recipe_stays_and_is_not_called_tuned(tmp_path: Path) -> None:
    config = study_of(tmp_path, trials=2)
    tunings, cells = tuned(config, lambda cells: None)  # type: ignore[arg-type]
    assert {reason for t in tunings for trial in t.trials for reason in trial.reasons} == {
        "not run"
    }
    assert cells == plan(config)
    assert not any(t.is_tuned for t in tunings)


def test_the_recipe_alone_is_no_choice(tmp_path: Path) -> None:
    tunings, _ = tuned(study_of(tmp_path, trials=1), Bench())
    assert [t.best for t in tunings] == [t.trials[0] for t in tunings]
    assert not any(t.is_tuned for t in tunings)


# --- which arms are tuned, and when --------------------------------------------------------------


def test_kinds_that_share_their_runs_share_their_tuning(tmp_path: Path) -> None:
    config = study_of(tmp_path, trials=3)
    config["study"]["match"] = ["params", "flops"]
    tunings, cells = tuned(config, Bench())
    assert len(tunings) == 3, "the MLP is the same under both budgets"
    rates = {c.match: c.config["optim"]["lr"] for c in cells if c.arm == "mlp"}
    assert rates["params"] == rates["flops"]


def test_an_arm_at_the_sizes_of_another_is_tuned_at_those_that_this_has_in_the_end(
    tmp_path: Path,
) -> None:
    extra = {"kan": {"basis.grid_size": {"choices": [2, 40]}}}
    config = study_of(tmp_path, trials=8, extra=extra, allow_extra=True)
    config["study"] |= {"controls": ["mlp-narrow"], "match": ["params"]}
    config["study"]["models"] = {"mlp": ["model.width=64"]}

    def large_is_good(cell: Cell) -> float:
        grid = cell.config["basis"].get("grid_size", 0) if cell.config["layers"]["kan_roles"] else 0
        return near_a_tenth(cell) / 2 + grid / 100

    before = {cell.arm: cell for cell in plan(config)}
    bench = Bench(large_is_good)
    tunings, cells = tuned(config, bench)
    assert [t.cell.arm for t in tunings] == ["mlp", "kan", "mlp-narrow"]
    after = {cell.arm: cell for cell in cells}
    assert after["kan"].config["basis"]["grid_size"] == 40
    assert after["mlp-narrow"].config["model"] != before["mlp-narrow"].config["model"]
    ran = [cell for cell in bench.done if cell.arm == "mlp-narrow"]
    assert {str(cell.config["model"]) for cell in ran} == {
        str(after["mlp-narrow"].config["model"])
    }, "no trial at the sizes of the untuned KAN"
    sizes = [parts.plan.options for parts in check_cells([after["kan"], after["mlp-narrow"]])]
    assert sizes[0] == sizes[1]


def test_arms_wait_for_those_that_they_take_something_from() -> None:
    arms = {"narrow": ["sizes_of=kan"], "mlp": [], "third": ["budget_of=narrow"], "kan": []}
    assert tuning_order(arms) == [["mlp", "kan"], ["narrow"], ["third"]]


def test_what_is_the_same_as_its_twin_stays_left_out(tmp_path: Path) -> None:
    config = study_of(tmp_path, trials=3)
    config["study"] |= {"controls": ["mlp-narrow"], "match": ["width"]}
    assert {cell.arm for cell in plan(config)} == {"mlp", "kan"}
    _, cells = tuned(config, Bench())
    assert {cell.arm for cell in cells} == {"mlp", "kan"}


def test_more_freedom_for_one_arm_is_refused_unless_declared(tmp_path: Path) -> None:
    extra = {"kan": {"basis.grid_range": {"choices": [[-1, 1], [-3, 3]]}}}
    with pytest.raises(ValueError, match=r"more freedom.*basis.grid_range.*allow_extra=true"):
        plan(study_of(tmp_path, extra=extra))
    config = study_of(tmp_path, trials=6, extra=extra, allow_extra=True)
    check_trials(config, plan(config))
    tunings, _ = tuned(config, Bench())
    rates = [[trial.settings["optim.lr"] for trial in t.trials] for t in tunings]
    assert rates[0] == rates[1], "what arms have in common is the same"
    assert set(tunings[0].trials[0].settings) == {"optim.lr"}
    assert {str(trial.settings["basis.grid_range"]) for trial in tunings[1].trials[1:]} == {
        "[-1, 1]",
        "[-3, 3]",
    }
    record = tuning_record(tunings, options_of(config), {"accuracy": 0.01}, {"mlp": 0, "kan": 1})
    assert record is not None
    assert record["extra"] == [("kan", "basis.grid_range", "one of [-1, 1], [-3, 3]")]


# --- it goes on ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_tuning_goes_on_where_it_was(tmp_path: Path) -> None:
    class PowerCut(Bench):
        def __call__(self, cells: list[Cell]) -> None:
            super().__call__(cells[: len(cells) // 2])
            raise KeyboardInterrupt

    config = study_of(tmp_path / "whole")
    tuned(config, Bench())
    interrupted, first, second = study_of(tmp_path / "cut"), PowerCut(), Bench()
    with pytest.raises(KeyboardInterrupt):
        tuned(interrupted, first)
    tuned(interrupted, second)
    pd.testing.assert_frame_equal(trials_of(interrupted), trials_of(config))
    assert read_journal(interrupted) == read_journal(config)
    done = [cell.folder.path for cell in (*first.done, *second.done)]
    assert len(done) == len(set(done)), "nothing was run twice"
    third = Bench()
    tuned(interrupted, third)
    assert third.done == []


# --- the record ----------------------------------------------------------------------------------


def read_journal(config: dict[str, Any]) -> dict[str, list[Any]]:
    """Settings, values and the chosen ones of every study in the journal, by its name."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    path = Path(config["runs"]) / "smoke" / "tuning" / "journal.log"
    storage = JournalStorage(JournalFileBackend(str(path)))
    names = [summary.study_name for summary in optuna.get_all_study_summaries(storage)]
    studies = {name: optuna.load_study(study_name=name, storage=storage) for name in names}
    return {
        name: [(t.params, t.value, t.state.name, t.user_attrs) for t in study.trials]
        for name, study in studies.items()
    }


def test_optuna_reads_the_journal(tmp_path: Path) -> None:
    def score(cell: Cell) -> float | None:
        return None if cell.config["optim"]["lr"] > 0.1 else near_a_tenth(cell)

    space = {**SPACE, "data.batch_size": {"choices": [32, 64]}}
    config = study_of(tmp_path, trials=6, space=space)
    tunings, _ = tuned(config, Bench(score))
    journal = read_journal(config)
    assert list(journal) == ["digits mlp mlp none", "digits mlp kan none"]
    for tuning, trials in zip(tunings, journal.values(), strict=True):
        assert len(trials) == 6
        for trial, (params, value, state, notes) in zip(tuning.trials, trials, strict=True):
            assert value == trial.value
            assert state == "COMPLETE", "a prediction without skill is a score"
            assert params["optim.lr"] == trial.settings["optim.lr"]
            assert notes["settings"] == trial.settings
            assert notes["chosen"] is (trial is tuning.best)
        assert "data.batch_size" not in trials[0][0], "the recipe's is no choice of the space"
    tuned(config, Bench(score))
    assert read_journal(config) == journal


def test_the_range_of_rates_reaches_as_far_as_scores_stay_near_the_best(tmp_path: Path) -> None:
    (cell,) = distinct(plan(configured(tmp_path)))[:1]

    def trials(**scores: float | None) -> Tuning:
        rows = [
            Trial(i, {"optim.lr": float(rate.replace("_", "."))}, [value], value)
            for i, (rate, value) in enumerate((k[1:], v) for k, v in scores.items())
        ]
        return Tuning(cell, "accuracy", "max", [cell.kind], rows)

    tuning = trials(r0_001=0.5, r0_01=0.891, r0_03=0.9, r0_1=0.895, r1=0.6, r2=0.9)
    assert rate_range(tuning, 0.01) == (0.01, 0.1), "what lies beyond a worse rate does not count"
    assert rate_range(tuning, 0.001) == (0.03, 0.03)
    tuning.mode = "min"
    assert rate_range(tuning, 0.15) == (0.001, 0.001)
    assert rate_range(trials(r0_1=None), 0.01) is None


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"trials": -1}, "study.tune.trials"),
        ({"trials": 1.5}, "study.tune.trials"),
        ({"seeds": 0}, "study.tune.seeds"),
        ({"epochs": 0}, "study.tune.epochs"),
        ({"epochs": 1.5}, "study.tune.epochs"),
        ({"finalist_seeds": 0}, "study.tune.finalist_seeds"),
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
    assert tuning_record([], options_of(config), {}, {}) is None
    assert tuned(config, Bench()) == ([], plan(config))


ACCURACY = ("demo", "mnist", "cifar10", "where", "depth", "grid", "special", "five_peaks")


@pytest.mark.parametrize("name", ACCURACY)
def test_the_studies_of_accuracy_are_tuned(tmp_path: Path, name: str) -> None:
    config = compose("compare", [f"study={name}", f"runs={tmp_path}"])
    tune = options_of(config)
    assert tune.trials >= 4
    assert tune.extra == {}
    rates, words = tune.space["optim.lr"], config["study"]["overrides"]
    recipe = compose("train", [word for word in words if word.startswith("optim")])
    assert rates["low"] <= recipe["optim"]["lr"] <= rates["high"], "the recipe is in the space"


@pytest.mark.usefixtures("inline")
def test_a_study_that_stops_while_it_tunes_does_not_count_its_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which of its runs are those of the study is known when tuning has chosen."""

    def stop(*_: object) -> None:
        raise Stopped(signal.SIGTERM)

    monkeypatch.setattr("kanzoo.compare.tune_arms", stop)
    with pytest.raises(SystemExit) as ended:
        _job(study_of(tmp_path, trials=3))
    assert ended.value.code == 128 + signal.SIGTERM
    said = "kanzoo: stopped by SIGTERM; tuning is not finished, the same command goes on from here"
    assert capsys.readouterr().err.splitlines()[-1] == said


@pytest.mark.slow
@pytest.mark.usefixtures("inline")
def test_a_tuned_study_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = study_of(tmp_path, trials=3, finalist_seeds=1)
    _job(config)
    folder = Path(config["runs"]) / "smoke"
    text = (folder / "report" / "index.html").read_text()
    assert "Tuning record" in text
    assert "Sensitivity to the learning rate" in text
    rows = trials_of(config)
    assert len(rows) == 6
    results = pd.read_csv(folder / "report" / "results.csv")
    assert results["is_tuned"].all()
    for arm, found in rows[rows["chosen"]].groupby("arm"):
        (best,) = found["optim.lr"]
        commands = results.loc[results["arm"] == arm, "command"]
        assert commands.str.contains(f"optim.lr={best:g} ").all()
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("result.json")}
    assert len(before) == 2 * (3 + 2) + 4
    capsys.readouterr()
    _job(config)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("result.json")} == before
