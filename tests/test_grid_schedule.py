"""Grids that move and are refined during training."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import SMALL, compose
from torch import Tensor, nn
from torch.nn.utils import prune

from kanzoo.checks import build
from kanzoo.layers import KANLinear
from kanzoo.layers.inputs import layer_inputs
from kanzoo.models.build import create_model
from kanzoo.models.weights import find_checkpoint
from kanzoo.run.fit import train
from kanzoo.run.load import load_run
from kanzoo.rundir import RunDir
from kanzoo.settings import GridConfig
from kanzoo.training.grid import GridSchedule

SHORT = ["callbacks=grid", "logger=csv", "data.limit_train=128", "match=none", "model.width=12"]


def test_layer_inputs_are_what_the_layers_see() -> None:
    torch.manual_seed(0)
    first, plain, second = KANLinear(5, 4), KANLinear(4, 4, basis="gelu"), KANLinear(4, 3)
    net = nn.Sequential(first, plain, nn.Dropout(0.5), second).train()
    x = torch.randn(7, 5)
    seen = layer_inputs(net, x, (first, second))
    assert set(seen) == {first, second}
    assert torch.equal(seen[first], x)
    torch.testing.assert_close(seen[second], plain(first(x)))  # no dropout: as in evaluation
    assert net.training


class Loop(nn.Module):
    """Calls one layer at every step, on inputs that grow."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.layer(step) for step in x.unbind(1)], 1)


@pytest.mark.parametrize("most", [10**6, 60, 1])
def test_all_calls_of_a_layer_are_seen(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kanzoo.layers.inputs.MOST_NUMBERS", most)
    net = Loop(KANLinear(3, 2, basis="bspline_adaptive"))
    x = torch.arange(5 * 8 * 3.0).view(5, 8, 3)  # 8 steps of 5 samples
    seen = layer_inputs(net, x, [net.layer])[net.layer]
    assert seen.shape[1:] == (3,)
    rows = {tuple(row) for row in x.flatten(0, 1).tolist()}
    assert {tuple(row) for row in seen.tolist()} <= rows
    assert len(torch.unique(seen, dim=0)) == len(seen)
    steps = {int(row[0]) // 3 % 8 for row in seen.tolist()}
    if most == 10**6:
        assert len(seen) == len(rows)
    elif most == 60:  # not of every sample, but of every step
        assert steps == set(range(8))
        assert seen.numel() <= most
    else:
        assert steps == {0}


def test_grids_of_a_recurrent_layer_follow_all_steps() -> None:
    """The state starts at zero and moves away: the last step alone would not show that."""
    net = create_model("rnn", cell="elman", basis="bspline_adaptive", in_shape=(6, 3), seed=0)
    x = torch.linspace(0, 1, 6).view(1, 6, 1) * torch.randn(
        16, 6, 3, generator=torch.Generator().manual_seed(0)
    )
    cell = net.cells[1]
    seen = layer_inputs(net, x, [cell.hidden])
    with torch.no_grad():
        states = cell(net.cells[0](net.embed(x).transpose(0, 1)))  # (T, B, H)
    before = torch.cat([torch.zeros_like(states[:1]), states[:-1]])
    torch.testing.assert_close(seen[cell.hidden], before.flatten(0, 1))
    cell.hidden.update_grid(seen[cell.hidden], margin=0.0)
    ends = cell.hidden.expansion.basis.grid_ends()
    expected = torch.stack([before.flatten(0, 1).amin(0), before.flatten(0, 1).amax(0)])
    torch.testing.assert_close(ends.float(), expected, rtol=1e-3, atol=1e-3)


def test_refining_keeps_the_function_and_the_best_weights_load(tmp_path: Path) -> None:
    words = [
        "trainer.max_epochs=4",
        "callbacks.grid.refine=[[1,10],[2,20]]",
        "callbacks.grid.update_every=0",
        f"runs={tmp_path}",
    ]
    config = compose("train", [*SHORT, *words])
    result = train(config)
    stem = KANLinear(64, 12, basis="bspline").weight.numel()
    assert result["params"] > result["twin_params"] + 2 * stem
    checkpoint = find_checkpoint(RunDir.of(config).path, "last")
    last = torch.load(checkpoint, weights_only=True)["state_dict"]["net.stem.weight"]
    assert last.shape == (64, 20 + 3 + 1, 12)
    assert load_run(RunDir.of(config).path).evaluate("test") == result["test"]


@pytest.mark.parametrize("state", ["reset", "remap"])
def test_moved_grids_cover_their_data(tmp_path: Path, state: str) -> None:
    words = [
        "basis=bspline_adaptive",
        "trainer.max_epochs=2",
        "callbacks.grid.update_every=2",
        f"callbacks.grid.optimizer_state={state}",
        f"runs={tmp_path}",
    ]
    config = compose("train", [*SHORT, *words])
    train(config)
    checkpoint = find_checkpoint(RunDir.of(config).path, "last")
    knots: Tensor = torch.load(checkpoint, weights_only=True)["state_dict"][
        "net.head.expansion.basis.knots"
    ]
    assert knots.shape[0] == 12
    assert (knots.diff(dim=1) > 0).all()
    assert not torch.equal(knots[0], knots[1])  # every feature has followed its own data


@pytest.mark.parametrize("optim", ["adamw", "sgd", "lbfgs"])
def test_grids_move_and_are_refined_at_once(tmp_path: Path, optim: str) -> None:
    words = [
        *("callbacks.grid.refine=[[2,8],[2,9]]", "callbacks.grid.update_every=4"),
        *("callbacks.grid.optimizer_state=remap", f"optim={optim}", "trainer.max_epochs=3"),
        *("data.batch_size=128", "basis=bspline", f"runs={tmp_path}"),
    ]
    config = compose("train", [*SHORT, *words])
    result = train(config)
    checkpoint = find_checkpoint(RunDir.of(config).path, "last")
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert state["net.stem.weight"].shape == (64, 9 + 3 + 1, 12)
    assert math.isfinite(result["test"]["loss"])


def test_inputs_outside_the_grid_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    words = [*SHORT[1:], "trainer.max_epochs=1", "basis.grid_range=[-0.2,0.1]", f"runs={tmp_path}"]
    with caplog.at_level("WARNING", "kanzoo"):
        result = train(compose("train", words))
    assert result["outside_grid"]["stem"] > 0.1
    (line,) = [r.getMessage() for r in caplog.records if "outside the grid" in r.getMessage()]
    assert "callbacks=grid" in line
    assert "\n" not in line


def test_grids_do_not_move_while_gradients_add_up() -> None:
    layer = KANLinear(2, 3)
    x = torch.randn(5, 2)
    trainer = SimpleNamespace(
        accumulate_grad_batches=2,
        current_epoch=0,
        global_step=0,
        optimizers=[torch.optim.SGD(layer.parameters(), 0.1)],
        strategy=None,
    )
    schedule = GridSchedule(GridConfig(update_every=1, update_until=5))
    layer(x).sum().backward()
    schedule.on_train_batch_start(trainer, layer, (x, x), 1)  # type: ignore[arg-type]
    assert layer.weight.grad is not None
    schedule.on_train_batch_start(trainer, layer, (x, x), 2)  # type: ignore[arg-type]
    assert layer.weight.grad is None


def test_computed_weights_are_refused_before_training() -> None:
    net = nn.Sequential(KANLinear(2, 3), KANLinear(3, 1))
    prune.l1_unstructured(net[1], "weight", 0.5)
    with pytest.raises(ValueError, match="is computed"):
        GridSchedule(GridConfig(update_every=1)).on_fit_start(SimpleNamespace(strategy=None), net)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"update_every": -1}, "update_every"),
        ({"update_until": -5}, "callbacks.grid.update_until must be a whole number of at least 0"),
        ({"refine": [[1]]}, "refine"),
        ({"refine": [[1, 0]]}, "refine"),
        ({"optimizer_state": "keep"}, "reset, remap"),
    ],
)
def test_impossible_schedules_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(GridConfig, options, "callbacks.grid.")


def test_a_move_says_how_many_inputs_were_outside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = ["callbacks=grid", "callbacks.grid.update_every=1", "callbacks.grid.update_until=1"]
    caplog.set_level("INFO", logger="kanzoo")
    train(compose("train", [*SMALL, *words, "basis.grid_range=[-0.1,0.1]", f"runs={tmp_path}"]))
    lines = [r.getMessage() for r in caplog.records if "grids move" in r.getMessage()]
    first, second = (int(line.split("up to ")[1].split(" %")[0]) for line in lines)
    assert first > 50
    assert second < 20
