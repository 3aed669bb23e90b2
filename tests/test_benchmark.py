"""What the benchmark measures, apart from time itself."""

import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from kernel_cases import needs_compiler
from torch import nn

from kanzoo.bases.base import get_basis
from kanzoo.benchmark import inputs, ledgers, models, paths, peers, tables
from kanzoo.benchmark.layers import SHAPES, Shape, measure
from kanzoo.benchmark.main import main
from kanzoo.benchmark.timing import optimizer_step, ratio, saved_bytes, training_step
from kanzoo.ledger.store import read_ledger
from kanzoo.registry import conf_dir, names
from kanzoo.reproduce.reference import pages

ROWS = Path(__file__).parents[1] / "docs/studies/generalize_rows"


def test_ratio_is_the_median_of_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10**6))
    monkeypatch.setattr("kanzoo.benchmark.timing.time.perf_counter", lambda: float(next(clock)))
    calls = []

    def candidate() -> None:
        calls.append("candidate")
        next(clock)  # takes two ticks more than nothing
        next(clock)

    assert ratio(candidate, lambda: calls.append("limit"), rounds=5) == 3.0
    assert calls[6:] == ["candidate", "limit"] * 5  # after three of each to warm up


def test_saved_bytes_count_activations_once() -> None:
    x = torch.randn(8, 4, requires_grad=True)
    assert saved_bytes(nn.Linear(4, 3), x) == x.nbytes
    assert saved_bytes(nn.Sequential(nn.Linear(4, 3), nn.Sigmoid()), x) == x.nbytes + 8 * 3 * 4


def test_training_step_gives_all_gradients() -> None:
    net = nn.Linear(4, 3)
    x = torch.randn(8, 4, requires_grad=True)
    step = training_step(net, x, torch.ones(8, 3))
    step()
    step()
    torch.testing.assert_close(net.bias.grad, torch.full((3,), 8.0))  # not twice
    torch.testing.assert_close(x.grad, net.weight.sum(0).expand(8, 4))


@pytest.mark.parametrize("shape", [Shape(6, 5, 4), Shape(2, 3, 4, pixels=5)])
def test_a_row_names_what_was_measured(shape: Shape) -> None:
    net = shape.kan(get_basis("rbf"), "auto")
    row = asdict(measure(shape, net, net.expansion.num_functions, ("rbf", 8, "auto"), rounds=1))
    assert list(row)[:5] == ["operator", "shape", "basis", "grid_size", "backend"]
    assert row["operator"] == ("conv" if shape.pixels else "linear")
    for name in ("step_ratio", "forward_ratio", "saved_bytes_ratio"):
        assert math.isfinite(row[name])
        assert row[name] > 0


@needs_compiler
def test_special_paths_are_measured_beside_general_ones() -> None:
    shape = Shape(16, 8, 700)
    rows = {row.basis: row for row in paths.measure(1, ("bspline", "rbf", "rational"), (shape,))}
    used = {basis: row.path for basis, row in rows.items()}
    assert used == {"bspline": "Direct", "rbf": "FamiliesLinear", "rational": "Rational"}
    assert all(
        row.compiler and row.speedup > 0 and row.saved_bytes_ratio <= 1 for row in rows.values()
    )
    net, x = shape.kan(get_basis("rbf"), "auto"), shape.sample(16)
    with paths.left_out():
        assert not paths.chosen(net, x)
    assert paths.chosen(net, x)


def test_a_network_is_measured_beside_its_twin() -> None:
    rows = [asdict(row) for row in models.measure("mlp", list(models.ARMS), "params", 1, batch=4)]
    assert [row["arm"] for row in rows] == ["mlp", "kan-bspline", "kan-rational"]
    assert [row["basis"] for row in rows] == ["gelu", "bspline", "rational"]
    twin = rows[0]
    for row in rows:
        assert row["model"] == "mlp"
        for name in ("params", "flops", "memory"):
            size = "memory_mb" if name == "memory" else name
            assert row[f"{name}_ratio"] == pytest.approx(row[size] / twin[size])
        assert row["params_ratio"] == pytest.approx(1, abs=0.02)
        assert row["step_ms"] > 0
        assert row["step_ratio"] > 0
    assert twin["step_ratio"] == 1


@pytest.mark.skipif(not ROWS.is_dir(), reason="no committed ledgers: not a clone of the repository")
def test_arms_of_a_ledger_are_the_networks_that_were_trained() -> None:
    found = {row.arm: row for row in ledgers.measure([ROWS], rounds=1)}
    runs = read_ledger(ROWS).runs.drop_duplicates("arm").set_index("arm")
    assert set(found) == set(runs.index) - {"mlp"}
    for arm, row in found.items():  # what a step needs was counted in training, too
        assert row.memory_mb == pytest.approx(runs["peak_memory_mb"][arm], rel=1e-9)
        assert row.memory_ratio * runs["peak_memory_mb"]["mlp"] == pytest.approx(row.memory_mb)
        assert row.params_ratio == runs["params"][arm] / runs["params"]["mlp"]
        assert row.step_ms > 0 < row.step_ratio
    assert "digits_rows rnn params" in str(ledgers.shown([*found.values()]).columns[1]._cells)


def test_flops_can_be_made_equal_instead() -> None:
    rows = list(models.measure("mlp", ["kan-bspline"], "flops", 1, batch=4))
    assert rows[1].flops_ratio == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("name", names("model"))
def test_every_network_has_inputs(name: str) -> None:
    """The loss of a random batch is finite, and a step changes the weights."""
    kind = inputs.inputs_of(name)
    net = inputs.plan(name, None, kind, "none").build(seed=0)
    x, y = kind.sample(2)
    before = [p.detach().clone() for p in net.parameters()]
    assert kind.loss(net(x), y).isfinite()
    optimizer_step(net, kind.loss, models.make_optimizer(net), (x, y))()
    after = list(net.parameters())
    assert not any(torch.equal(p, q) for p, q in zip(before, after, strict=True) if p.dim() > 1)


def test_the_command_writes_what_it_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "models.json"
    words = ["models", "--models", "mlp", "--arms", "kan-rbf", "--rounds", "1", "--batch", "2"]
    monkeypatch.setattr("sys.argv", ["benchmark.py", *words, "--json", str(path)])
    main()
    report = json.loads(path.read_text())
    assert report["hardware"]["torch"] == torch.__version__
    assert [row["arm"] for row in report["rows"]] == ["mlp", "kan-rbf"]
    assert "kan-rbf" in capsys.readouterr().out


def test_peers_are_built_where_they_are_installed() -> None:
    for peer in peers.installed():
        net = peer.build(6, 4, 5, conv=False)
        assert net is not None
        assert net(torch.zeros(3, 6)).shape == (3, 4)
        assert peer.build(6, 4, 5, conv=True) is None
    assert {peer.name for peer in peers.PEERS} == {"inkan", "flashkan", "pykan"}
    assert len(SHAPES) == 4


def test_the_pages_are_up_to_date() -> None:
    docs = conf_dir().parent / "docs"
    if not docs.is_dir():
        pytest.skip("installed without docs/")
    for name, text in pages().items():
        assert (docs / name).read_text(encoding="utf-8") == text, "run scripts/document.py"
    for path in (conf_dir() / "basis").glob("*.yaml"):
        assert (docs / "bases" / f"{path.stem}.svg").is_file()


def test_a_measurement_of_tables_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tables.json"
    words = ["benchmark.py", "tables", "--data", "wine", "--folds", "2", "--json", str(file)]
    quick = dict.fromkeys(("linear", "same"), tables.methods(True)["linear"])
    monkeypatch.setattr(tables, "methods", lambda _: quick)
    monkeypatch.setattr("sys.argv", words)
    main()
    report = json.loads(file.read_text())
    assert [row["method"] for row in report["rows"]] == ["linear", "same"]
    assert 0.9 < report["rows"][0]["score"] <= 1
    report["rows"] = [{**report["rows"][0], "score": -5.0}]  # as if it had ended there
    file.write_text(json.dumps(report))
    monkeypatch.setattr("sys.argv", [*words, "--resume"])
    main()
    scores = [row["score"] for row in json.loads(file.read_text())["rows"]]
    assert scores[0] == -5
    assert 0.9 < scores[1] <= 1
    file.write_text(json.dumps({**report, "hardware": {**report["hardware"], "cpu": "abacus"}}))
    with pytest.raises(SystemExit):
        main()
    assert "another cpu" in capsys.readouterr().err
