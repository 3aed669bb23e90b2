"""Ledgers: what a study measured, added, checked, merged, taken up again and shown."""

import csv
import html
import json
import math
import re
import shutil
import subprocess
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from engine_study import configured

from kanzoo.ledger.grow import join
from kanzoo.ledger.main import main
from kanzoo.ledger.missing import missing
from kanzoo.ledger.repeat import Repeated
from kanzoo.ledger.restore import finished_in, take_finished
from kanzoo.ledger.store import read_ledger, read_verdicts
from kanzoo.ledger.tuned import check_trials
from kanzoo.ledger.verify import check_ledger
from kanzoo.rundir import RunDir
from kanzoo.study.comparison import plan, report, study_folder, study_of
from kanzoo.study.record import Record, write_record

ARMS = {"mlp": ["layers=mlp"], "kan": ["layers=kan"]}
STUDIES = Path(__file__).resolve().parents[1] / "docs" / "studies"
BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or ""
COMMITTED = sorted(path.parent for path in STUDIES.glob("*/runs.csv"))


def score(config: dict[str, Any], better: float = 0.0) -> np.ndarray:
    """Which of 40 test items a made-up run has right."""
    rng = np.random.default_rng([config["seed"], len(config["layers"]["kan_roles"])])
    return rng.random(40) < 0.6 + (0.1 + better) * bool(config["layers"]["kan_roles"])


def run_all(config: dict[str, Any], better: float = 0.0, models: str = "") -> Path:
    """A study whose runs are made up, of some models or all, with its report; its folder."""
    cells = [cell for cell in plan(config) if not models or cell.model in models.split()]
    for cell in cells:
        folder = RunDir.of(cell.config)
        if folder.has_ended:
            continue
        if cell.seed == 4 and cell.arm == "mlp":
            folder.write_failure("diverged: the loss became nan")
            continue
        correct = score(cell.config, better)
        folder.write_config()
        folder.write_items({"correct": correct, "loss": correct * 0.5})
        accuracy, choices = float(correct.mean()), cell.config["choices"]
        folder.write_result(
            {
                **{key: choices[key] for key in ("data", "model", "layers")},
                "basis": choices["basis"] if cell.config["layers"]["kan_roles"] else None,
                **{"name": cell.config["name"], "seed": cell.seed, "machine": "one"},
                **{"config_hash": folder.config_hash, "status": "finished"},
                **{"metric": "accuracy", "mode": "max", "sizes": "width 8"},
                **{"trunk_changed": "", "kan_roles": [], "flops_sparse": 1, "epochs": 1},
                "test": {"accuracy": accuracy, "loss": accuracy / 2},
                "val": {"accuracy": accuracy},
                **{"params": 10, "flops": 20, "step_time_ms": 1.25, "peak_memory_mb": 1.0},
                **{"train_seconds": 1.0, "reference": {"test": {"accuracy": 0.1}}},
                "reference_name": "majority",
                "split": {"train": 100, "val": 20, "test": 40, "test_set": "official",
                          "is_ordered": False},
            }
        )  # fmt: skip
    write_record(study_of(config), study_folder(config))
    report(config, cells, [])
    return study_folder(config)


def study(runs: Path, **keys: Any) -> dict[str, Any]:
    axes = {"grid": {"values": {"3": ["basis.grid_size=3"], "5": ["basis.grid_size=5"]},
                     "arms": ["kan"]}}  # fmt: skip
    return configured(runs, **{"arms": ARMS, "seeds": 5, "looks": [5], "axes": axes, **keys})


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def said(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    assert end.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return message


def test_a_ledger_concludes_what_the_report_did(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, ledger = run_all(study(tmp_path / "runs")), tmp_path / "ledgers" / "smoke"
    main(["add", str(folder), "--ledger", str(ledger)])
    assert "15 runs added" in capsys.readouterr().out
    assert check_ledger(ledger) == 15
    written = json.loads((ledger / "verdicts.json").read_text())
    assert written == json.loads((folder / "report" / "verdicts.json").read_text())
    assert {v["method"] for v in written} == {"seeds and items"}
    ours, theirs = ((f / "aggregate.json").read_text() for f in (ledger, folder / "report"))
    assert json.loads(ours) == json.loads(theirs)
    before = files(ledger)
    main(["add", str(folder), "--ledger", str(ledger)])
    assert "0 runs added" in capsys.readouterr().out
    assert files(ledger) == before, "the same bytes for the same runs"
    assert str(tmp_path) not in (ledger / "runs.csv").read_text(), "no folder of this machine"
    main(["show", str(ledger)])
    assert "15 runs" in capsys.readouterr().out

    main(["page", str(tmp_path / "ledgers")])
    page = (tmp_path / "ledgers" / "index.html").read_text()
    assert page.count("<tr class=") == len(written)
    assert "python scripts/train.py data=digits" in page
    assert "http" not in page.replace("http-equiv", ""), "nothing is fetched from elsewhere"
    main(["page", str(tmp_path / "ledgers")])
    assert (tmp_path / "ledgers" / "index.html").read_text() == page
    assert "Over all tasks" not in page
    shutil.copytree(ledger, tmp_path / "ledgers" / "again")
    main(["page", str(tmp_path / "ledgers")])
    both = (tmp_path / "ledgers" / "index.html").read_text()
    assert both.count("<tr class=") == 2 * len(written)
    assert "Over all tasks" in both, "effects are pooled over the tasks of both"

    assert "is not a ledger" in said(capsys, "show", tmp_path)
    assert "no ledger" in said(capsys, "page", tmp_path / "none")
    assert "--cells" in said(capsys, "repeat", ledger, "--cells", "0")
    (ledger / "aggregate.json").write_text("[]")
    assert "of another version" in said(capsys, "page", tmp_path / "ledgers")


def first(table: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """The table with other values in its first row, whatever their kind."""
    table = table.astype(dict.fromkeys(values, object))
    for name, value in values.items():
        table.loc[0, name] = value(table.loc[0, name]) if callable(value) else value
    return table


def with_score(text: str) -> str:
    result = json.loads(text)
    result["test"]["accuracy"] = 0.9
    return json.dumps(result)


TOLD = ["test", "val", "result", "layers", "basis"]
EDITS: dict[str, tuple[Any, str]] = {
    "score": (lambda t: first(t, test=0.9), "its result says"),
    "score and result": (lambda t: first(t, test=0.9, result=with_score), "its items give"),
    "cost": (lambda t: first(t, params=1), "params is 1"),
    "text": (lambda t: first(t, test="good"), "is no number"),
    "result": (lambda t: first(t, result="[]"), "its result cannot be read"),
    "deep result": (lambda t: first(t, result="[" * 100_000), "its result cannot be read"),
    "no result": (lambda t: first(t, result=""), "its result cannot be read"),
    "foreign arm": (lambda t: first(t, arm="better"), "arm better is not of the study"),
    "foreign seed": (lambda t: first(t, seed=99), "seed 99 is not of the study"),
    "path": (lambda t: first(t, config_hash="../../aa"), "config_hash that is none"),
    "foreign column": (lambda t: t.assign(note="mine"), "columns that no run has: note"),
    "lost column": (lambda t: t.drop(columns=["arm", "test"]), "lacks the columns arm, test"),
    "twice": (lambda t: pd.concat([t, t.tail(1)]), "has a run twice"),
    "fewer": (lambda t: t.iloc[1:], "no row for run"),
    "none": (lambda t: t.head(0), "has no runs"),
    "half a seed": (lambda t: first(t, seed=0.5), "seed that is no whole number: 0.5"),
    "command": (
        lambda t: first(t, command=lambda w: w.replace("data=digits", "data=mnist")),
        "its command is not that of arm",
    ),
    "further word": (
        lambda t: first(t, command=lambda w: f"{w} trainer.max_epochs=200"),
        "trainer.max_epochs=200, which the study does not say",
    ),
    "program": (
        lambda t: first(t, command=lambda w: w.replace("python scripts", "rm scripts")),
        "its command begins with rm scripts/train.py",
    ),
    "result of another seed": (
        lambda t: first(t, **t.loc[1, ["test", "val", "result"]].to_dict()),
        "seed of its command is",
    ),
    "result of another arm": (
        lambda t: first(t, **t.loc[t["arm"].ne(t["arm"][0]).idxmax(), TOLD].to_dict()),
        "its result says",
    ),
    "split": (lambda t: first(t, n_train=7), "n_train is 7, its result says 100"),
    "no skill": (lambda t: first(t, no_skill=0.5), "no_skill is 0.5, its result says 0.1"),
    "diverged": (lambda t: first(t, status="diverged", result=""), "not that of no skill, 0.1"),
    "lucky": (
        lambda t: t.assign(test=t["test"].where(t["status"].eq("finished"), 0.9)),
        "not that of no skill, 0.1",
    ),
    "tuned": (lambda t: t.assign(is_tuned=True), "has tuned runs, but no trials.csv"),
}
FILES: dict[str, tuple[str, Any, str]] = {
    "no arrays": ("items.npz", lambda b: b"nothing", "damaged ledger"),
    "cut arrays": ("items.npz", lambda b: b[: len(b) // 2], "damaged ledger"),
    "no text": ("runs.csv", lambda b: b"\xff\xfe" + b, "damaged ledger"),
    "nothing": ("runs.csv", lambda b: b"", "damaged ledger"),
    "verdict": ("verdicts.json", lambda b: b.replace(b'_seeds": 5', b'_seeds": 9'), "not follow"),
    "aggregate": ("aggregate.json", lambda b: b"{}", "does not follow"),
    "small number": (
        "verdicts.json",
        lambda b: re.sub(rb'("p_value": 0\.\d{3})\d*', rb"\g<1>", b, count=1),
        "does not follow",
    ),
    "study": (
        "study.yaml",
        lambda b: b.replace(b"max_epochs=2", b"max_epochs=9"),
        "which has trainer.max_epochs=9",
    ),
    "share of data": (
        "study.yaml",
        lambda b: b.replace(b"train_fraction:\n- 1.0", b"train_fraction:\n- 0.1"),
        "its command is not that of arm",
    ),
    "name": ("study.yaml", lambda b: b.replace(b"name: smoke", b"name: other"), "name=other"),
    "no JSON": ("verdicts.json", lambda b: b"better", "is not readable JSON"),
    "history": ("study.yaml", lambda b: b + b"added: 5\n", "added must list texts by the day"),
    "version": ("study.yaml", lambda b: b.replace(b"format: 2", b"format: 9"), "is of format 9"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger of a made-up study."""
    folder = tmp_path_factory.mktemp("made")
    ledger = folder / "smoke"
    main(["add", str(run_all(study(folder / "runs"), better=-0.3)), "--ledger", str(ledger)])
    return ledger


@pytest.mark.parametrize("edit", [*EDITS, *FILES, "items"])
def test_a_ledger_that_was_edited_is_refused_in_one_line(
    edit: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = tmp_path / "smoke"
    shutil.copytree(made, ledger)
    if edit in EDITS:
        change, message = EDITS[edit]
        table = pd.read_csv(ledger / "runs.csv", dtype={"grid": str})
        table = table.sort_values("status", ascending=False, ignore_index=True)  # finished first
        change(table).to_csv(ledger / "runs.csv", index=False)
    elif edit in FILES:
        name, change, message = FILES[edit]
        before = (ledger / name).read_bytes()
        assert change(before) != before
        (ledger / name).write_bytes(change(before))
    else:
        message = "it has no items"
        with np.load(ledger / "items.npz") as file:
            kept = {name: file[name] for name in file.files[2:]}
        np.savez(ledger / "items.npz", **kept)
    assert message in said(capsys, "check", ledger)
    if edit in ("no JSON", "version"):
        said(capsys, "show", ledger)
        said(capsys, "page", tmp_path)


def test_the_same_ledger_in_another_layout_is_accepted(made: Path, tmp_path: Path) -> None:
    """Orders of rows and columns, quotes, ends of lines and marks of UTF-8 mean nothing."""
    ledger = tmp_path / "smoke"
    shutil.copytree(made, ledger)
    table = pd.read_csv(ledger / "runs.csv", dtype=str, keep_default_na=False)
    table = table.sample(frac=1, random_state=1)[sorted(table)]
    table.to_csv(ledger / "runs.csv", index=False, quoting=csv.QUOTE_ALL)
    for path in ledger.glob("*.[cjy]*"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert check_ledger(ledger) == 15
    assert (
        read_ledger(ledger).runs["command"].tolist() == read_ledger(made).runs["command"].tolist()
    )


def test_items_of_corrupted_inputs_and_their_number(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = tmp_path / "smoke"
    shutil.copytree(made, ledger)
    with np.load(ledger / "items.npz") as file:
        items = {name: file[name] for name in file.files}
    right = {name: x for name, x in items.items() if name.endswith("correct")}
    more = {f"{name.rpartition('/')[0]}/noise_0.5.correct": x for name, x in right.items()}
    np.savez(ledger / "items.npz", **items, **more)
    assert check_ledger(ledger) == 15
    np.savez(ledger / "items.npz", **{name: np.tile(x, 2) for name, x in items.items()})
    assert "it has 80 items of 40 test samples" in said(capsys, "check", ledger)


def trials(row: dict[str, Any], **keys: list[Any]) -> pd.DataFrame:
    """Two trials of a row's kind, of which the second is the better."""
    kind = {key: [row[key]] * 2 for key in ("data", "model", "arm", "match", "grid")}
    columns = {"trial": [0, 1], "config_hash": ["0" * 8, "1" * 8], "value": [0.5, 0.75]}
    columns |= {"first": [0.5, 0.5], "scores": ["0.5", "0.5 1.0"], "failed": [0, 0]}
    columns |= {"reason": ["", ""], "chosen": [False, True]}
    return pd.DataFrame({**kind, **columns, "seed": [0, 0], **keys})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, ""),
        ({"optim.lr": [0.1, 0.2]}, "optim.lr=0.2 is chosen, which a run does not have"),
        ({"optim.momentum": [0.1, 0.2]}, "optim.momentum, which the study does not tune"),
        ({"chosen": [True, False]}, "trial 0 is chosen, the best is 1"),
        ({"value": [0.5, 0.9]}, "trial 1 has the value 0.9, its scores give 0.75"),
        ({"first": [0.5, 0.7]}, "trial 1 has the first 0.7, its scores give 0.5"),
        ({"scores": ["0.5", "nan nan"], "value": ["0.5", "nan"]}, "trial 1 has the value nan"),
        (
            {"scores": ["0.9", "0.5 1.0"], "value": [0.9, 0.75], "first": [0.9, 0.5]},
            "trial 1 ran again, trial 0 did not and was better before",
        ),
        ({"scores": ["-", "-"]}, "trial 1 is chosen, the best is none"),
        ({"config_hash": ["0" * 8] * 2}, "has 1 different trials, the study says 2"),
        ({"arm": ["other", "other"]}, "no trials of"),
        ({"scores": ["x", "y"]}, "is damaged"),
    ],
)
def test_trials_give_what_runs_were_tuned_to(
    keys: dict[str, list[Any]], message: str, made: Path
) -> None:
    ledger = read_ledger(made)
    tune = replace(ledger.study.tune, trials=2, space={"optim.lr": {"low": 0.1, "high": 1.0}})
    ledger = replace(ledger, record=Record(replace(ledger.study, tune=tune)))
    runs = ledger.runs.assign(is_tuned=ledger.runs.index == 0)
    table = trials(ledger.runs.iloc[0].to_dict(), **keys).drop(columns="seed")
    table.to_csv(made / "trials.csv", index=False)
    try:
        with pytest.raises(ValueError, match=message) if message else nullcontext():
            check_trials(made, replace(ledger, runs=runs))
    finally:
        (made / "trials.csv").unlink()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test": 0.01}, "has two results"),
        ({"val": 0.01}, "has two results"),
        ({"status": "diverged"}, "has two results"),
        ({"machine": "two"}, ""),
    ],
)
def test_runs_of_two_ledgers_are_the_same_or_refused(
    change: dict[str, Any], message: str, made: Path
) -> None:
    """Of what differs elsewhere without meaning the first ledger's is kept, the items with it."""
    ledger = read_ledger(made)
    finished = ledger.runs["status"].eq("finished").idxmax()
    runs = ledger.runs.copy()
    for name, value in change.items():
        runs.loc[finished, name] = value
    items = {
        name: ~values if values.dtype == bool else values for name, values in ledger.items.items()
    }
    with pytest.raises(ValueError, match=message) if message else nullcontext():
        joined = join(ledger, replace(ledger, runs=runs, items=items), made)
        assert joined.runs.loc[finished, "machine"] == "one"
        assert all(joined.items[name] is values for name, values in ledger.items.items())


def test_a_ledger_grows_whole_or_not_at_all(
    tmp_path: Path, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is refused leaves it as it is; what it has stays, the days of its growth with it."""
    ledger, lost = tmp_path / "ledger", tmp_path / "runs"
    shutil.copytree(made, ledger)
    before = files(ledger)
    folder = run_all(study(lost, margin=0.5), better=-0.3)
    assert "margin" in said(capsys, "add", folder, "--ledger", ledger)
    arms = {**ARMS, "rbf": ["layers=kan", "basis=rbf"]}
    folder = run_all(study(tmp_path / "more", arms=arms), better=-0.3)
    result = next(folder.glob("**/*rbf*/seed3/result.json"))
    result.write_text(result.read_text().replace("100", "99"))
    assert "n_train is 100" in said(capsys, "add", folder, "--ledger", ledger)
    assert files(ledger) == before
    assert [*tmp_path.glob(".ledger*")] == []
    for words in (["add", folder, "--ledger", ledger], ["merge", made, made, "--out", ledger]):
        result.write_text(result.read_text().replace("99", "100"))
        main([str(word) for word in words])
        grown = read_ledger(ledger)
        assert len(grown.runs) == 20
        assert [*grown.record.added.values()] == [["arms rbf"]]
    old = (ledger / "study.yaml").read_bytes().replace(b"added:\n  '2", b"added:\n  '1")
    (ledger / "study.yaml").write_bytes(old)
    main(["merge", str(ledger), "--out", str(tmp_path / "copy")])
    assert read_ledger(tmp_path / "copy").record.added == read_ledger(ledger).record.added
    assert next(iter(read_ledger(ledger).record.added)) < "2000"


@pytest.mark.parametrize(
    ("is_same", "deviations", "verdict"),
    [
        (True, math.inf, "identical"),
        (False, math.inf, "differs"),
        (False, -3.9, "within seed noise"),
        (False, 4.1, "differs"),
        (False, math.nan, "differs"),
    ],
)
def test_what_is_repeated_agrees_or_differs(is_same: bool, deviations: float, verdict: str) -> None:
    assert Repeated("a run", 0.9, 0.8, is_same, deviations, ("", "")).verdict == verdict


@pytest.mark.slow
def test_a_ledger_grows_task_by_task_and_says_what_is_missing(tmp_path: Path) -> None:
    """Runs of one model of two, then of both: the ledger is that of both at once."""
    models = {"one": ["model=mlp"], "two": ["model=mlp", "model.depth=1"]}
    pages, folder = [], tmp_path / "ledgers" / "smoke"
    config = study(tmp_path / "runs", models=models)
    for names in ("one", "one two"):
        main(["add", str(run_all(config, models=names)), "--ledger", str(folder)])
        assert check_ledger(folder) == 15 * len(names.split())
        main(["page", str(tmp_path / "ledgers")])
        pages.append((tmp_path / "ledgers" / "index.html").read_text())
    assert "Tasks without runs (1 of 2): digits two." in pages[0]
    assert "without runs" not in pages[1]


def test_what_a_ledger_lacks_of_its_study(made: Path) -> None:
    ledger = read_ledger(made)
    runs = ledger.runs
    assert missing(ledger) == []
    part = runs[~(runs["arm"].eq("mlp") & runs["seed"].eq(2))]
    (line,) = missing(replace(ledger, runs=part))
    assert re.fullmatch(r"Fewer than the 5 seeds planned: digits mlp mlp none 4\.", line)
    (line,) = missing(replace(ledger, runs=runs[runs["arm"] == "kan"]))
    assert re.fullmatch(r"Arms without runs: digits mlp mlp none\.", line)


@pytest.mark.slow
@pytest.mark.skipif(not (BROWSER and COMMITTED), reason="no Chromium, or no ledger")
def test_filters_of_the_page_work_in_a_browser(tmp_path: Path) -> None:
    page, probe = tmp_path / "index.html", tmp_path / "probe.html"
    main(["page", str(STUDIES), "--out", str(page)])
    verdicts = [v for folder in COMMITTED for v in read_verdicts(folder)]
    rows = [(v["arm"], v["direction"]) for v in verdicts if not v["contrast"] and v["n_seeds"]]
    probe.write_text(  # the page itself runs no scripts
        f'<iframe style="width:1300px;height:900px" srcdoc="{html.escape(page.read_text())}">'
        "</iframe><p id=w></p><script>onload=()=>{const f=document.querySelector('iframe');"
        "const d=f.contentDocument, seen=()=>[...d.querySelectorAll('tr[data-arm]')]"
        ".filter(row=>row.offsetHeight).length;"
        "const choose=(key,value)=>{d.getElementById('by-'+key).value=value;return seen()};"
        "const counts=[seen(),choose('arm','kan-bspline'),choose('tone','worse'),"
        "choose('arm','')];"
        "document.getElementById('w').textContent='rows '+counts+"
        "', wide '+[...d.querySelectorAll('.scroll')].some(t=>t.scrollWidth>t.clientWidth)+"
        "', fetched '+f.contentWindow.performance.getEntriesByType('resource').length}</script>"
    )
    done = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
         f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", probe.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    worse = [arm for arm, direction in rows if direction == "worse"]
    arm = "kan-bspline"
    counts = [len(rows), sum(a == arm for a, _ in rows), worse.count(arm), len(worse)]
    assert counts[0] > counts[1] > counts[2] > 0 < counts[3] < counts[0]
    assert re.findall(r"rows \d[^<]*", done.stdout) == [
        f"rows {','.join(map(str, counts))}, wide false, fetched 0"
    ]


def test_runs_are_taken_from_a_ledger(tmp_path: Path) -> None:
    config = study(tmp_path / "runs")
    folder, ledger = run_all(config), tmp_path / "ledgers" / "smoke"
    main(["add", str(folder), "--ledger", str(ledger)])
    first = json.loads((folder / "report" / "verdicts.json").read_text())
    shutil.rmtree(tmp_path / "runs")
    cells = plan(config)
    assert all(cell in finished_in(tmp_path / "ledgers") for cell in cells)
    assert take_finished(cells, tmp_path / "ledgers") == 15
    assert all(cell.folder.has_ended for cell in cells)
    assert sum(cell.folder.result() is None for cell in cells) == 1, "the one that diverged"
    assert take_finished(cells, tmp_path / "ledgers") == 0
    report(config, cells, [])
    assert json.loads((folder / "report" / "verdicts.json").read_text()) == first
    assert set(pd.read_csv(folder / "report" / "results.csv")["source"].dropna()) == {
        "ledger smoke"
    }
    with pytest.raises(ValueError, match=r"no ledger below"):
        take_finished(cells, tmp_path / "none")


def test_ledgers_of_one_protocol_are_merged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two pieces of a study give the ledger that the study gives in one piece."""
    more = {"arms": {**ARMS, "rbf": ["layers=kan", "basis=rbf"]}}
    made = {
        name: tmp_path / name / "ledger"
        for name in ("small", "large", "other", "merged", "elsewhere")
    }
    for name, keys in (("small", {}), ("large", more), ("other", {"margin": 0.5})):
        folder = run_all(study(tmp_path / name / "runs", **keys))
        main(["add", str(folder), "--ledger", str(made[name])])
    main(["merge", str(made["large"]), str(made["small"]), "--out", str(made["merged"])])
    for name in ("verdicts.json", "aggregate.json"):
        assert (made["merged"] / name).read_bytes() == (made["large"] / name).read_bytes()
    assert len(read_ledger(made["merged"]).runs) == 20
    message = said(capsys, "merge", made["small"], made["other"], "--out", made["elsewhere"])
    assert "another protocol" in message
    assert "margin" in message
    table = pd.read_csv(made["small"] / "runs.csv")
    table.loc[0, "test"] += 0.01
    table.to_csv(made["small"] / "runs.csv", index=False)
    message = said(capsys, "merge", made["large"], made["small"], "--out", made["elsewhere"])
    assert "has two results" in message


@pytest.mark.slow
@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
def test_conclusions_of_committed_ledgers_follow_from_their_runs(folder: Path) -> None:
    assert check_ledger(folder) == len(read_ledger(folder).runs) > 0


@pytest.mark.skipif(not COMMITTED, reason="no ledger is committed")
def test_committed_ledgers_make_one_page(tmp_path: Path) -> None:
    main(["page", str(STUDIES), "--out", str(tmp_path / "index.html")])
    page = (tmp_path / "index.html").read_text()
    assert all(f"ledger.py check docs/studies/{folder.name}" in page for folder in COMMITTED)
    shutil.copytree(STUDIES, tmp_path / "clone")
    main(["page", str(tmp_path / "clone")])
    assert (tmp_path / "clone" / "index.html").read_text() == page, "whatever folder it lies in"
