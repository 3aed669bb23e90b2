"""Trained members of the zoo: they score what the ledgers say, and come from the best runs."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import ROOT, run_script
from engine_study import configured

import kanzoo
from kanzoo.ledger.main import main
from kanzoo.ledger.release import best_runs, card_of
from kanzoo.ledger.store import read_ledger
from kanzoo.run.fit import train
from kanzoo.run.load import load_member
from kanzoo.study.comparison import plan, report, study_folder, study_of
from kanzoo.study.record import write_record

STUDIES = ROOT / "docs" / "studies"
EMBEDDED = ("digits", "digits_rows", "breast_cancer", "wine", "diabetes")
NAMES = [n for n, c in kanzoo.zoo.members().items() if c["data"] in EMBEDDED]
PLACE, RUN = ("data", "model", "arm"), ("config_hash", "seed")
ARMS = {"mlp": ["layers=mlp"], "kan": ["layers=kan_activated"]}


def test_names_are_listed_and_wrong_ones_refused_with_the_nearest() -> None:
    assert "digits-vit-kan-bspline" in kanzoo.zoo.names()
    assert kanzoo.zoo.names() == sorted(kanzoo.zoo.members())
    assert kanzoo.zoo.names("wine-*") == [n for n in kanzoo.zoo.names() if n.startswith("wine-")]
    for load in (kanzoo.load, load_member):
        with pytest.raises(ValueError, match=r"did you mean 'digits-vit-kan-bspline'\?") as refusal:
            load("zoo:digits-vit-kan-bsplin")
        assert "\n" not in str(refusal.value)
    with pytest.raises(ValueError, match=r"unknown member '\.\./\.\./secret'"):
        kanzoo.load("zoo:../../secret")


def test_every_member_has_its_files_card_and_row_in_a_ledger() -> None:
    folder = kanzoo.zoo.folder()
    cards = kanzoo.zoo.members()
    assert {path.stem for path in folder.glob("*.safetensors")} == set(cards)
    assert {path.stem for path in folder.glob("*.md")} == set(cards)
    files = list(folder.glob("*.safetensors"))
    assert sum(path.stat().st_size for path in files) <= kanzoo.zoo.MAX_BYTES
    ledgers = {name: read_ledger(STUDIES / name) for name in {c["study"] for c in cards.values()}}
    for name, card in cards.items():
        ledger = ledgers[card["study"]]
        runs = ledger.runs.to_dict("records")
        of_arm = [r for r in runs if [r[k] for k in PLACE] == [card[k] for k in PLACE]]
        (row,) = [r for r in of_arm if [r[k] for k in RUN] == [card[k] for k in RUN]]
        assert (row["test"], row["val"]) == (card["test"], card["val"]), name
        if len(of_arm) == card["n"]:  # else the ledger has grown since
            best = best_runs(ledger)[name]
            assert card == card_of(ledger, best, card, card["study"]), name
        text = (folder / f"{name}.md").read_text(encoding="utf-8")
        assert all(part in text for part in (card["licence"], card["command"], f"zoo:{name}"))


@pytest.mark.parametrize("name", ["digits-mlp-kan-bspline", "wine-mlp-mlp"])
def test_a_member_scores_what_its_ledger_says(name: str) -> None:
    check_score(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES[::4])
def test_members_score_what_their_ledgers_say(name: str) -> None:
    check_score(name)


def check_score(name: str) -> None:
    """On another processor, rounding may move one item across a border."""
    card, member = kanzoo.zoo.card(name), load_member(name)
    score = member.evaluate("test")[card["metric"]]
    near = {"abs": 1.01 / card["n_test"]} if card["metric"] == "accuracy" else {"rel": 1e-4}
    assert score == pytest.approx(card["test"], **near)
    net = kanzoo.load(f"zoo:{name}")
    assert not net.training
    with torch.no_grad():
        assert net(torch.zeros(2, *card["in_shape"])).shape[-1] == card["num_outputs"]


def test_a_damaged_member_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "wine-mlp-mlp"
    shutil.copytree(kanzoo.zoo.folder(), tmp_path / "release")
    file = tmp_path / "release" / f"{name}.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    monkeypatch.setattr(kanzoo.zoo, "folder", lambda: tmp_path / "release")
    with pytest.raises(ValueError, match="missing or damaged"):
        kanzoo.load(f"zoo:{name}")


def run_study(runs: Path, **keys: Any) -> Path:
    """A small study that is trained, with its report."""
    config = configured(runs, arms=ARMS, seeds=2, looks=[5], **keys)
    cells = plan(config)
    for cell in cells:
        train(cell.config)
    write_record(study_of(config), study_folder(config))
    report(config, cells, [])
    return study_folder(config)


@pytest.mark.slow
def test_the_best_runs_by_validation_data_are_released_and_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, ledger, out = tmp_path / "runs", tmp_path / "ledger", tmp_path / "release"
    folder = run_study(runs)
    main(["add", str(folder), "--ledger", str(ledger)])
    words = ["release", str(ledger), "--runs", str(runs), "--out", str(out)]
    main(words)
    cards = json.loads((out / "members.json").read_text())
    assert len(cards) == len(ARMS)
    table = pd.read_csv(ledger / "runs.csv")
    for card in cards.values():
        of_arm = table[table["arm"] == card["arm"]].sort_values(["val", "seed"])
        assert card["val"] == of_arm["val"].max()
        assert card["n"] == 2
        assert card["mean"] == pytest.approx(of_arm["test"].mean())
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    shutil.rmtree(folder)
    main(words)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before, "none is lost"
    monkeypatch.setattr(kanzoo.zoo, "folder", lambda: out)
    kanzoo.zoo.members.cache_clear()
    try:
        for name, card in cards.items():
            assert load_member(name).evaluate("test")["accuracy"] == card["test"]
    finally:
        kanzoo.zoo.members.cache_clear()
    capsys.readouterr()
    again = ["repeat", str(ledger), "--cells", "2", "--runs", str(tmp_path / "again")]
    for _ in range(2):  # what was there before is trained again
        main(again)
        assert "2 identical" in capsys.readouterr().out
        for path in (tmp_path / "again").glob("**/result.json"):
            path.write_text(path.read_text().replace('"accuracy": 0.', '"accuracy": 0.0'))
    with pytest.raises(SystemExit):
        main([*words[:-1], str(tmp_path / "other")])
    assert "no checkpoint of" in capsys.readouterr().err
    edited = table.assign(command=table["command"] + " optim.lr=0.5")
    edited.to_csv(ledger / "runs.csv", index=False)
    with pytest.raises(SystemExit):
        main(again)
    assert "in this version" in capsys.readouterr().err


@pytest.mark.slow
def test_a_small_run_of_a_committed_ledger_gives_its_score_again(tmp_path: Path) -> None:
    words = (str(STUDIES / "generalize_tables"), "--cells", "1", "--seed", "0")
    done = run_script("ledger", "repeat", *words, "--runs", str(tmp_path), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 identical" in done.stdout or "1 within seed noise" in done.stdout
