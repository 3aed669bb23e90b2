"""Squashing and normalising the input of a basis."""

import copy
from typing import Any

import pytest
import reference
import torch
import torch.nn.functional as F
from samples import DOUBLE, points, shaken

from kanzoo.bases.base import get_basis
from kanzoo.layers import KANConv2d, KANLinear
from kanzoo.layers.expansion import Expansion
from kanzoo.layers.squash import SQUASHES


def linear(name: str = "bspline", **options: Any) -> Any:
    return shaken(KANLinear(3, 4, basis=name, **{**DOUBLE, **options}))


def conv(name: str = "bspline", *args: Any, **options: Any) -> Any:
    args = args or (4, 6, 3)
    return shaken(KANConv2d(*args, basis=name, **{**DOUBLE, **options}))


@pytest.mark.parametrize("squash", SQUASHES)
def test_squash_comes_before_the_basis_only(squash: str) -> None:
    layer = shaken(Expansion(3, get_basis("rbf"), squash=squash, **DOUBLE)).eval()
    x = points(5, 3)
    values = layer(x)
    bounded = layer.squasher(x)
    torch.testing.assert_close(values[:-1], layer.basis(bounded), rtol=0, atol=0)
    torch.testing.assert_close(values[-1], F.silu(x))
    centred = x - x.mean(1, keepdim=True)
    normal = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
    own = [p.detach() for p in layer.squasher.parameters()]
    expected = {
        "none": lambda: x,
        "tanh": lambda: (x.exp() - (-x).exp()) / (x.exp() + (-x).exp()),
        "sigmoid": lambda: 1 / (1 + (-x).exp()),
        "affine": lambda: x * own[0] + own[1],
        "layer": lambda: normal * own[0] + own[1],
        "batch": lambda: x / (1 + 1e-5) ** 0.5 * own[0] + own[1],
    }
    torch.testing.assert_close(bounded, expected[squash](), rtol=1e-12, atol=1e-12)


def test_batch_squash_normalises_every_feature_in_training() -> None:
    layer: Any = Expansion(3, get_basis("identity"), squash="batch", **DOUBLE)
    x = points(50, 2, 3) * torch.tensor([1.0, 5.0, 0.1], **DOUBLE) + 7
    y = layer(x)[0].flatten(0, 1)
    torch.testing.assert_close(y.mean(0), torch.zeros(3, **DOUBLE), rtol=0, atol=1e-12)
    torch.testing.assert_close(y.var(0, unbiased=False), torch.ones(3, **DOUBLE), rtol=1e-2, atol=0)
    statistics = layer.squasher.norm.running_mean.clone()
    layer.univariate(x)
    assert torch.equal(statistics, layer.squasher.norm.running_mean)


@pytest.mark.parametrize("squash", ["affine", "layer", "batch"])
def test_trained_squashes_in_layers(squash: str) -> None:
    for layer, x in (
        (linear(squash=squash), points(6, 3)),
        (conv("bspline", 4, 6, 3, squash=squash, padding=1), points(2, 4, 5, 5)),
    ):
        counted = sum(p.numel() for p in layer.parameters())
        assert layer.num_params == counted
        assert layer.expansion.flops == reference.flops_per_input(
            Expansion(8, get_basis("bspline"), squash=squash).eval(), 8
        )
        layer(x).square().sum().backward()
        assert all(p.grad is not None and (p.grad != 0).any() for p in layer.parameters())
        again = copy.deepcopy(layer)
        again.load_state_dict(layer.state_dict())
        assert torch.equal(again.eval()(x), layer.eval()(x))
    low = shaken(KANLinear(3, 4, squash=squash, dtype=torch.bfloat16)).eval()
    assert low(points(6, 3).bfloat16()).isfinite().all()


@pytest.mark.parametrize("squash", ["affine", "batch"])
def test_edges_of_trained_squashes_add_up(squash: str) -> None:
    layer = linear(squash=squash)
    layer(points(50, 3))
    layer.eval()
    x = points(5, 3)
    total = sum(torch.stack([layer.edge(i, o, x[:, i]) for o in range(4)], -1) for i in range(3))
    torch.testing.assert_close(layer(x), total + layer.bias, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("squash", SQUASHES)
def test_variance_starts_near_one_with_every_squash(squash: str) -> None:
    torch.manual_seed(0)
    layer = KANLinear(300, 2048, basis="bspline", squash=squash)
    with torch.no_grad():
        y = layer(torch.randn(512, 300))
    assert float(y.square().mean()) == pytest.approx(1, rel=0.1)
