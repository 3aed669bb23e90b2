"""A whole fit of a small KAN by LBFGS, against pykan where that is installed.

Both do the same: float64, the same points, `steps` times 20 iterations of LBFGS with a history of
10 and a strong Wolfe line search, about 1.15 evaluations of loss and gradients an iteration, and
the grids moved to their data before every fifth of the first 50 steps. pykan is at its fastest:
`speed()`, no symbolic branch, no regularisation, a test set of 10 points. Here loss and gradients
come from `kanzoo.fit.compiled_mse` where there is a compiler, else from autograd.
"""

import importlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from statistics import median
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

from kanzoo.bases.base import get_basis
from kanzoo.benchmark.rows import empty_table
from kanzoo.data.functions import Functions
from kanzoo.fit.compiled_mse import compiled_mse
from kanzoo.layers import KANLinear
from kanzoo.layers.factory import LayerFactory
from kanzoo.models.mlp import MLP
from kanzoo.registry import options
from kanzoo.training.optim import build_optimizer

WIDTHS = (2, 5, 1)
GRID_SIZE = 5
SAMPLES = 1000
UPDATE_EVERY, UPDATE_UNTIL = 5, 50  # steps with a grid update, pykan's own


@dataclass(frozen=True)
class FitRow:
    """Seconds of the same fit here and by pykan, and the training RMSE that each reached."""

    steps: int
    seconds: float
    rmse: float
    pykan_seconds: float | None = None
    pykan_rmse: float | None = None
    ratio: float | None = None


def data() -> tuple[Tensor, Tensor]:
    """Points and values of exp(sin(pi x) + y^2), float64."""
    dataset = Functions(function="exp_sin", n_train=SAMPLES, dtype="float64")
    dataset.load()
    assert dataset.splits is not None
    return dataset.splits["train"]


def fit_here(x: Tensor, y: Tensor, steps: int) -> float:
    """Fit kanzoo's network and return its training RMSE."""
    basis = get_basis("bspline", grid_size=GRID_SIZE, grid_range=(-1, 1))
    factory = LayerFactory("all", basis, init="paper")
    net: nn.Module = MLP((2,), 1, factory, widths=[WIDTHS[1]], norm="none").double()
    optimizer = build_optimizer(options("optim", "lbfgs"), net)

    def autograd() -> Tensor:
        optimizer.zero_grad()
        loss = (net(x) - y).square().mean()
        loss.backward()
        return loss

    closure = compiled_mse(net, x, y) or autograd
    for step in range(steps):
        if step % UPDATE_EVERY == 0 and step < UPDATE_UNTIL:
            seen = x
            for layer in (net.stem, net.head):
                assert isinstance(layer, KANLinear)
                following = layer(seen).detach()
                layer.update_grid(seen).adjust(optimizer)
                seen = following
            closure = compiled_mse(net, x, y) or autograd
        optimizer.step(closure)  # type: ignore[arg-type]
    return float(closure().detach().sqrt())


def fit_pykan(x: Tensor, y: Tensor, steps: int) -> float:
    """The same with pykan's own `fit`: float64, no regularisation, no symbolic branch."""
    kan: Any = importlib.import_module("kan")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        net = kan.KAN(
            width=list(WIDTHS), grid=GRID_SIZE, k=3, seed=0, auto_save=False, symbolic_enabled=False
        )
        net.speed()
        dataset = {"train_input": x, "train_label": y, "test_input": x[:10], "test_label": y[:10]}
        history = net.fit(dataset, opt="LBFGS", steps=steps, log=steps)
    finally:
        torch.set_default_dtype(before)
    return float(history["train_loss"][-1])


def measure(steps: int, rounds: int) -> FitRow:
    """Time both fits in turn; median of the ratios of neighbours."""
    x, y = data()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fit_here(x, y, 2)  # builds the kernel and warms up
        peer = fit_pykan if find_spec("kan") is not None else None
        if peer is not None:
            peer(x, y, 2)
        ours, other = [], []
        for _ in range(rounds):
            torch.manual_seed(0)
            ours.append(_timed(fit_here, x, y, steps))
            if peer is not None:
                other.append(_timed(peer, x, y, steps))
    seconds, rmse = median(t for t, _ in ours), ours[-1][1]
    if not other:
        return FitRow(steps, seconds, rmse)
    ratio = median(a / b for (a, _), (b, _) in zip(ours, other, strict=True))
    return FitRow(steps, seconds, rmse, median(t for t, _ in other), other[-1][1], ratio)


def _timed(
    fit: Callable[[Tensor, Tensor, int], float], x: Tensor, y: Tensor, steps: int
) -> tuple[float, float]:
    began = time.perf_counter()
    rmse = fit(x, y, steps)
    return time.perf_counter() - began, rmse


def shown(rows: Sequence[FitRow]) -> Table:
    """The one fit, beside that of pykan where it is installed."""
    (row,) = rows
    title = f"Fit of a [2, 5, 1] KAN by {row.steps} LBFGS steps, 1000 points, G=5, float64"
    table = empty_table(title, ["software"], ["seconds", "ratio", "training RMSE"])
    ratio = "" if row.ratio is None else f"{row.ratio:.3f}"
    table.add_row("kanzoo", f"{row.seconds:.2f}", ratio, f"{row.rmse:.2e}")
    if row.pykan_seconds is None:
        table.add_row("pykan", "not installed (extra peers)", "", "")
    else:
        table.add_row("pykan", f"{row.pykan_seconds:.2f}", "1", f"{row.pykan_rmse:.2e}")
    return table
