"""Published figures: recipes compose, runs go on, and a worse figure is not passed over."""

import dataclasses
import json
import math
import statistics
from pathlib import Path

import pytest

from kanzoo import registry
from kanzoo.reproduce import published
from kanzoo.reproduce.figures import REPRODUCTIONS, Reproduction, Row
from kanzoo.reproduce.outcomes import Outcome, SeedRun, with_bases
from kanzoo.run.config import Composer

QUICK = ("trainer.max_epochs=1", "data.n_train=64", "data.n_val=32", "data.n_test=32")


def test_every_recipe_has_its_figures_and_every_row_composes() -> None:
    names = {n for n in registry.names("experiment") if n.startswith("published/")}
    assert names == {f"published/{name}" for name in REPRODUCTIONS}
    composed = Composer("train")
    for name, about in REPRODUCTIONS.items():
        assert len({row.overrides for row in about.rows.values()}) == len(about.rows), name
        hashes = set()
        some = [*about.rows.values()][:: len(about.rows) // 3 or 1]
        for row in some:
            config = composed([f"experiment=published/{name}", *row.overrides])
            hashes.add(json.dumps([config[key] for key in ("data", "model", "layers", "basis")]))
        assert len(hashes) == len(some), name
        head = " ".join(registry.files("experiment")[f"published/{name}"].read_text().split("#"))
        head = " ".join(head.split())
        near = f"x{about.tolerance:g}" if about.is_factor else f"+-{about.tolerance:g}"
        time = f"About {about.minutes:g} min a seed on one core" if about.minutes else "For a GPU"
        assert all(part in head for part in ("Expected", f"tolerance {near}", time, "train.py"))


@pytest.mark.parametrize(
    ("is_factor", "ours", "is_error", "verdict"),
    [
        (True, 1.9e-3, True, "agrees"),
        (True, 2.1e-3, True, "worse"),
        (True, 4e-4, True, "better"),
        (False, 0.95, False, "better"),
        (False, -0.95, False, "worse"),
        (False, 0.4, False, "agrees"),
    ],
)
def test_verdicts(is_factor: bool, ours: float, is_error: bool, verdict: str) -> None:
    about = Reproduction("", "", {}, tolerance=2.0 if is_factor else 0.5, is_factor=is_factor)
    assert about.verdict(1e-3, ours, is_error) == verdict


def test_a_figure_of_one_seed_is_held_against_single_runs_too() -> None:
    def outcome(experiment: str, *scores: float) -> Outcome:
        row = next(iter(REPRODUCTIONS[experiment].rows))
        runs = {seed: SeedRun(score, 1.0, "") for seed, score in enumerate(scores)}
        return Outcome(experiment, row, 1e-3, "", "", 1, runs)

    spread, narrow = (1e-3, 2e-3, 3e-3, 4e-3, 5e-3), (3e-3, 3.1e-3, 3.2e-3, 3.3e-3, 3.4e-3)
    one = outcome("kanbefair_special", *spread)
    logs = [math.log(score) for score in spread]
    half = 2.776 * statistics.stdev(logs) * math.sqrt(1.2)  # t of four degrees of freedom
    ends = [math.exp(statistics.fmean(logs) + sign * half) for sign in (-1, 1)]
    assert one.single == pytest.approx(ends, rel=1e-3)
    assert one.verdict == "within seeds"
    assert "95 % of single runs expected from 0.000" in published.table([one])
    assert outcome("kanbefair_special", *narrow).verdict == "worse"
    assert outcome("kanbefair_special", *spread[:4]).verdict == "worse"  # too few say nothing
    assert outcome("kan_poisson", 1e-3, 2e-3, 4e-3, 8e-3, 9e-3).verdict == "worse"  # of more
    assert outcome("kanbefair_special", 1e-3, 1e-3, 1e-3, 1e-3, 3e-3).verdict == "agrees"


def test_figures_of_other_data_are_ratios_to_a_row_beside_them() -> None:
    def outcome(row: str, *scores: float) -> Outcome:
        figure = REPRODUCTIONS["gpt_ffn"].rows[row].published
        runs = {seed: SeedRun(score, 1.0, "") for seed, score in enumerate(scores)}
        return Outcome("gpt_ffn", row, figure, "", "", 1, runs, base=2.0)

    both = with_bases([outcome("GELU", 4.0, 8.0), outcome("SwiGLU", 3.0)])
    assert [o.measured for o in both] == [1.0, 0.5]
    assert outcome("GELU", 2.0, 2.0).verdict == "agrees"
    assert outcome("B-spline, G = 2", 2.1, 2.06).verdict == "agrees"  # 1.0408 was published
    assert outcome("B-spline, G = 2", 2.2).verdict == "worse"
    assert "x0.98" in published.table([outcome("SwiGLU", 1.96)])


def test_runs_go_on_and_a_worse_figure_ends_with_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = {"easy": Row(QUICK, 1e3), "hard": Row((*QUICK, "basis.grid_size=7"), 1e-9)}
    tiny = Reproduction(
        "a source", "mae", rows, 2.0, is_factor=True, minutes=1, seeds=2, by_test=True
    )
    large = REPRODUCTIONS["kat_imagenet"]
    only = {"kanbefair_special": tiny, "kat_imagenet": large}
    monkeypatch.setattr(published, "REPRODUCTIONS", only)
    page = tmp_path / "page.md"
    words = ["--runs", str(tmp_path / "runs"), "--page", str(page)]
    with pytest.raises(SystemExit) as ended:
        published.main(words)
    assert ended.value.code == 2
    assert "beyond the tolerance: kanbefair_special: hard\n" in capsys.readouterr().err
    record = {o["row"]: o for o in json.loads(page.with_suffix(".json").read_text())}
    assert [record[r]["verdict"] for r in rows] == ["better", "worse"]
    runs = [run for r in rows for run in record[r]["runs"].values()]
    assert len(runs) == 4
    # Of a single epoch the best is that one, whoever chooses.
    assert [run["by_test"] for run in runs] == pytest.approx([run["score"] for run in runs])
    # As many as in the paper, its 5.7 million but for what our blocks have in other places.
    assert record["DeiT-T"]["verdict"] == "not run"
    assert record["DeiT-T"]["params"] == pytest.approx(5.7e6, rel=0.02)
    text = page.read_text()

    def never(*given: object) -> None:
        raise AssertionError(given)

    monkeypatch.setattr(published, "train", never)
    for further in (["--show"], []):  # what was measured stays, wherever its runs are
        with pytest.raises(SystemExit):
            published.main(["--runs", str(tmp_path / "none"), "--page", str(page), *further])
        assert page.read_text() == text
    with pytest.raises(AssertionError):
        published.main(["--runs", str(tmp_path / "none"), "--page", str(page), "--again"])
    # Of another recipe nothing was measured.
    other = {**rows, "hard": Row((*QUICK, "basis.grid_size=9"), 1e-9)}
    monkeypatch.setitem(only, "kanbefair_special", dataclasses.replace(tiny, rows=other))
    with pytest.raises(AssertionError):
        published.main(words)
    record = {o["row"]: o for o in json.loads(page.with_suffix(".json").read_text())}
    assert [record[r]["verdict"] for r in rows] == ["better", "not run"]
