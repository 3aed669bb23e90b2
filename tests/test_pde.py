"""Physics losses: equations, their solutions, derivatives by two routes, and training."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import compose
from torch import Tensor

from kanzoo import registry
from kanzoo.bases.base import get_basis
from kanzoo.data.collocation import Collocation
from kanzoo.data.equations import EQUATIONS, allen_cahn, burgers
from kanzoo.layers import KANLinear
from kanzoo.run.fit import train
from kanzoo.run.load import load_run
from kanzoo.run.prepare import prepare
from kanzoo.rundir import RunDir
from kanzoo.training.pde import derivatives, has_kinks

POINTS = np.random.default_rng(0).uniform([0.02, -0.98], [0.98, 0.98], (40, 2))
SMALL = [
    *("data=poisson", "data.n_inside=60", "data.n_border=20", "data.n_val=30", "data.n_test=30"),
    *("data.batch_size=80", "data.dtype=float64", "trainer.precision=64-true", "match=none"),
    *("model.widths=[4]", "model.norm=none", "logger=csv", "callbacks.progress=false"),
    "trainer.gradient_clip_val=null",
]
STRAIGHT = {"piecewise_linear", "prelu", "relu", "bspline_prelu", "none", "identity"}


def numeric(solution: Any, x: np.ndarray, axis: int, column: int, h: float = 1e-4) -> np.ndarray:
    """The central difference of one column of a solution."""
    step = h * np.eye(2)[axis]
    change: np.ndarray = (solution(x + step) - solution(x - step))[:, column] / (2 * h)
    return change


@pytest.mark.parametrize("name", EQUATIONS)
def test_a_solution_leaves_no_residual_and_has_its_derivatives(name: str) -> None:
    equation = EQUATIONS[name]
    found = equation.solution(POINTS)
    for axis in (0, 1):
        slope = numeric(equation.solution, POINTS, axis, 0)
        scale = 1 + np.abs(found[:, 1 + axis])
        assert (np.abs(slope - found[:, 1 + axis]) / scale).max() < 1e-3
    second = np.stack([numeric(equation.solution, POINTS, i, 1 + i) for i in (0, 1)], 1)
    x, u, first, curved = map(torch.from_numpy, (POINTS, found[:, 0], found[:, 1:], second))
    residual = equation.residual(x, u, first, curved).numpy()
    assert (np.abs(residual) / (1 + np.abs(found[:, 1]))).max() < 2e-3


def test_references_do_not_change_when_they_are_refined() -> None:
    np.testing.assert_allclose(burgers(POINTS), burgers(POINTS, 3001), atol=1e-8, rtol=1e-8)
    coarse, fine = allen_cahn(POINTS), allen_cahn(POINTS, 319, 1e-10)
    np.testing.assert_allclose(coarse[:, 0], fine[:, 0], atol=2e-5)
    ends = np.array([[0.5, -1.0], [0.5, 1.0], [0.0, 0.3]])
    known = [-1, -1, 0.09 * np.cos(0.3 * np.pi)]
    np.testing.assert_allclose(allen_cahn(ends)[:, 0], known, atol=1e-7)


@pytest.mark.parametrize("name", registry.names("basis"))
def test_second_derivatives_of_every_basis_or_a_refusal(name: str) -> None:
    torch.manual_seed(0)
    residual = "silu" if name == "none" else None
    layer = KANLinear(2, 1, basis=get_basis(name), residual=residual, dtype=torch.float64)
    basis = layer.expansion.basis
    if basis.num_functions and has_kinks(basis, 2):
        assert name in STRAIGHT
        with pytest.raises(ValueError, match="second derivatives"):
            prepare(compose("train", [*SMALL, "layers=kan", f"basis={name}"]))
        return
    assert name not in STRAIGHT - {"none", "identity"}
    x = torch.rand(50, 2, dtype=torch.float64) * 2 - 1
    _, _, second = derivatives(layer, x)
    hessian = torch.func.vmap(torch.func.hessian(lambda p: layer.expansion.univariate(p[None])))
    weight = layer.weight[..., 0].detach()  # (C, K)
    for axis in (0, 1):
        step = 1e-5 * torch.eye(2, dtype=torch.float64)[axis]
        ahead, behind = (derivatives(layer, x + sign * step)[1] for sign in (1, -1))
        slope = ((ahead - behind) / 2e-5)[:, axis]
        torch.testing.assert_close(second[:, axis], slope, atol=1e-4, rtol=1e-4)
    curved = hessian(x)  # (N, K, 1, C, C, C)
    total = torch.einsum("ck,nkccc->nc", weight, curved[:, :, 0])
    torch.testing.assert_close(second, total, atol=1e-8, rtol=1e-6)


def test_activations_without_second_derivatives_are_refused_in_one_line() -> None:
    for words in (["layers=mlp", "layers.activation=relu"], ["layers=kan", "layers.residual=relu"]):
        with pytest.raises(ValueError, match=r"second derivatives[^\n]*$"):
            prepare(compose("train", [*SMALL, *words]))


def test_straight_lines_beyond_a_grid_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    prepare(compose("train", [*SMALL, "layers=kan"]))
    assert "extrapolation" not in caplog.text
    prepare(compose("train", [*SMALL, "layers=kan", "basis.extrapolation=linear"]))
    assert caplog.text.count("second derivatives jump") == 1


def test_twins_share_their_points_and_the_border_is_on_the_border() -> None:
    sets = []
    for layers in ("kan", "mlp"):
        dataset = prepare(compose("train", [*SMALL, f"layers={layers}", "seed=3"])).dataset
        dataset.load()
        assert isinstance(dataset, Collocation)
        sets.append(dataset.loaded)
    for part in sets[0]:
        for ours, theirs in zip(sets[0][part], sets[1][part], strict=True):
            assert torch.equal(ours, theirs)
    x, y = sets[0]["train"]
    on_border = (x.abs() == 1).any(1)
    assert torch.equal(on_border, y[:, 0] == 1)
    assert not y[~on_border].any()  # nothing of the solution inside


def test_the_exact_solution_has_no_error() -> None:
    run = prepare(compose("train", SMALL))
    run.dataset.load()
    x, y = run.dataset.loaded["val"]  # type: ignore[attr-defined]

    def exact(points: Tensor) -> Tensor:
        return (torch.pi * points).sin().prod(1, keepdim=True)

    output = run.objective.output(exact, x).detach()
    assert float(run.objective.loss(output, y)) < 1e-20
    metrics = run.objective.metrics(1)
    metrics.update(output, y)
    assert all(float(value) < 1e-12 for value in metrics.compute().values())


def test_lbfgs_approaches_the_solution_and_evaluation_repeats_it(tmp_path: Path) -> None:
    words = ["optim=lbfgs", "trainer.max_epochs=6", "layers.activation=tanh", f"runs={tmp_path}"]
    config = compose("train", [*SMALL, "layers=mlp", "model.widths=[12]", *words])
    result = train(config)
    assert result["test"]["l2"] < 0.7
    again = load_run(RunDir.of(config).path).evaluate("test")
    assert again["h1"] == result["test"]["h1"]


@pytest.mark.slow
def test_a_resumed_run_with_moving_points_is_the_same(tmp_path: Path) -> None:
    from lightning.pytorch import Callback, LightningModule, Trainer

    from kanzoo.run.fit import fit

    class Stop(Callback):
        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if trainer.current_epoch == 5:
                raise RuntimeError("stopped")

    words = [*SMALL, "layers=kan", "optim=adam", "trainer.max_epochs=8", "task.resample_every=2"]
    results = []
    for name in ("whole", "stopped"):
        config = compose("train", [*words, f"runs={tmp_path / name}"])
        if name == "stopped":
            run = prepare(config)
            run.dataset.load()
            with pytest.raises(RuntimeError, match="stopped"):
                fit(RunDir.of(config), run, [Stop()])
        results.append(train(config))
    for split in ("val", "test"):
        assert results[0][split] == results[1][split]
    fixed = train(compose("train", [*words[:-1], f"runs={tmp_path / 'fixed'}"]))
    assert fixed["test"] != results[0]["test"]  # points did move
