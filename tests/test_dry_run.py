"""A dry run counts what then runs: trials and cells, from whatever state a study is in."""

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from test_tune import Bench, near_a_tenth, study_of

from kanzoo.compare import _job
from kanzoo.errors import DivergedError
from kanzoo.ledger.main import main as ledger
from kanzoo.study.comparison import check_cells, plan, tune_arms
from kanzoo.study.comparison import study_of as declared
from kanzoo.study.plan import Cell
from kanzoo.study.preview import Finished, runs_to_do
from kanzoo.study.selection import only_selected
from kanzoo.study.tune import TrialRuns


class Stopped(Exception):
    """The power goes."""


def counted(config: dict[str, Any]) -> tuple[int, int]:
    cells = plan(config)
    trials, rest = runs_to_do({**config, "dry_run": True}, cells, check_cells(cells), Finished())
    return len(trials), len(rest)


def ran(config: dict[str, Any], left: int = 1000, fails: float = 10.0) -> tuple[int, int]:
    """Run the study without training until so many runs are done; trials and cells that ran."""

    def score(cell: Cell) -> float | None:
        nonlocal left
        if left == 0:
            raise Stopped
        left -= 1
        return None if cell.config["optim"]["lr"] > fails else near_a_tenth(cell)

    bench = Bench(score)
    run = only_selected(bench, declared(config))
    cells = plan(config)
    try:
        _, cells = tune_arms(config, cells, check_cells(cells), TrialRuns(run))
        run(cells)
    except Stopped:
        pass
    trials = [cell for cell in bench.done if cell.config["name"] == "trials"]
    return len(trials), len(bench.done) - len(trials)


@pytest.mark.parametrize("stopped", [0, 3, 9, 13, 23])
def test_counts_are_those_of_what_then_runs(tmp_path: Path, stopped: int) -> None:
    config = study_of(tmp_path, trials=4)
    config["study"] |= {"controls": ["mlp-narrow"], "match": ["params"]}
    ran(config, stopped)
    assert counted(config) == ran(config)
    assert counted(config) == (0, 0)


def test_trials_of_a_study_that_logs_to_wandb_are_planned(tmp_path: Path) -> None:
    config = study_of(tmp_path, trials=3)
    others = [word for word in config["study"]["overrides"] if word != "logger=csv"]
    config["study"]["overrides"] = [*others, "logger=wandb"]
    trials, cells = counted(config)
    assert trials > 0
    assert (trials, cells) == ran(config)


def test_of_a_selection_only_its_own_runs_count(tmp_path: Path) -> None:
    config = study_of(tmp_path, trials=3)
    config["study"]["models"] = {"mlp": ["model.width=8"], "resmlp": ["model.width=8"]}
    chosen = {**config, "study": {**config["study"], "select": {"models": ["resmlp"]}}}
    assert counted(chosen) == ran(chosen) == (2 * (3 + 4), 4)
    assert counted(chosen) == (0, 0)
    assert counted(config) == (2 * (3 + 4), 4)


def test_failed_trials_are_tried_again_and_do_not_run_with_further_seeds(tmp_path: Path) -> None:
    config = study_of(tmp_path, trials=4)
    ran(config, fails=0.0)
    assert counted(config) == ran(config, fails=0.0)


def test_what_diverged_has_ended_and_what_failed_has_not(tmp_path: Path) -> None:
    """To repeat a run until it does not diverge would be to choose among results."""
    config = study_of(tmp_path, trials=0, space={})
    first, second, *rest = plan(config)
    first.folder.write_failure(str(DivergedError("the loss became nan")))
    second.folder.write_failure("the worker process was killed by SIGKILL")
    assert counted(config) == (0, 1 + len(rest))
    assert counted({**config, "overwrite": True}) == (0, 2 + len(rest))


@pytest.mark.slow
@pytest.mark.usefixtures("inline")
def test_a_tuned_study_goes_on_from_a_ledger(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither trials nor cells are run again, and what is concluded stays the same."""
    config = study_of(tmp_path, trials=3, finalist_seeds=1)
    _job(config)
    folder, ledgers = Path(config["runs"]) / "smoke", tmp_path / "ledgers"
    names = ("tuning/trials.csv", "report/verdicts.json")
    before = [(folder / name).read_text() for name in names]
    ledger(["add", str(folder), "--ledger", str(ledgers / "smoke")])
    shutil.rmtree(folder)
    config["ledger"] = str(ledgers)
    capsys.readouterr()
    _job({**config, "dry_run": True})
    said = " ".join(capsys.readouterr().out.split())
    assert "0 of them to do" in said
    assert "0 runs of tuning before" in said
    assert not folder.exists()
    _job(config)
    assert [(folder / name).read_text() for name in names] == before
    assert not list(folder.glob("tuning/trials/**/result.json"))
    assert set(pd.read_csv(folder / "report" / "results.csv")["source"]) == {"ledger smoke"}


def test_costs_stand_beside_those_of_the_baseline(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not beside those of an arm's own twin, which a narrow twin would equal."""
    config = study_of(tmp_path, trials=0, space={})
    config["study"] |= {"controls": ["mlp-narrow"], "match": ["params"]}
    config["study"]["models"] = {"mlp": ["model.width=64"]}
    _job({**config, "dry_run": True})
    rows = [line.split("│") for line in capsys.readouterr().out.splitlines() if "│" in line]
    params = {row[3].strip(): int(row[6].replace(",", "")) for row in rows}
    ratios = {row[3].strip(): float(row[7]) for row in rows}
    assert ratios["mlp"] == 1
    assert ratios["mlp-narrow"] == pytest.approx(params["mlp-narrow"] / params["mlp"], abs=6e-4)
    assert ratios["mlp-narrow"] < 0.5
