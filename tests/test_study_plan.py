"""Axes and arms of a study, its record, and configurations composed quickly."""

import functools
from pathlib import Path
from typing import Any

import pytest
import yaml
from samples import skip_without_table
from test_compare import cells_of, configured

from kanzoo import registry
from kanzoo.compare import _job
from kanzoo.data.memory import InMemory
from kanzoo.run.config import Composer, compose
from kanzoo.run.prepare import prepare
from kanzoo.study.comparison import check_cells, check_trials, plan, study_of
from kanzoo.study.controls import CONTROLS, decomposition_arms
from kanzoo.study.plan import active_axes, arms_of, distinct, first_of_kinds

ARMS = {"mlp": ["layers=mlp"], "kan": ["layers=kan"], "thin": ["layers=mlp"]}
DEPTH = {"values": {1: ["model.depth=1"], 2: ["model.depth=2"]}, "arms": ["kan", "thin"]}


@functools.cache
def read(name: str) -> dict[str, Any]:
    """A study as composed, with what `conf/compare.yaml` says beside its file."""
    return dict(compose("compare", [f"study={name}"])["study"])


def places(tmp_path: Path, **study: Any) -> list[tuple[str, ...]]:
    cells = cells_of(tmp_path, **study)
    for cell in cells:
        assert compose("train", list(cell.overrides)) == cell.config, "the command repeats the run"
    return [(c.arm, *(value for _, value in c.axes)) for c in first_of_kinds(cells)]


def test_control_arms_are_there_unless_they_are_not_wanted(tmp_path: Path) -> None:
    for name in registry.names("study"):
        arms = arms_of(study_of({"study": read(name)}))
        controls = read(name)["controls"]
        wanted = set(CONTROLS) if controls is True else set(controls or ())
        assert set(CONTROLS) & set(arms) == wanted
    own = {"mlp": ["layers=mlp"], "mlp-prelu": ["layers=kan", "basis=prelu", "optim.lr=0.1"]}
    arms = arms_of(study_of(configured(tmp_path, arms=own, controls=True)))
    assert set(arms) == {"mlp", *CONTROLS}
    assert arms["mlp-prelu"] == own["mlp-prelu"]
    some = arms_of(study_of(configured(tmp_path, arms=ARMS, controls=["mlp-narrow"])))
    assert set(some) == {*ARMS, "mlp-narrow"}


def test_control_arms_are_for_some_data_and_architectures(tmp_path: Path) -> None:
    models = {"mlp": [], "vit": [], "small": ["model=mlp", "model.width=8"]}
    cells = cells_of(tmp_path, data=["digits"], models=models, controls=True, match=["params"])
    common = {"mlp", "kan", *CONTROLS} - {"linear", "nlinear", "dlinear"}
    found = {model: {c.arm for c in cells if c.model == model} for model in models}
    assert found["mlp"] == found["small"] == common - {"mlp-swiglu"}
    assert found["vit"] == common - {"mlp-residual"}
    table: dict[str, Any] = {"models": {"mlp": []}, "controls": True, "overrides": []}
    tables = {c.arm for c in cells_of(tmp_path, data=["wine"], **table)}
    assert tables == common - {"mlp-swiglu", "mlp-narrow"} | {"linear"}
    series = cells_of(tmp_path, data=["etth1"], **table)
    assert {"nlinear", "dlinear"} <= {c.arm for c in series}


@pytest.mark.parametrize(
    "match",
    [
        "params",
        "width",
        *(pytest.param(m, marks=pytest.mark.slow) for m in ("flops:network", "params:grid")),
    ],
)
def test_a_difference_comes_apart_into_width_place_and_basis(tmp_path: Path, match: str) -> None:
    study: dict[str, Any] = {"models": {"vit": ["model.depth=1"]}, "match": [match]}
    cells = cells_of(tmp_path, **study, controls=True)
    first = {c.arm: c for c in first_of_kinds(cells)}
    plans = {arm: prepare(c.config).plan for arm, c in first.items()}
    kan, twin = plans["kan"], plans["mlp"]
    if kan.options == twin.options:
        assert "mlp-narrow" not in plans, "the narrow twin is the twin"
    else:
        assert plans["mlp-narrow"].options == kan.options
        assert plans["mlp-narrow"].params < twin.params
    assert plans["kan-residual"].options == kan.options
    assert plans["kan-residual"].kan_roles == kan.kan_roles
    assert plans["kan-residual"].params < kan.params
    for cell in first.values():
        assert compose("train", list(cell.overrides)) == cell.config, "the command repeats the run"
        assert cell.match == match
    parts = decomposition_arms(study_of(configured(tmp_path, **study, controls=True)))
    ends = [arm for pair in parts.values() for arm in pair]
    assert sorted(ends) == sorted(["kan", "mlp", *["kan-residual", "mlp-narrow"] * 2])


def test_controls_of_another_architecture_have_the_budget_of_the_twin(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, models={"mlp": ["model.width=64"]}, controls=True, match=["params"])
    plans = {c.arm: prepare(c.config).plan for c in first_of_kinds(cells)}
    assert plans["mlp-residual"].shape.cls.__name__ == "ResMLP"
    assert plans["mlp-residual"].params == pytest.approx(plans["mlp"].params, rel=0.01)
    for arm in ("kan", "kan-random", "mlp-spline", "mlp-prelu"):
        assert plans[arm].params == pytest.approx(plans["mlp"].params, rel=0.02), arm
    small: dict[str, Any] = {"mlp": ["model.width=64", "budget=500"]}
    cells = cells_of(
        tmp_path, data=["wine"], models=small, controls=True, match=["params"], overrides=[]
    )
    plans = {c.arm: prepare(c.config).plan for c in first_of_kinds(cells)}
    assert plans["mlp-residual"].params == pytest.approx(500, rel=0.1)
    assert plans["linear"].params == 13 * 3 + 3


def test_shares_and_noise_are_axes(tmp_path: Path) -> None:
    study: dict[str, Any] = {"train_fraction": [0.5, 1.0], "label_noise": [0.0, 0.25]}
    cells = cells_of(tmp_path, **study)
    values = [("0.5", "0"), ("0.5", "0.25"), ("1", "0"), ("1", "0.25")]
    found = [(c.arm, *(value for _, value in c.axes)) for c in first_of_kinds(cells)]
    assert found == [(arm, *value) for arm in ("mlp", "kan") for value in values]
    assert compose("train", list(cells[-1].overrides)) == cells[-1].config
    for cell in cells:
        assert cell.config["training_set"]["fraction"] == float(cell.axes[0][1])
        assert cell.config["training_set"]["label_noise"] == float(cell.axes[1][1])
    assert len(distinct(cells)) == len(cells) == 16
    assert active_axes(study_of(configured(tmp_path, **study))) == ["train_fraction", "label_noise"]
    assert active_axes(study_of(configured(tmp_path))) == []


def test_an_axis_may_concern_some_arms_and_what_equals_the_baseline_is_left_out(
    tmp_path: Path,
) -> None:
    found = places(tmp_path, arms=ARMS, axes={"depth": DEPTH})
    # The thin MLP of depth 2 is the baseline itself.
    assert found == [("mlp", ""), ("kan", "1"), ("kan", "2"), ("thin", "1")]


def test_a_budget_is_an_axis_that_solves_the_twin_too(tmp_path: Path) -> None:
    budgets = {"values": {2000: ["budget=2000"], 8000: ["budget=8000"]}}
    cells = cells_of(tmp_path, axes={"size": budgets}, match=["params"])
    plans = [prepared.plan for prepared in check_cells(cells)]
    for cell, solved in zip(first_of_kinds(cells), plans, strict=True):
        assert solved.params == pytest.approx(int(cell.axes[0][1]), rel=0.03)
        assert solved.params == pytest.approx(solved.twin_params, rel=0.03)


def test_a_run_that_several_cells_share_is_done_once(tmp_path: Path) -> None:
    cells = cells_of(tmp_path, match=["params", "flops"])
    runs = distinct(cells)
    assert len(cells) == 8
    assert [(c.seed, c.arm, c.match) for c in runs[:3]] == [
        *((0, "mlp", "params"), (0, "kan", "params"), (0, "kan", "flops"))
    ]
    assert len(runs) == 6


@pytest.mark.parametrize(
    ("study", "hint"),
    [
        ({"train_fraction": []}, "study.train_fraction is empty"),
        ({"train_fraction": [0.5, 0.5]}, "twice"),
        ({"train_fraction": [0.0, 1.0]}, "training_set.fraction"),
        ({"label_noise": [1.5]}, "training_set.label_noise"),
        ({"axes": {"seed": DEPTH}}, "study.axes.seed"),
        ({"axes": {"depth": {"values": {}}}}, "must have values"),
        ({"axes": {"depth": {**DEPTH, "arms": ["kna"]}}}, "'kan'"),
        ({"axes": {"depth": {"values": {1: ["model.dpeth=1"]}}}}, "'model.depth'"),
        ({"metrics": {"ece": {"mode": "less", "margin": 0.1}}}, "study.metrics.ece"),
        (
            {"metrics": {"ece": {"mode": "min", "margin": 0}}},
            "study.metrics.ece.margin must be a number above 0",
        ),
        ({"margin": {"rmse": 0.1}}, "none for accuracy"),
        ({"margin": {"accuracy": 0}}, "study.margin.accuracy must be a number above 0"),
        ({"alpha": 1.0}, "study.alpha"),
        ({"alhpa": 0.1}, "'study.alpha'"),
        *(
            ({"arms": {"mlp": ["layers=mlp"], "same": ["layers=mlp", *words]}}, "same as the base")
            for words in ([], ["basis=rbf"], ["layers.residual=null"], ["callbacks=grid"])
        ),
        ({"further": ["training_set.phases=3"]}, "multiple of training_set.phases"),
    ],
)
def test_impossible_axes_are_refused(tmp_path: Path, study: dict[str, Any], hint: str) -> None:
    with pytest.raises(ValueError, match=r"\w") as refusal:
        check_cells(cells_of(tmp_path, **study))
    assert hint in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("study", "hint"),
    [
        ({"seeds": 7}, "planned looks 5, 10, 20"),
        ({"looks": [10, 5]}, "must increase"),
        ({"split": "fix"}, "'fixed'"),
        ({"ratio_margin": 0}, "ratio_margin"),
        ({"contrasts": [["kan", "kna"]]}, "'kan'"),
        ({"contrasts": [["kan", "kan"]]}, "pairs of arms"),
        ({"interactions": {"label_nois": 0}}, "'label_noise'"),
        ({"slope": "dept", "axes": {"depth": DEPTH}}, "'depth'"),
        ({"slope": "depth", "axes": {"depth": DEPTH}}, "needs 3 sizes"),
    ],
)
def test_impossible_statistics_are_refused(
    tmp_path: Path, study: dict[str, Any], hint: str
) -> None:
    with pytest.raises(ValueError, match=r"\w") as refusal:
        cells_of(tmp_path, **study)
    assert hint in str(refusal.value)
    assert "\n" not in str(refusal.value)


KAN = ["layers=kan"]
LR = {"lr": {"values": {"a": ["optim.lr=0.1"], "b": ["optim.lr=0.2"]}}}
RATES: dict[str, Any] = {
    **{"trials": 2, "seeds": 1, "epochs": 0.5, "finalists": 2, "finalist_seeds": 1, "seed": 0},
    **{"extra": {}, "allow_extra": False, "space": {"optim.lr": {"low": 0.01, "high": 0.1}}},
}


def arms(*words: str, **others: list[str]) -> dict[str, dict[str, list[str]]]:
    return {"arms": {"mlp": ["layers=mlp"], "kan": [*KAN, *words], **others}}


def test_words_of_an_arm_count_after_those_that_all_share(tmp_path: Path) -> None:
    cells = cells_of(
        tmp_path,
        models={"mlp": ["model.width=8", "model.depth=1", "optim.weight_decay=0.5"]},
        overrides=["model.norm=batch", "optim.weight_decay=0.1"],
        further=["model.width=6"],
        match=["none"],
        **arms("model.depth=3"),
    )
    mlp, kan = (cell.config for cell in first_of_kinds(cells))
    assert (mlp["model"]["depth"], kan["model"]["depth"]) == (1, 3)
    assert (mlp["model"]["width"], kan["model"]["width"]) == (6, 6)
    assert mlp["optim"]["weight_decay"] == kan["optim"]["weight_decay"] == 0.5
    assert mlp["model"]["norm"] == kan["model"]["norm"] == "batch"


@pytest.mark.parametrize(
    ("study", "hint"),
    [
        (arms("seed=3"), "study.arms.kan sets seed, which is left to study.first_seed"),
        ({"overrides": ["name=x"]}, "study.overrides sets name"),
        ({"further": ["runs=x"]}, "study.further sets runs"),
        ({"models": {"mlp": ["data=wine"]}}, "study.models.mlp sets data, which is left to"),
        (arms("match=none"), "study.arms.kan sets match, which is left to study.match"),
        ({"overrides": ["model=vit"]}, "study.overrides sets model, which is left to study.models"),
        ({"further": ["debug=fast"]}, "study.further sets debug"),
        ({"overrides": ["evaluation.test=false"]}, "verdicts are of the test set"),
        (arms("basis.grid_size=3", "basis.grid_size=5"), "study.arms.kan sets basis.grid_size twi"),
        ({**arms("optim.lr=1"), "axes": LR}, "study.axes.lr and study.arms.kan both set optim.lr"),
        ({"axes": LR, "further": ["optim.lr=1"]}, "study.further and study.axes.lr both set"),
        ({**arms("match_scope=roles"), "match": ["params:network"]}, "both set match_scope"),
        ({**arms("optim.lr=1"), "further": ["optim.lr=2"]}, "study.further and study.arms.kan"),
        (
            {"axes": LR, "train_fraction": [0.5, 1.0], "further": ["training_set.fraction=1"]},
            "study.axes.train_fraction both set training_set.fraction",
        ),
        (arms(a=["sizes_of=kna"]), "did you mean 'kan'"),
        (arms("sizes_of=a", a=["sizes_of=kan"]), "kan, a take something from each other"),
        (
            {**arms(a=["layers=mlp", "sizes_of=kan", "model.width=3"]), "match": ["params"]},
            "study.arms.a and what it takes from another arm both set model.width",
        ),
        (arms(a=[*KAN, "basis=bspline"]), "study.arms: kan and a are the same runs"),
        (arms("trainer.devices=2"), "arm kan differs from mlp on digits mlp in trainer.devices"),
        ({"models": {"mlp": [], "a": ["model=mlp"]}}, "study.models: mlp and a are the same runs"),
        (
            {"axes": {"log": {"values": {"a": ["logger=csv"], "b": ["logger=wandb"]}}}},
            "study.axes.log: a and b are the same runs",
        ),
        ({"axes": LR, "tune": RATES}, "study.axes.lr: a and b are the same runs but for what is"),
        ({"axes": {"lr": {**LR["lr"], "arms": []}}}, "study.axes.lr.arms is empty"),
        ({**arms("optim.lr=1"), "tune": {**RATES, "space": {"seed": {"choices": [1]}}}}, "tuned"),
        ({"tune": {**RATES, "space": {"model.width": {"choices": [8, 9]}}}}, "size of mlp mlp"),
        ({"differences": {"kan": ["optim.lr"]}}, "study.differences.kan has optim.lr, in which"),
        ({"axes": LR, "interactions": {"lr": "c"}}, "value of study.interactions.lr 'c'"),
        ({"interactions": {"severity": 0}}, "no test input is corrupted"),
        ({"contrasts": [["kan", "mlp"]]}, "compared with it anyway"),
        ({"metrics": {"eec": {"mode": "min", "margin": 0.1}}}, "did you mean 'ece'"),
        ({"margin": {"accuracy": 0.1, "rmse": 1.0}}, "unknown metric of study.margin 'rmse'"),
    ],
)
def test_what_would_have_no_effect_is_refused(
    tmp_path: Path, study: dict[str, Any], hint: str
) -> None:
    config = configured(tmp_path, **study)
    with pytest.raises(ValueError, match=r"\w") as refusal:
        check_trials(config, plan(config))
    assert hint in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_seed_draws_the_split_unless_it_is_fixed(tmp_path: Path) -> None:
    from kanzoo.run.prepare import prepare

    def seeds(split: str, data: str) -> set[tuple[str, int, int]]:
        cells = cells_of(tmp_path, split=split, data=[data], match=["none"])
        assert compose("train", list(cells[-1].overrides)) == cells[-1].config
        return {(c.arm, c.seed, prepare(c.config).dataset.split_seed) for c in cells}

    for data in ("digits", "functions"):
        assert seeds("seeds", data) == {(a, s, s) for a in ("mlp", "kan") for s in (0, 1)}
        assert seeds("fixed", data) == {(a, s, 0) for a in ("mlp", "kan") for s in (0, 1)}


def test_a_seed_draws_the_samples_of_a_share(tmp_path: Path) -> None:
    samples: dict[tuple[str, int], set[bytes]] = {}
    for cell in cells_of(tmp_path, train_fraction=[0.2, 1.0], match=["none"]):
        if cell.axes[0][1] == "0.2":
            data = prepare(cell.config).dataset
            data.load()
            assert isinstance(data, InMemory)
            assert data.splits is not None
            kept = data.training_set.indices(data.targets("train"), data.split_seed or 0)
            found = {x.numpy().tobytes() for x in data.splits["train"].x[kept]}
            samples[cell.arm, cell.seed] = found
    assert samples["mlp", 0] == samples["kan", 0], "arms share them"
    assert samples["mlp", 1] == samples["kan", 1]
    assert len(samples["mlp", 0] & samples["mlp", 1]) < len(samples["mlp", 0]) / 2


@pytest.mark.parametrize("name", registry.names("study"))
def test_every_study_says_what_it_asks_and_how_to_run_it(name: str) -> None:
    skip_without_table(name)
    text = (registry.conf_dir() / "study" / f"{name}.yaml").read_text()
    head = [line for line in text.splitlines() if line.startswith("#")]
    assert any(f"python scripts/compare.py study={name}" in line for line in head)
    cells = plan({"study": read(name), "runs": "runs", "overwrite": False})
    assert len(cells) >= 2 * read(name)["seeds"]


# --- the record ----------------------------------------------------------------------------------


def refused(config: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as end:
        _job(config)
    assert end.value.code == 2
    return capsys.readouterr().err


def test_a_folder_of_another_study_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kanzoo.study.run.Runner.__call__", lambda *_: None)
    monkeypatch.setattr("kanzoo.compare.report", lambda *_: 0)
    _job(configured(tmp_path, seeds=3))
    path = tmp_path / "runs" / "smoke" / "study.yaml"
    first = path.read_text()
    assert yaml.safe_load(first)["seeds"] == 3

    message = refused(configured(tmp_path, seeds=3, margin=0.5, further=["optim.lr=0.1"]), capsys)
    assert message.count("\n") == 1
    assert "further, margin;" in message
    assert "seeds (3 there)" in refused(configured(tmp_path, seeds=2), capsys)
    assert "looks;" in refused(configured(tmp_path, seeds=3, looks=[8, 16]), capsys)
    assert path.read_text() == first

    _job(configured(tmp_path, seeds=4, title="Other words"))
    assert yaml.safe_load(path.read_text())["seeds"] == 4
    _job({**configured(tmp_path, seeds=2, margin=0.5), "overwrite": True})
    assert yaml.safe_load(path.read_text())["margin"] == 0.5


def test_a_dry_run_leaves_no_record_and_estimates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _job({**configured(tmp_path, train_fraction=[0.5, 1.0]), "dry_run": True})
    assert not list(tmp_path.iterdir())
    shown = " ".join(capsys.readouterr().out.split())
    assert "train_fraction" in shown
    assert "8 cells, 8 different runs, 8 of them to do" in shown
    assert "an estimate" in shown
    assert "no verdicts: the first is at 5 seeds" in shown


# --- composing quickly ---------------------------------------------------------------------------

WORDS = [
    ["data=mnist", "layers=mlp", "layers.kan_roles=[head,ffn]", "basis.grid_range=[-2,2]"],
    ["basis=bspline", "basis.grid_size=3", "layers.residual=null", "trainer.gradient_clip_val=1"],
    ["optim=sgd", "evaluation.noise=[0.5,1]", "training_set.fraction=1", "budget=500", "seed=4"],
    ["callbacks=grid", "callbacks.grid.refine=[[1,10]]", "name=x", "runs=some/a b"],
    ["optim.lr=5e-3", "optim.lr=0.1", "model=vit", "model.depth=1"],
    ["task=regression", "data=wine"],
    ["debug=fast"],
    ["experiment=mnist_kan", "model.width=8"],
    ["data=digit"],
    ["model.widht=3"],
    ["+new.key=1"],
    ["model.width=1.5"],
    ["model._target_=os.system"],
    ["optim.lr={a: 1}"],
    ["model.width.x=3"],
    ["optim.lr=nan"],
    ["seed"],
]


def outcome(make: Any, words: list[str]) -> Any:
    try:
        return make(words)
    except ValueError as error:
        return str(error)


def test_composing_quickly_gives_the_same_and_refuses_the_same() -> None:
    quick = Composer("train")
    for words in WORDS:
        expected = outcome(lambda w: compose("train", w), words)
        assert outcome(quick, words) == expected
        assert outcome(quick, words) == expected, "of what is known already"
    one = quick(["data=digits"])
    one["data"]["batch_size"] = -1
    assert quick(["data=digits"])["data"]["batch_size"] > 0, "configurations share nothing"
