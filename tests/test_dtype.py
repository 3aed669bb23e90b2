"""Layers that change their dtype: what follows from options is rounded once, not twice."""

import copy
from typing import Any

import pytest
import torch
from samples import DOUBLE, irregular, points, skewed
from torch import Tensor

from kanzoo import registry
from kanzoo.bases.base import get_basis
from kanzoo.layers import KANLinear

CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in registry.names("basis")),
    ("bspline", {"grid_range": (-0.1, 0.3), "extrapolation": "linear"}),
    ("bspline_adaptive", {"extrapolation": "linear"}),
    ("relu_kan", {"trainable": False, "grid_range": (-0.7, 0.9)}),
    ("rbf", {"grid_range": (-0.1, 1.3)}),
]


def edges_of(layer: Any, x: Tensor) -> Tensor:
    """The sum of all edge functions and the bias."""
    inputs, outputs = range(layer.in_features), range(layer.out_features)
    sums = [sum(layer.edge(i, o, x[:, i]) for i in inputs) for o in outputs]
    return torch.stack(sums, 1) + layer.bias


@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_layer_made_double_is_one_built_double(name: str, options: dict[str, Any]) -> None:
    basis = get_basis(name, **options)
    torch.manual_seed(0)
    layer = KANLinear(3, 4, basis=basis).double()
    built = KANLinear(3, 4, basis=basis, **DOUBLE)
    with torch.no_grad():
        for one, other in zip(built.parameters(), layer.parameters(), strict=True):
            one.copy_(other)
    x = 1.6 * points(200, 3)
    torch.testing.assert_close(layer(x), edges_of(layer, x), rtol=1e-14, atol=1e-14)
    if name not in ("random", "bspline_adaptive"):  # drawn; fitted to data, and kept as they are
        torch.testing.assert_close(layer(x), built(x), rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("name", ["bspline", "bspline_adaptive", "rbf", "sine", "bspline_prelu"])
@pytest.mark.parametrize("moved", [False, True])
def test_there_and_back_keeps_the_grid(name: str, moved: bool) -> None:
    torch.manual_seed(0)
    layer: Any = KANLinear(3, 4, basis=name)
    if moved and layer.has_grid:
        layer.update_grid(skewed(100, 3).float())
        layer.refine(9)
    before = dict(copy.deepcopy(layer.expansion.basis).named_buffers())
    for way in (layer.double, layer.half, layer.bfloat16, layer.float):
        way()
        assert all(b.dtype == layer.weight.dtype for b in layer.expansion.buffers())
    for key, buffer in layer.expansion.basis.named_buffers():
        if key.endswith("knots"):
            assert torch.equal(buffer, before[key]), key
        torch.testing.assert_close(buffer, before[key], rtol=1e-6, atol=1e-6)
    fresh: Any = KANLinear(3, 4, basis=name)
    if moved and fresh.has_grid:
        fresh.update_grid(skewed(100, 3).float())
        fresh.refine(9)
    fresh.load_state_dict(copy.deepcopy(layer).half().state_dict())
    for key, buffer in fresh.expansion.basis.named_buffers():
        if name not in ("sine", "rbf"):
            torch.testing.assert_close(buffer, before[key], rtol=1e-6, atol=1e-6)


def test_loaded_and_irregular_grids_stay_as_stored() -> None:
    moved: Any = KANLinear(3, 4, basis="bspline")
    moved.update_grid(skewed(100, 3).float())
    layer: Any = KANLinear(3, 4, basis="bspline")
    layer.load_state_dict(moved.state_dict())
    for key, value in layer.state_dict().items():
        assert torch.equal(value, moved.state_dict()[key])
    x = points(50, 3)
    layer.double()
    torch.testing.assert_close(layer(x), edges_of(layer, x), rtol=1e-14, atol=1e-14)
    basis = irregular(3).float()
    stored = basis.knots.clone()
    assert torch.equal(basis.double().knots, irregular(3).knots)  # known in double before
    other = irregular(3).float()
    other.load_state_dict({"knots": stored + 0.125, "end_slopes": other.end_slopes})
    assert torch.equal(other.double().knots, (stored + 0.125).double())
