"""Grids that move and are refined during training."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from kanzoo.config import compose
from kanzoo.engine.grid import GridSchedule, layer_inputs
from kanzoo.evaluate import evaluate, find_checkpoint
from kanzoo.layers.kan import KANLinear
from kanzoo.rundir import RunDir
from kanzoo.train import train

SHORT = ["callbacks=grid", "logger=csv", "data.limit_train=128", "match=none", "model.width=12"]


def test_layer_inputs_are_what_the_layers_see() -> None:
    torch.manual_seed(0)
    first, plain, second = KANLinear(5, 4), KANLinear(4, 4, basis="gelu"), KANLinear(4, 3)
    net = nn.Sequential(first, plain, nn.Dropout(0.5), second).train()
    x = torch.randn(7, 5)
    seen = layer_inputs(net, x)
    assert set(seen) == {first, second}
    assert torch.equal(seen[first], x)
    torch.testing.assert_close(seen[second], plain(first(x)))  # no dropout: as in evaluation
    assert net.training


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
    folder, checkpoint = find_checkpoint(RunDir.of(config).path, "last")
    last = torch.load(checkpoint, weights_only=True)["state_dict"]["net.stem.weight"]
    assert last.shape == (64, 20 + 3 + 1, 12)
    folder, checkpoint = find_checkpoint(RunDir.of(config).path, "best")
    scores = evaluate(folder, checkpoint, "test")
    assert scores["accuracy"] == pytest.approx(result["test"]["accuracy"], abs=1e-6)


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
    _, checkpoint = find_checkpoint(RunDir.of(config).path, "last")
    knots: Tensor = torch.load(checkpoint, weights_only=True)["state_dict"][
        "net.head.expansion.basis.knots"
    ]
    assert knots.shape[0] == 12
    assert (knots.diff(dim=1) > 0).all()
    assert not torch.equal(knots[0], knots[1])  # every feature has followed its own data


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"update_every": -1}, "update_every"),
        ({"refine": [[1]]}, "refine"),
        ({"refine": [[1, 0]]}, "refine"),
        ({"optimizer_state": "keep"}, "reset or remap"),
    ],
)
def test_impossible_schedules_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GridSchedule(**options)
