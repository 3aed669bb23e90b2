"""Studies whose arms are alike, that are run in pieces, and that grow."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import compose
from engine_study import configured, declared

from kanzoo.checks import build
from kanzoo.settings import StudyConfig
from kanzoo.study.comparison import plan, study_of
from kanzoo.study.parity import common, differences
from kanzoo.study.record import check_record, read_record, write_record
from kanzoo.study.report.summary import protocol
from kanzoo.study.selection import declare, is_selected

ARMS = {"mlp": ["layers=mlp"], "kan": ["layers=kan"]}


def with_arm(tmp_path: Path, *words: str, **study: Any) -> dict[str, Any]:
    return configured(tmp_path, arms={**ARMS, "kan": ["layers=kan", *words]}, **study)


@pytest.mark.parametrize(
    ("word", "key", "values"),
    [
        ("optim.lr=0.5", "optim.lr", "(0.5 against 0.003)"),
        ("trainer.max_epochs=6", "trainer.max_epochs", "(6 against "),
        ("data.val_size=99", "data.val_size", "(99 against "),
        ("optim=sgd", "choices.optim", "(sgd against adamw)"),
    ],
)
def test_an_arm_that_trains_differently_is_refused_unless_declared(
    tmp_path: Path, word: str, key: str, values: str
) -> None:
    shared = ["callbacks.progress=false", "optim.lr=0.003", "trainer.max_epochs=2"]
    with pytest.raises(ValueError, match=r"arm kan differs from mlp") as refusal:
        plan(with_arm(tmp_path, word, overrides=shared))
    message = str(refusal.value)
    assert "\n" not in message
    assert f"{key} {values}" in message
    remedy = message.partition("study.differences.kan=[")[2].rstrip("]").split(",")
    declared_too = {"differences": {"kan": remedy}}
    config = with_arm(tmp_path, word, overrides=shared, **declared_too)
    cells, study = plan(config), study_of(config)
    shown = " ".join(protocol(study, cells))
    assert all(text in shown for text in differences(cells, study)["kan"])
    assert f"{key} " in shown


def test_what_arms_are_is_no_difference_and_tuned_settings_are_none(tmp_path: Path) -> None:
    words = ["basis=rbf", "basis.grid_size=3", "callbacks=grid", "model.width=9"]
    plan(with_arm(tmp_path, *words))
    tune = configured(tmp_path)["study"]["tune"]
    plan(with_arm(tmp_path, "optim.lr=0.5", tune={**tune, "trials": 2}))


def test_declared_differences_must_exist(tmp_path: Path) -> None:
    for arm, key in (("kna", "optim.lr"), ("kan", "optim.rl")):
        with pytest.raises(ValueError, match=r"did you mean"):
            plan(with_arm(tmp_path, differences={arm: [key]}))


def test_the_protocol_says_what_cells_have_in_common_and_where_they_differ(tmp_path: Path) -> None:
    config = configured(tmp_path, data=["digits", "wine"], match=["none"])
    cells = plan(config)
    assert common(cells, "trainer.max_epochs") == "2"
    assert common(cells, "choices.data") == "digits (digits), wine (wine)"


# --- pieces --------------------------------------------------------------------------------------


def test_a_part_of_a_study_is_selected_on_the_command_line() -> None:
    words = ["study=demo", "study.models=[mlp]", "study.arms=[kan-rbf]"]
    config = compose("compare", words)
    study = study_of(config)
    assert set(study.models) == {"mlp", "resnet", "vit"}, "the study is what its file declares"
    chosen = {(c.model, c.arm) for c in plan(config) if is_selected(c, study)}
    assert chosen == {("mlp", "mlp"), ("mlp", "kan-rbf")}
    other = study_of(compose("compare", [*words, "study.name=mine", "study.data=[wine]"]))
    assert (list(other.models), list(other.arms)) == (["mlp"], ["mlp", "kan-rbf"])
    assert other.data == ["wine"]
    with pytest.raises(ValueError, match=r"'kan-rfb'.*did you mean 'kan-rbf'"):
        study_of(compose("compare", ["study=demo", "study.arms=[kan-rfb]"]))
    more = declare(declared(data=["digits"], select={"data": ["wine"]}), "smoke")
    assert more.data == ["digits", "wine"]


# --- growth --------------------------------------------------------------------------------------


def changed(study: StudyConfig, **keys: Any) -> StudyConfig:
    from dataclasses import asdict

    return build(StudyConfig, {**asdict(study), **keys}, "study.")


GROWN: dict[str, Any] = {
    "data": ["wine", "digits"],
    "seeds": 5,
    "models": {"vit": [], "mlp": ["model.width=8"]},
    "arms": {**ARMS, "rbf": ["layers=kan", "basis=rbf"]},
    "contrasts": [["rbf", "kan"]],
    "match": ["params", "none"],
    "title": "Other words",
}


def test_a_study_grows_and_says_when(tmp_path: Path) -> None:
    small = declared(arms=ARMS, models={"mlp": ["model.width=8"]}, match=["none"])
    write_record(small, tmp_path)
    first = (tmp_path / "study.yaml").read_text()
    write_record(small, tmp_path)
    assert (tmp_path / "study.yaml").read_text() == first
    large = changed(small, **GROWN)
    check_record(large, tmp_path)
    write_record(large, tmp_path)
    (line,) = read_record(tmp_path).lines
    for words in ("data wine", "seeds 2 to 4", "models vit", "arms rbf", "rbf against kan"):
        assert words in line
    assert read_record(tmp_path).study == large
    write_record(large, tmp_path)
    assert len(yaml.safe_load((tmp_path / "study.yaml").read_text())["added"]) == 1
    with pytest.raises(ValueError, match=r"data.wine, models.vit"):
        check_record(changed(large, data=["digits"], models=small.models), tmp_path)


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"margin": 0.5}, "margin"),
        ({"looks": [5]}, "looks"),
        ({"alpha": 0.1}, "alpha"),
        ({"baseline": "kan"}, "baseline"),
        ({"overrides": ["trainer.max_epochs=3"]}, "overrides"),
        ({"models": {"mlp": ["model.width=9"]}}, "models.mlp"),
        ({"arms": {**ARMS, "kan": ["layers=kan", "basis=rbf"]}}, "arms.kan"),
        ({"arms": {"mlp": ["layers=mlp"]}}, "arms.kan"),
        ({"contrasts": [["kan", "mlp"]]}, "contrasts"),
        ({"metrics": {"ece": {"mode": "min", "margin": 0.01}}}, "metrics"),
        ({"axes": {"lr": {"values": {"1": ["optim.lr=1"]}}}}, "axes"),
    ],
)
def test_what_decides_verdicts_cannot_change(
    tmp_path: Path, keys: dict[str, Any], named: str
) -> None:
    small = declared(arms=ARMS, models={"mlp": ["model.width=8"]})
    write_record(small, tmp_path)
    with pytest.raises(ValueError, match=r"these keys differ") as refusal:
        check_record(changed(small, **keys), tmp_path)
    assert f"differ: {named}" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_controls_stay_those_of_the_arm_that_they_were_for(tmp_path: Path) -> None:
    small = declared(arms=ARMS, controls=["mlp-narrow"])
    write_record(small, tmp_path)
    arms = {"mlp": ["layers=mlp"], "rbf": ["layers=kan", "basis=rbf"], "kan": ["layers=kan"]}
    with pytest.raises(ValueError, match=r"arms.mlp-narrow"):
        check_record(changed(small, arms=arms), tmp_path)
    check_record(changed(small, arms=arms, controls_of="kan"), tmp_path)
    check_record(changed(small, controls=True), tmp_path)
