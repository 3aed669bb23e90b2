"""Fitting functions: LBFGS, double precision, refinement on the way, and published figures."""

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import compose
from reference import fit_least_squares
from torch import nn

from kanzoo import KANLinear, get_basis
from kanzoo.data.functions import Functions
from kanzoo.layers.grid import adjust_optimizer
from kanzoo.registry import options
from kanzoo.run.fit import train
from kanzoo.rundir import RunDir
from kanzoo.training.grid import GridSchedule, refined_params
from kanzoo.training.lbfgs import LBFGS
from kanzoo.training.optim import build_optimizer
from kanzoo.training.task import Task

FIT = [
    *("data=functions", "data.n_train=200", "data.batch_size=200", "data.dtype=float64"),
    *("data.n_val=100", "data.n_test=100"),
    *("optim=lbfgs", "trainer.precision=64-true", "trainer.max_epochs=6"),
    *("model.widths=[1]", "model.norm=none", "match=none", "layers.init=paper"),
    *("layers.residual=identity", "basis.grid_range=[-1,1]", "basis.extrapolation=linear"),
    *("logger=csv", "callbacks.progress=false"),
]
CUBIC = ["data.formula=x**3 - x + y/2"]  # a cubic spline holds it exactly


def fit(tmp_path: Path, *words: str) -> tuple[dict[str, Any], RunDir]:
    config = compose("train", [*FIT, f"runs={tmp_path}", *words])
    return train(config), RunDir.of(config)


def test_lbfgs_in_double_precision_from_the_data_to_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    step = Task.training_step

    def watched(self: Task, batch: tuple[torch.Tensor, torch.Tensor], index: int) -> torch.Tensor:
        seen.append(batch)
        loss = step(self, batch, index)
        assert loss.dtype == torch.float64
        return loss

    monkeypatch.setattr(Task, "training_step", watched)
    result, folder = fit(tmp_path, *CUBIC, "trainer.max_epochs=4")
    assert result["test"]["rmse"] < 1e-2
    assert result["test"]["mae"] < result["test"]["rmse"]
    for x, y in seen:  # nothing was rounded on the way
        exact = x[:, :1] ** 3 - x[:, :1] + x[:, 1:] / 2
        torch.testing.assert_close(y, exact, rtol=1e-14, atol=1e-15)
    assert len(seen) > 4 * 10  # a line search works out the loss many times
    state = torch.load(folder.path / "checkpoints" / "best.ckpt", weights_only=True)
    tensors = [value for key, value in state["state_dict"].items() if key.startswith("net.")]
    assert {tensor.dtype for tensor in tensors if tensor.is_floating_point()} == {torch.float64}


def test_lbfgs_does_not_stand_still_at_small_losses() -> None:
    def loss_after(optimizer: type[torch.optim.Optimizer], scale: float) -> float:
        w = torch.zeros(8, dtype=torch.float64, requires_grad=True)
        stiffness = torch.logspace(0, 3, 8, dtype=torch.float64)
        options = {"max_iter": 60, "tolerance_grad": 0, "tolerance_change": 0}
        solver = optimizer([w], line_search_fn="strong_wolfe", **options)

        def value() -> torch.Tensor:
            return scale * (stiffness * (w - 1).square() + (w - 1) ** 4).sum()

        def closure() -> torch.Tensor:
            solver.zero_grad()
            value().backward()
            return value()

        solver.step(closure)
        return value().item() / scale

    large, small = loss_after(LBFGS, 1.0), loss_after(LBFGS, 1e-10)
    assert large < 1e-12
    assert small < 1e-12
    assert loss_after(torch.optim.LBFGS, 1e-10) > 1e3 * small  # why the class is there


def test_without_clipping_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "kanzoo"):
        fit(tmp_path, *CUBIC, "trainer.max_epochs=1")
    assert [r.message for r in caplog.records if "clipped" in r.message] == [
        "LBFGS: gradients are not clipped, which would mislead its line search"
    ]
    assert compose("train", FIT)["choices"]["sched"] == "constant"
    assert compose("train", [*FIT, "sched=warmup_cosine"])["choices"]["sched"] == "warmup_cosine"


def test_lbfgs_gets_all_parameters_in_one_group() -> None:
    net = nn.Sequential(KANLinear(2, 3), nn.LayerNorm(3), KANLinear(3, 1))
    optimizer = build_optimizer(options("optim", "lbfgs"), net)
    assert isinstance(optimizer, torch.optim.LBFGS)
    (group,) = optimizer.param_groups
    assert {id(p) for p in group["params"]} == {id(p) for p in net.parameters()}
    with pytest.raises(ValueError, match="weight_decay"):
        build_optimizer({**options("optim", "lbfgs"), "weight_decay": 0.1}, net)


def test_refining_under_lbfgs_keeps_the_loss_and_goes_on() -> None:
    torch.manual_seed(0)
    place = {"dtype": torch.float64}
    basis = get_basis("bspline", grid_size=4, grid_range=(-1, 1), extrapolation="linear")
    net = nn.Sequential(
        KANLinear(2, 2, basis=basis, **place), KANLinear(2, 1, basis=basis, **place)
    )
    x = torch.rand(300, 2, dtype=torch.float64) * 2 - 1
    y = (3 * x[:, :1]).sin() * x[:, 1:]
    optimizer = build_optimizer(options("optim", "lbfgs"), net)
    losses: list[float] = []

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (net(x) - y).square().mean()
        loss.backward()
        return loss

    for grid_size in (8, 16, 24):
        for _ in range(3):
            optimizer.step(closure)
        before = closure().item()
        seen = x
        changes = []
        for layer in net:
            following = layer(seen).detach()
            changes.append(layer.refine(grid_size, seen))
            seen = following
        adjust_optimizer(optimizer, changes, "remap")
        assert not optimizer.state
        tolerance = 1e-6 if grid_size < 24 else 0.3  # 16 cells do not divide into 24
        assert closure().item() == pytest.approx(before, rel=tolerance)
        optimizer.step(closure)
        losses.append(closure().item())
        assert losses[-1] < before
    assert losses == sorted(losses, reverse=True)


def test_refinement_on_schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    swaps: list[tuple[float, float, int]] = []
    moved: list[int] = []
    original = GridSchedule.on_train_batch_start
    update = KANLinear.update_grid

    def watched(self: GridSchedule, trainer: Any, module: Any, batch: Any, index: int) -> None:
        def loss() -> float:
            with torch.no_grad():
                return float(module.objective.loss(module(batch[0]), batch[1]))

        assert batch[0].dtype == torch.float64
        before = loss()
        original(self, trainer, module, batch, index)
        swaps.append((before, loss(), module.net.head.expansion.basis.grid_size))

    def counted(self: KANLinear, x: Any, **kwargs: Any) -> Any:
        moved.append(len(swaps))
        return update(self, x, **kwargs)

    monkeypatch.setattr(GridSchedule, "on_train_batch_start", watched)
    monkeypatch.setattr(KANLinear, "update_grid", counted)
    result, _ = fit(
        tmp_path,
        *("callbacks=grid", "callbacks.grid.update_every=2", "callbacks.grid.update_until=2"),
        *("callbacks.grid.refine=[[4,6],[7,12]]", "basis.grid_size=3", "trainer.max_epochs=10"),
    )
    assert [size for *_, size in swaps] == [3] * 4 + [6] * 3 + [12] * 3
    assert sorted(set(moved)) == [0, 2, 4, 6, 7, 9]  # again after every refinement
    for before, after, _ in swaps[1:]:
        assert after == pytest.approx(before, rel=0.5, abs=1e-6)
    assert swaps[-1][0] < swaps[4][0] / 10  # the finer grid is made use of
    assert result["params"] == 3 * (12 + 3 + 1) + 2


def test_no_refinement_to_the_interpolation_threshold(tmp_path: Path) -> None:
    words = ["callbacks=grid", "callbacks.grid.refine=[[2,60],[3,70]]"]
    result, _ = fit(tmp_path, *words, "callbacks.grid.stop_at_interpolation=true")
    # 3 (60 + 4) + 2 parameters are fewer than 200 samples, 3 (70 + 4) + 2 are more.
    assert result["epochs"] == 3
    assert result["params"] == 3 * 64 + 2
    plain, _ = fit(tmp_path, *words)
    assert plain["params"] == 3 * 74 + 2
    layer = KANLinear(4, 3)
    expected = sum(p.numel() for p in layer.parameters()) + 4 * 3 * 5
    assert refined_params(nn.Sequential(layer, nn.Linear(3, 2)), 10) == expected + 8
    assert layer.expansion.basis.grid_size == 5


def test_an_interrupted_fit_goes_on_with_its_grid_and_history(tmp_path: Path) -> None:
    words = [*CUBIC, "callbacks=grid", "callbacks.grid.update_every=0"]
    words += ["callbacks.grid.refine=[[2,6]]"]
    whole, _ = fit(tmp_path / "whole", *words)
    _, folder = fit(tmp_path / "part", *words, "trainer.max_epochs=4")
    config = compose("train", [*FIT, f"runs={tmp_path / 'part'}", *words])
    target = RunDir.of(config).path
    (target / "checkpoints").mkdir(parents=True)
    for name in ("last.ckpt", "best.ckpt"):
        (target / "checkpoints" / name).write_bytes(
            (folder.path / "checkpoints" / name).read_bytes()
        )
    resumed = train(config)
    assert resumed["epochs"] == whole["epochs"]
    assert math.log10(resumed["test"]["rmse"]) == pytest.approx(
        math.log10(whole["test"]["rmse"]), abs=0.3
    )


def test_one_layer_reaches_the_published_oracle() -> None:
    """Least squares of J0(20 x) in [1, 1]: 8.2e-3, 9.3e-5, 5.0e-6 at G = 20, 50, 100."""
    dataset = Functions(function="bessel", n_train=1000, dtype="float64")
    dataset.load()
    assert dataset.splits is not None
    (x, y), (tx, ty) = dataset.splits["train"], dataset.splits["test"]
    errors = []
    for grid_size in (20, 50, 100):
        basis = get_basis("bspline", grid_size=grid_size, grid_range=(-1, 1))
        layer = KANLinear(1, 1, basis=basis, residual=None, dtype=torch.float64)
        fit_least_squares(layer, x, y)
        with torch.no_grad():
            errors.append(float((layer(tx) - ty).square().mean().sqrt()))
    assert np.all(np.array(errors) < 1.3 * np.array([8.2e-3, 9.3e-5, 5.0e-6]))
    slope = np.polyfit(np.log([20, 50, 100]), np.log(errors), 1)[0]
    assert slope == pytest.approx(-4.6, abs=0.3)


def test_least_squares_is_the_minimum_also_with_a_bias_and_few_samples() -> None:
    torch.manual_seed(0)
    layer = KANLinear(3, 2, dtype=torch.float64)
    x, y = torch.randn(200, 3).double(), torch.randn(200, 2).double()
    fit_least_squares(layer, x, y)
    (layer(x) - y).square().sum().backward()
    for parameter in layer.parameters():
        assert parameter.grad.abs().max() < 1e-8
    fit_least_squares(layer, x[:5], y[:5])
    torch.testing.assert_close(layer(x[:5]), y[:5])
    assert layer.weight.abs().max() < 100
