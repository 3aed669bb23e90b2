"""Checkpoints, optimisers and several processes after the grid of a layer changed."""

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.multiprocessing as multiprocessing
from samples import DOUBLE, irregular, layers_on, normal, skewed
from torch import Tensor

from kanzoo.bases.base import get_basis
from kanzoo.bases.spline import BSpline
from kanzoo.layers import KANLinear
from kanzoo.layers.grid import adjust_optimizer

# --- bad input -----------------------------------------------------------------------------------


def test_impossible_changes_are_refused() -> None:
    with pytest.raises(ValueError, match="'chebyshev' has no grid"):
        KANLinear(2, 3, basis="chebyshev").refine(4)
    with pytest.raises(ValueError, match="'gelu' has no grid"):
        KANLinear(2, 3, basis="gelu").update_grid(torch.zeros(3, 2))
    layer: Any = KANLinear(2, 3)
    for size in (0, -1, 2.5):
        with pytest.raises(ValueError, match="grid_size"):
            layer.refine(size)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="uniform_share"):
        layer.update_grid(torch.zeros(3, 2), uniform_share=0)
    with pytest.raises(ValueError, match="margin"):
        layer.update_grid(torch.zeros(3, 2), margin=-1)
    with pytest.raises(ValueError, match="did you mean 'adaptive'"):
        get_basis("bspline", grid="adaptve")


# --- checkpoints ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bspline", "bspline_adaptive", "rbf", "piecewise_linear"])
def test_checkpoints_load_after_the_grid_changed_size(name: str) -> None:
    for (layer, x), (fresh, _) in zip(
        layers_on(get_basis(name)), layers_on(get_basis(name)), strict=True
    ):
        layer.update_grid(x)
        layer.refine(11)
        weight = fresh.weight
        fresh.load_state_dict(layer.state_dict())
        assert fresh.weight is weight
        assert torch.equal(fresh(x), layer(x))
        assert fresh.expansion.basis.grid_size == 11
        fresh.reset_parameters()
        network = torch.nn.Sequential(copy.deepcopy(layer))
        network.load_state_dict({f"0.{k}": v for k, v in layer.state_dict().items()})
        assert torch.equal(network(x), layer(x))


def test_a_basis_alone_loads_another_grid_size() -> None:
    source = irregular(3, grid_size=9)
    target = irregular(3, grid_size=4)
    target.load_state_dict(source.state_dict())
    x = normal(10, 3)
    assert torch.equal(source(x), target(x))
    assert target.num_functions == 12


def test_weights_of_other_layers_are_still_refused() -> None:
    state = KANLinear(3, 4).state_dict()
    with pytest.raises(RuntimeError, match="size mismatch"):
        KANLinear(3, 5).load_state_dict(state)
    with pytest.raises(RuntimeError, match="size mismatch"):
        KANLinear(3, 4, basis="chebyshev").load_state_dict(
            {"weight": state["weight"], "bias": state["bias"]}
        )


def test_new_layers_do_not_share_their_grids() -> None:
    first, second = BSpline(1, **DOUBLE), BSpline(1, **DOUBLE)
    first.knots.mul_(2)
    assert not torch.equal(first.knots, second.knots)
    assert not torch.equal(first.knots, BSpline(1, **DOUBLE).knots)


# --- optimisers ----------------------------------------------------------------------------------


def trained(optimizer_class: Any, **options: Any) -> tuple[Any, Any, Tensor]:
    torch.manual_seed(0)
    layer: Any = KANLinear(3, 4, basis="bspline", **DOUBLE)
    optimizer = optimizer_class(layer.parameters(), lr=1e-3, **options)
    x = skewed(64, 3)
    for _ in range(3):
        optimizer.zero_grad()
        layer(x).square().mean().backward()
        optimizer.step()
    return layer, optimizer, x


@pytest.mark.parametrize(
    ("optimizer_class", "options"),
    [(torch.optim.AdamW, {}), (torch.optim.SGD, {"momentum": 0.9}), (torch.optim.RMSprop, {})],
)
@pytest.mark.parametrize("how", ["reset", "remap"])
def test_optimisers_go_on_after_a_change(optimizer_class: Any, options: Any, how: str) -> None:
    layer, optimizer, x = trained(optimizer_class, **options)
    adjust_optimizer(optimizer, [layer.refine(10)], how)
    before = layer(x).square().mean()
    for _ in range(3):
        optimizer.zero_grad()
        layer(x).square().mean().backward()
        optimizer.step()
    assert layer(x).square().mean() < before
    assert layer.weight.isfinite().all()


def test_remapped_moments_mean_the_same_gradient() -> None:
    layer, optimizer, _ = trained(torch.optim.Adam)
    first = optimizer.state[layer.weight]["exp_avg"].clone()
    bias = optimizer.state[layer.bias]["exp_avg"].clone()
    change = layer.refine(10)
    adjust_optimizer(optimizer, [change], "remap")
    state = optimizer.state[layer.weight]
    back = torch.einsum("clk,clo->cko", change.matrix, state["exp_avg"])
    torch.testing.assert_close(back, first, rtol=1e-6, atol=1e-9)
    assert state["exp_avg_sq"].min() >= 0
    assert state["step"] == 3
    assert torch.equal(optimizer.state[layer.bias]["exp_avg"], bias)


@pytest.mark.parametrize(
    ("optimizer_class", "options"),
    [
        (torch.optim.Adam, {"amsgrad": True}),
        (torch.optim.SGD, {"momentum": 0.9}),
        (torch.optim.RMSprop, {"centered": True, "momentum": 0.5}),
        (torch.optim.Adadelta, {}),
        (torch.optim.LBFGS, {}),
    ],
)
def test_several_changes_before_one_adjustment_are_those_of_one_by_one(
    optimizer_class: Any, options: Any
) -> None:
    """All at once, each by itself but late, and each at its time: the same state and steps."""
    results = []
    for when in ("at once", "late", "each"):
        torch.manual_seed(0)
        layer: Any = KANLinear(3, 4, basis=get_basis("bspline_adaptive", grid_size=4), **DOUBLE)
        optimizer = optimizer_class(layer.parameters(), lr=1e-3, **options)
        x = skewed(64, 3)

        def loss(layer: Any = layer, optimizer: Any = optimizer, x: Tensor = x) -> Tensor:
            optimizer.zero_grad()
            value = layer(x).square().mean()
            value.backward()
            return value

        for _ in range(3):
            optimizer.step(loss)
        changes: list[Any] = []
        for size in (None, 6, 8):
            changes.append(layer.refine(size) if size else layer.update_grid(x))
            if when == "each":
                changes[-1].adjust(optimizer, "remap")
        if when == "at once":
            adjust_optimizer(optimizer, changes, "remap")
        elif when == "late":
            for change in changes:
                change.adjust(optimizer, "remap")
        state = optimizer.state.get(layer.weight, {})
        moments = [v.clone() for v in state.values() if isinstance(v, Tensor) and v.dim() > 1]
        assert all(value.shape == layer.weight.shape for value in moments)
        assert bool(moments) == (optimizer_class not in (torch.optim.Adadelta, torch.optim.LBFGS))
        for _ in range(2):
            optimizer.step(loss)
        results.append((*moments, layer.weight.detach()))
    for one, other in pairwise(results):
        for first, second in zip(one, other, strict=True):
            assert torch.equal(first, second)


def test_reset_forgets_only_changed_weights() -> None:
    layer, optimizer, _ = trained(torch.optim.Adam)
    adjust_optimizer(optimizer, [layer.refine(10)])
    assert layer.weight not in optimizer.state
    assert layer.bias in optimizer.state
    with pytest.raises(ValueError, match="did you mean 'remap'"):
        adjust_optimizer(optimizer, [], "remapp")


# --- several processes ---------------------------------------------------------------------------


def _one_process(rank: int, store: str, results: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2
    )
    torch.manual_seed(0)
    layer: Any = KANLinear(3, 4, basis=get_basis("bspline_adaptive"))
    x = skewed(50, 3, seed=rank).float() * (1 + rank)
    layer.update_grid(x if rank else x[:20])
    layer.refine(8, x)
    layer.update_grid(x[: 50 * rank])  # nothing on the first
    torch.save(layer.state_dict(), f"{results}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_all_processes_end_with_the_same_grid(tmp_path: Any) -> None:
    multiprocessing.spawn(  # type: ignore[no-untyped-call]
        _one_process, args=(str(tmp_path / "store"), str(tmp_path)), nprocs=2
    )
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(first[key], second[key]) for key in first)
    reach = skewed(50, 3, seed=1).mul(2).max(0).values.float()
    assert (first["expansion.basis.knots"][:, -4] > reach - 1e-4).all()
