"""A study from plan to report, on cells of a second, and cells that fail in every way."""

import copy
import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import compose
from fuzzing import in_process

from kanzoo.compare import _job, main
from kanzoo.errors import DivergedError
from kanzoo.study.comparison import check_cells, plan
from kanzoo.study.engines.local import LocalEngine
from kanzoo.study.plan import Cell
from kanzoo.study.results import collect

SHORT = ["callbacks.progress=false", "logger=csv", "trainer.max_epochs=1"]
TINY: dict[str, Any] = {
    "models": {"mlp": ["model.width=8"]},
    "arms": {"mlp": ["layers=mlp"], "kan": ["layers=kan"]},
    "overrides": [*SHORT, "data.limit_train=128"],
}


@functools.cache
def smoke() -> dict[str, Any]:
    return dict(compose("compare", ["study=smoke", "engine.workers=2"]))


def configured(tmp_path: Path, **study: Any) -> dict[str, Any]:
    """The smoke study cut down to four cells of a second, with some of its keys changed."""
    config = copy.deepcopy({**smoke(), "runs": str(tmp_path / "runs")})
    return {**config, "study": {**config["study"], **TINY, **study}}


def cells_of(tmp_path: Path, **study: Any) -> list[Cell]:
    return plan(configured(tmp_path, **study))


# --- refused before anything runs ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("study", "hint"),
    [
        ({"baseline": "mpl"}, "'mlp'"),
        ({"baseline": "kan"}, "baseline must be the MLP twin"),
        ({"seeds": 1}, "at least 2"),
        ({"margin": 0}, "margin"),
        ({"margin": -0.1}, "margin"),
        ({"data": []}, "study.data is empty"),
        ({"data": ["digit"]}, "'digits'"),
        ({"models": {"mpl": []}}, "'mlp'"),
        ({"arms": {"mlp": ["layers=mlp"]}}, "nothing to compare"),
        ({"arms": {"mlp": ["layers=mlp"], "kan": ["layers=kna"]}}, "'kan'"),
        ({"match": ["parms"]}, "'params'"),
        ({"models": {"mlp": ["model.widht=8"]}}, "'model.width'"),
        ({"arms": {"mlp": ["layers=mlp"], "kan": ["layers=kan_ffn"]}}, "'ffn'"),
        ({"overrides": ["trainer.max_epochs=0"]}, "max_epochs"),
        ({"first_seed": -1}, "seed"),
    ],
)
def test_studies_without_a_verdict_are_refused(
    tmp_path: Path, study: dict[str, Any], hint: str
) -> None:
    with pytest.raises(ValueError, match=r"\w") as refusal:
        check_cells(cells_of(tmp_path, **study))
    assert hint in str(refusal.value)
    assert not list(tmp_path.iterdir())


def test_seeds_pair_the_arms(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, seeds=3, first_seed=5)
    assert [(c.seed, c.arm) for c in cells] == [(s, a) for s in (5, 6, 7) for a in ("mlp", "kan")]
    for cell in cells:
        assert cell.config["seed"] == cell.seed
        assert cell.config["data"] == cells[0].config["data"]
        assert cell.config["optim"] == cells[0].config["optim"]
        # The command that the report names repeats this very run.
        assert compose("train", list(cell.overrides)) == cell.config


# --- cells that fail -----------------------------------------------------------------------------


def result_of(config: dict[str, Any]) -> dict[str, Any]:
    """What a finished cell leaves, without training."""
    from kanzoo.rundir import RunDir

    folder = RunDir.of(config)
    folder.write_config()
    result = {
        **{"status": "finished", "metric": "accuracy", "mode": "max", "sizes": "width 8"},
        **{"trunk_changed": "", "kan_roles": [], "flops_sparse": 1},
        **{"test": {"accuracy": 0.5}, "val": {"accuracy": 0.5}, "params": 1, "flops": 1},
        **{"step_time_ms": 1.0, "peak_memory_mb": 1.0, "train_seconds": 1.0, "epochs": 1},
    }
    folder.write_result(result)
    return result


def first_kan(config: dict[str, Any]) -> bool:
    return config["seed"] == 0 and config["choices"]["layers"] == "kan"


def test_a_diverged_cell_has_the_score_of_its_reference(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, data=["digits"], seeds=2)
    for cell in cells:
        cell.folder.write_config()
        if (cell.arm, cell.seed) == ("kan", 1):
            reason = str(DivergedError("the loss became nan at epoch 0, step 2"))
            (cell.folder.path / "failure.txt").write_text(reason)
            continue
        result = result_of(cell.config)
        test = {"accuracy": 0.1 + 0.01 * cell.seed, "ece": 0.3}
        cell.folder.write_result({**result, "reference": {"test": test}})
    table = collect(cells, tmp_path / "runs" / "smoke")
    (lost,) = table[table["status"] == "diverged"].to_dict("records")
    assert (lost["arm"], lost["seed"], lost["test"]) == ("kan", 1, 0.11)
    assert lost["test_ece"] == 0.3
    assert lost["reason"].startswith("diverged: the loss became nan")


def raises(config: dict[str, Any]) -> dict[str, Any]:
    if first_kan(config):
        raise RuntimeError("out of luck\nand of memory")
    return result_of(config)


def succeeds_late(config: dict[str, Any]) -> dict[str, Any]:
    marker = Path(config["runs"]) / "tried"
    if first_kan(config) and not marker.exists():
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
        os._exit(9)
    return result_of(config)


def drive(
    cells: list[Cell], train: Callable[..., dict[str, Any]], **options: Any
) -> dict[tuple[int, str], str]:
    ends: dict[tuple[int, str], str] = {}

    def on_end(cell: Cell, reason: str) -> None:
        assert (cell.seed, cell.arm) not in ends
        ends[cell.seed, cell.arm] = reason

    keywords = {"workers": 2, "threads": 1, "cell_timeout": None, "max_retries": 0, **options}
    with LocalEngine(**keywords).session(len(cells), Path(), train) as session:
        session.run(cells, on_end)
    return ends


@pytest.mark.slow
def test_a_failing_cell_is_reported_and_the_others_go_on(tmp_path: Path) -> None:
    """Cells that end, hang or exhaust the memory are those of `test_engines.py`."""
    word = "RuntimeError: out of luck and of memory"
    cells = cells_of(tmp_path)
    ends = drive(cells, raises, max_retries=1)
    assert word in ends.pop((0, "kan"))
    assert ends == {(0, "mlp"): "", (1, "mlp"): "", (1, "kan"): ""}
    table = collect(cells, tmp_path / "runs" / "smoke")
    failed = table[table["status"] == "failed"]
    assert list(zip(failed["seed"], failed["arm"], strict=True)) == [(0, "kan")]
    assert word in failed["reason"].item()
    # What failed is tried again, and its reason goes when it works.
    waiting = [cell for cell in cells if cell.folder.result() is None]
    assert drive(waiting, result_of) == {(0, "kan"): ""}
    table = collect(cells, tmp_path / "runs" / "smoke")
    assert set(table["status"]) == {"finished"}
    assert not list(tmp_path.rglob("failure.txt"))


@pytest.mark.slow
def test_a_failed_cell_is_retried(tmp_path: Path) -> None:
    before = dict(os.environ)
    ends = drive(cells_of(tmp_path), succeeds_late, max_retries=1)
    assert set(ends.values()) == {""}
    assert dict(os.environ) == before


def test_cells_that_were_not_run_are_waiting(tmp_path: Path) -> None:
    cells = cells_of(tmp_path)
    table = collect(cells, tmp_path / "runs" / "smoke")
    assert set(table["status"]) == {"waiting"}
    assert table["command"].str.startswith("python scripts/train.py data=digits").all()


def test_cells_have_the_metric_of_their_data(tmp_path: Path) -> None:
    """Whether they have run or not, and also where the data sets of a study differ in task."""
    cells = cells_of(tmp_path, data=["digits", "diabetes"], match=["none"])
    check_cells(cells)
    assert {c.data: c.config["choices"]["task"] for c in cells} == {
        "digits": "classification",
        "diabetes": "regression",
    }
    for cell in cells:
        assert compose("train", list(cell.overrides)) == cell.config
    table = collect(cells, tmp_path / "runs" / "smoke")
    found = {tuple(row) for row in table[["data", "metric", "mode"]].to_numpy()}
    assert found == {("digits", "accuracy", "max"), ("diabetes", "rmse", "min")}


# --- the whole -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_study_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = configured(tmp_path, match=["params"])

    def times() -> dict[Path, int]:
        return {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("result.json")}

    _job(config)
    report = tmp_path / "runs" / "smoke" / "report"
    assert {path.name for path in report.iterdir()} >= {
        *("index.html", "report.md", "results.csv", "verdicts.json")
    }
    rows = pd.read_csv(report / "results.csv")
    assert sorted(zip(rows["seed"], rows["arm"], strict=True)) == [
        *((0, "kan"), (0, "mlp"), (1, "kan"), (1, "mlp"))
    ]
    assert set(rows["status"]) == {"finished"}
    (verdict,) = json.loads((report / "verdicts.json").read_text())
    assert (verdict["model"], verdict["arm"], verdict["n_seeds"]) == ("mlp", "kan", 2)
    by_arm = rows.groupby("arm")["test"].mean()
    assert verdict["mean_difference"] == pytest.approx(by_arm["kan"] - by_arm["mlp"])
    assert "mlp" in capsys.readouterr().out
    first = times()
    assert len(first) == 4

    _job(config)
    assert times() == first

    lost = sorted(first)[1]
    lost.unlink()
    capsys.readouterr()
    _job(config)
    assert "1 of 4 cells to run" in capsys.readouterr().err
    assert {p for p, t in times().items() if t != first[p]} == {lost}


@pytest.mark.slow
@pytest.mark.usefixtures("inline")
def test_a_study_where_smaller_is_better(tmp_path: Path) -> None:
    """Regression: a KAN arm that may not learn is worse, though its error is the larger number."""
    arms = {"mlp": ["layers=mlp", "optim.lr=0.01"], "kan": ["layers=kan", "optim.lr=1e-9"]}
    overrides = [*SHORT, "trainer.max_epochs=5"]
    config = configured(
        tmp_path,
        data=["diabetes"],
        match=["none"],
        seeds=5,
        looks=[5],
        arms=arms,
        overrides=overrides,
        differences={"kan": ["optim.lr"]},
    )
    _job(config)
    report = tmp_path / "runs" / "smoke" / "report"
    rows = pd.read_csv(report / "results.csv")
    assert set(zip(rows["metric"], rows["mode"], strict=True)) == {("rmse", "min")}
    (verdict,) = json.loads((report / "verdicts.json").read_text())
    assert verdict["metric"] == "rmse"
    assert verdict["mean_arm"] > verdict["mean_baseline"]
    assert verdict["mean_difference"] == pytest.approx(
        verdict["mean_baseline"] - verdict["mean_arm"]
    )
    assert verdict["direction"] == "worse"
    assert verdict["verdict"].startswith("worse")
    page = (report / "index.html").read_text()
    assert "rmse" in page
    result = next((tmp_path / "runs").rglob("seed0/result.json")).read_text()
    without_learning = json.loads(result)["reference"]["test"]["rmse"]
    assert f"(training mean) reaches a test rmse of {without_learning:.4g}" in page


@pytest.mark.slow
def test_a_dry_run_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kanzoo.study.preview.BUDGET", 1.0)
    outcome = in_process(main, ["study=smoke", "dry_run=true"], tmp_path)
    assert outcome.code == 0, outcome.error
    study = compose("compare", ["study=smoke"])["study"]
    count = len(study["models"]) * len(study["arms"]) * study["seeds"]
    assert f"{count} cells" in outcome.output
    assert not outcome.files


@pytest.mark.slow
@pytest.mark.usefixtures("inline")
def test_a_study_whose_cells_all_fail_is_reported(tmp_path: Path) -> None:
    config = configured(
        tmp_path,
        overrides=[*TINY["overrides"], "optim.lr=1e30"],
        metrics={"ece": {"mode": "min", "margin": 0.1}},
    )
    with pytest.raises(SystemExit) as end:
        _job(config)
    assert end.value.code == 1
    folder = tmp_path / "runs" / "smoke" / "report"
    table = pd.read_csv(folder / "results.csv")
    assert (table["status"] == "diverged").all()
    assert table["reason"].str.contains("loss").all()
    assert table["reason"][0] in (folder / "index.html").read_text()
    verdicts = json.loads((folder / "verdicts.json").read_text())
    assert {row["verdict"] for row in verdicts} == {"undecided"}
