"""The page that explains a run, and the pictures that are kept during training."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import sympy
import torch
from conftest import SMALL, Run, compose, folder_of
from fuzzing import in_process
from pages import Page
from PIL import Image

from kanzoo.data.tabular import BreastCancer, Diabetes, Wine
from kanzoo.explain import explain, main
from kanzoo.interpret.edges import edge_functions
from kanzoo.interpret.pictures import animation
from kanzoo.layers import KANLinear
from kanzoo.run.compared import seed_networks, seed_scores
from kanzoo.run.fit import train
from kanzoo.run.load import load_run
from kanzoo.run.prepare import prepare
from kanzoo.rundir import RunDir

WORDS = (
    "data=diabetes",
    "model.width=3",
    "model.depth=1",
    "model.norm=none",
    "data.limit_train=96",
)
OTHERS = {
    "resnet": ("model=resnet", "model.width=2", "data=digits"),
    "vit": ("model=vit", "model.width=8", "model.depth=1", "model.heads=2", "data=digits"),
    "rnn": ("model=rnn", "model.width=4", "data=digits_rows"),
}


def run_folder(root: Path, *words: str) -> Path:
    return folder_of(*SMALL, f"runs={root}", *words)


def test_the_page_and_its_pictures(train_run: Run, tmp_path: Path) -> None:
    result = train_run(*WORDS)
    folder = run_folder(tmp_path, *WORDS)
    (folder / "explain").mkdir()
    (folder / "explain" / "edges-gone.svg").touch()
    page = Page(explain(folder, edges=5, fits=0).read_text())
    names = ["graph", "edges-stem", "edges-head", "pruning"]
    files = {path.name for path in (folder / "explain").iterdir()}
    assert files == {"index.html", *(f"{n}.{s}" for n in names for s in ("png", "svg"))}
    for path in (folder / "explain").glob("*.svg"):
        ElementTree.parse(path)
    assert page.open == []
    assert page.tags.count("svg") == 4
    assert "No MLP was given" in page.text
    assert "script" not in page.tags
    assert all(link.startswith("#") or link == "data:," for link in page.links)
    drawn = "".join(re.findall(r"<svg.*?</svg>", page.source, flags=re.S))
    assert not re.search(r"(?:fill|stroke): #", drawn)
    used = set(re.findall(r"var\((--\w+)\)", drawn))
    assert used <= set(re.findall(r"(--\w+): #", page.source))
    assert all(name in page.text for name in ("bmi", "s6", "stem", "head", "training mean"))
    for split in ("val", "test"):
        assert f"{result[split]['rmse']:.4g}" in page.text
    assert f"{result['params']:,}" in page.text
    assert "33" in page.text  # edges: 10 x 3 + 3
    assert "Not the result" not in page.text
    assert re.search(r"bmi → \d&#10;score[^<]*inputs from (1\d|2\d)", page.source)  # kg/m²
    first = {path.name: path.read_bytes() for path in (folder / "explain").iterdir()}
    explain(folder, edges=5, fits=0)
    assert first == {path.name: path.read_bytes() for path in (folder / "explain").iterdir()}


@pytest.mark.slow
def test_several_seeds_have_ranges(train_run: Run, tmp_path: Path) -> None:
    for seed in (0, 1):
        train_run(*WORDS, f"seed={seed}")
    cell = run_folder(tmp_path, *WORDS).parent
    page = Page(explain(cell, edges=2, fits=0).read_text())
    assert (cell / "explain" / "seeds.svg").is_file()
    assert "first of 2 seeds" in page.text
    assert "Edges of the first layer have a band" in page.text
    found = seed_scores(seed_networks(load_run(cell / "seed0"), [cell / "seed1"], "best"))["stem"]
    scores = np.sqrt((found**2).sum((2, 3)))
    assert f"{scores[:, 2].min():.2g} to {scores[:, 2].max():.2g}" in page.text
    assert not np.allclose(scores[0], scores[1])


@pytest.mark.slow
def test_a_network_with_many_edges_has_a_graph_names_and_input_scores(
    train_run: Run, tmp_path: Path
) -> None:
    words = ("data=digits", "model.width=4", "model.depth=1")
    train_run(*words)
    train_run(*words, "layers=mlp")
    twin = run_folder(tmp_path, *words, "layers=mlp")
    folder = run_folder(tmp_path, *words)
    page = Page(explain(folder, edges=3, fits=1, twin=twin).read_text())
    assert "MLP, ranked by magnitude&#10;100 % of edges: accuracy" in page.source
    assert "Not drawn" not in page.text
    assert len(re.findall(r"best simple function", page.source)) >= 2  # one a layer
    assert "at random weights" in page.source
    assert len(re.findall(r"<title>row \d, column \d: ", page.source)) == 64
    assert "of the total score" in page.source
    assert 'id="inputs"' in page.source
    assert re.search(r"<title>pixel \d, \d → \d+&#10;score", page.source)
    assert not any(link.startswith("http") for link in page.links)


@pytest.mark.slow
def test_an_unfinished_run_says_so(train_run: Run, tmp_path: Path) -> None:
    train_run(*WORDS)
    folder = run_folder(tmp_path, *WORDS)
    (folder / "result.json").unlink()
    assert "Not the result of a finished training" in Page(explain(folder).read_text()).text
    (folder / "checkpoints" / "best.ckpt").unlink()
    assert "last.ckpt" in Page(explain(folder).read_text()).text
    (folder / "checkpoints" / "last.ckpt").unlink()
    with pytest.raises(ValueError, match="has not finished an epoch"):
        explain(folder)


@pytest.mark.slow
def test_a_formula_is_found_and_a_failure_is_told(train_run: Run, tmp_path: Path) -> None:
    words = ["experiment=fit_exp_sin", "trainer.max_epochs=80", "callbacks.grid.refine=[[40,10]]"]
    words += ["data.n_train=1000", "data.batch_size=1000", f"runs={tmp_path}"]
    words += ["logger=csv", "callbacks.progress=false"]
    train(compose("train", words))
    folder = folder_of(*words)
    page = Page(explain(folder, symbolic=True).read_text())
    found = json.loads((folder / "explain" / "formula.json").read_text())
    assert found.keys() >= {"expression", "latex", "rmse_network", "rmse_formula", "edges"}
    assert found["failed"] == ""
    truth = sympy.sympify("exp(sin(pi*x) + y**2)")
    formula = sympy.sympify(found["expression"])
    names = sorted(formula.free_symbols, key=str)
    assert len(names) == 2
    for x, y in ((0.3, -0.7), (-0.9, 0.2), (0.5, 0.5)):
        value = formula.subs(dict(zip(names, (x, y), strict=True)))
        assert float(value) == pytest.approx(float(truth.subs({"x": x, "y": y})), rel=1e-3)
    assert found["rmse_formula"] < 1e-3
    assert found["expression"] in page.text
    words = [*WORDS, "data=wine"]
    train_run(*words)
    other = run_folder(tmp_path, *words)
    page = Page(explain(other, symbolic=True).read_text())
    found = json.loads((other / "explain" / "formula.json").read_text())
    assert found["failed"].startswith("a formula needs regression")
    assert found["failed"] in page.text


def test_names_are_escaped(train_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attack = "<script>x$&"
    monkeypatch.setattr(Diabetes, "feature_names", (attack,) * 10)
    train_run(*WORDS)
    page = Page(explain(run_folder(tmp_path, *WORDS), fits=0).read_text())
    assert "<script" not in page.source
    # In the graph, among the scores, above and below the functions, and under the pointer.
    shown = Page(re.sub(r"<title>[^<]*</title>", "", page.source)).text
    assert shown.count(attack) == 10 + 10 + 2 * 12
    assert page.text.count(attack) > shown.count(attack)


def test_an_mlp_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    words = (*SMALL, *WORDS, f"runs={tmp_path}", "layers=mlp")
    RunDir.of(compose("train", list(words))).write_config()
    with pytest.raises(ValueError, match=r"^layers=mlp has no KAN layers to explain$"):
        explain(folder_of(*words))
    with pytest.raises(ValueError, match=r"holds no config\.yaml"):
        explain(tmp_path)


def test_a_basis_without_edge_functions_is_refused(train_run: Run, tmp_path: Path) -> None:
    words = (*WORDS, "trainer.max_epochs=1", "basis=none")
    train_run(*words)
    with pytest.raises(ValueError, match=r"^basis=none has no edge functions"):
        explain(run_folder(tmp_path, *words))


@pytest.mark.slow
def test_the_command_refuses_an_mlp_and_explains_a_kan(train_run: Run, tmp_path: Path) -> None:
    for layers in ("mlp", "kan"):
        train_run(*WORDS, f"layers={layers}")
    folder = run_folder(tmp_path, *WORDS, "layers=mlp")
    ended = in_process(main, [f"run={folder}"], tmp_path)
    assert (ended.code, ended.error) == (2, "kanzoo: layers=mlp has no KAN layers to explain\n")
    folder = run_folder(tmp_path, *WORDS)
    ended = in_process(main, [f"run={folder}", "edges=2"], tmp_path)
    assert ended.code == 0, ended.error
    assert (folder / "explain" / "index.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_other_models_are_explained_by_grids(name: str, train_run: Run, tmp_path: Path) -> None:
    # SMALL's width of the MLP comes first, so these take its place.
    words = ("trainer.max_epochs=1", *OTHERS[name])
    train_run(*words)
    folder = run_folder(tmp_path, *words)
    page = Page(explain(folder, edges=4).read_text())
    assert "Not drawn: only a chain" in page.text
    pictures = list((folder / "explain").glob("*.svg"))
    assert len(pictures) == page.tags.count("svg")
    assert sum(path.name.startswith("edges-") for path in pictures) > 1
    assert not (folder / "explain" / "graph.svg").exists()


def test_columns_are_those_of_the_data() -> None:
    from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine

    pairs = ((BreastCancer, load_breast_cancer), (Diabetes, load_diabetes), (Wine, load_wine))
    for table, load in pairs:
        assert list(table().columns) == list(load().feature_names)


PICTURES = (*WORDS, "callbacks.pictures.every=1", "callbacks.pictures.edges=4")


def test_pictures_change_neither_folder_nor_result(train_run: Run, tmp_path: Path) -> None:
    plain = train_run(*WORDS, "model.dropout=0.2", "name=plain")
    drawn = train_run(*PICTURES, "model.dropout=0.2", "name=drawn")
    folders = [run_folder(tmp_path, *WORDS, "model.dropout=0.2", f"name={n}")
               for n in ("plain", "drawn")]  # fmt: skip
    assert plain["config_hash"] == drawn["config_hash"]
    assert (plain["val"], plain["test"]) == (drawn["val"], drawn["test"])
    weights = [
        torch.load(f / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for f in folders
    ]
    torch.testing.assert_close(*weights, rtol=0, atol=0)
    assert not (folders[0] / "pictures").exists()
    gif = folders[1] / "pictures" / "edges.gif"
    with Image.open(gif) as image:
        assert image.n_frames == 3  # before training, and after each of two epochs
    assert "img" in Page(explain(folders[1]).read_text()).tags
    before = gif.read_bytes()
    animation.animate(gif.parent, 4)
    assert gif.read_bytes() == before
    train_run(*WORDS, "model.dropout=0.2", "name=drawn", "overwrite=true")
    assert not gif.exists()


def test_frames_are_what_the_network_was(train_run: Run, tmp_path: Path) -> None:
    from kanzoo.run.load import load_run

    train_run(*PICTURES)
    folder = run_folder(tmp_path, *WORDS)
    frame = animation.read_frame(folder / "pictures" / "frames" / "epoch0002.npz")
    run = load_run(folder, "last")
    x, _ = next(iter(run.dataset.loaders(seed=0, device="cpu").val))
    found = edge_functions(run.net, x, num_edges=None, num_points=animation.POINTS)
    own = {(layer.name, e.source, e.target, e.tap): e for layer in found for e in layer.edges}
    assert len(frame) == len(own) == 33
    for name, edge in frame:
        same = own[name, edge.source, edge.target, edge.tap]
        np.testing.assert_allclose(edge.y, same.y, rtol=1e-5, atol=1e-6)
        assert edge.score == pytest.approx(same.score)


def test_taps_survive_a_frame(tmp_path: Path) -> None:
    from torch import nn

    from kanzoo.layers import KANConv2d

    net = nn.Sequential(KANConv2d(1, 2, 2), nn.Flatten(), KANLinear(8, 2))
    found = edge_functions(net, torch.randn(3, 1, 3, 3))
    frame = [(layer.name, edge) for layer in found for edge in layer.edges]
    animation.write_frame(tmp_path / "epoch0001.npz", frame)
    read = animation.read_frame(tmp_path / "epoch0001.npz")
    assert [(n, e.label) for n, e in read] == [(n, e.label) for n, e in frame]
    assert [n for n, _ in (read[i] for i in animation.strongest(read, 6))] == ["0"] * 3 + ["2"] * 3


def test_pictures_of_an_mlp_are_nothing_and_say_so(
    train_run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train_run(*PICTURES, "layers=mlp", "trainer.max_epochs=1")
    assert "callbacks.pictures has no effect" in caplog.text
    folder = run_folder(tmp_path, *WORDS, "layers=mlp", "trainer.max_epochs=1")
    assert not (folder / "pictures").exists()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("callbacks.pictures.every=-1", "every must be a whole number of at least 0"),
        ("callbacks.pictures.edges=0", "edges must be a whole number of at least 1"),
        ("callbacks.pictures.wandb=true", "needs logger=wandb"),
    ],
)
def test_impossible_pictures_are_refused(word: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prepare(compose("train", [*SMALL, *PICTURES, word]))


def test_runs_from_before_pictures_stay_the_same() -> None:
    config = compose("train", [*SMALL, *PICTURES])
    old = {**config, "callbacks": {k: v for k, v in config["callbacks"].items() if k != "pictures"}}
    assert RunDir.of(old).path == RunDir.of(config).path
    assert prepare(old) is not None


@pytest.mark.slow
def test_pictures_go_to_wandb(train_run: Run, tmp_path: Path) -> None:
    words = ("logger=wandb", "callbacks.pictures.wandb=true")
    train_run(*PICTURES, *words)
    images = list(run_folder(tmp_path, *WORDS, *words).rglob("media/images/*.png"))
    assert len(images) == 3


def test_a_run_without_a_test_shows_validation(train_run: Run, tmp_path: Path) -> None:
    words = (*WORDS, "evaluation.test=false", "trainer.max_epochs=1")
    result = train_run(*words)
    page = Page(explain(run_folder(tmp_path, *words), edges=1).read_text())
    assert result["test"] is None
    assert "validation rmse" in page.text
    assert f"{result['val']['rmse']:.4g}" in page.text
