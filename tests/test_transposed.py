"""Transposed convolutions whose taps do not meet, against the operator on the features."""

from typing import Any

import pytest
import torch
from samples import DOUBLE, points
from torch import nn

from kanzoo.layers import KANConvTranspose1d, KANConvTranspose2d
from kanzoo.layers.paths.base import channel_features
from kanzoo.layers.paths.dense import TRANSPOSED

CLASSES: dict[int, Any] = {1: KANConvTranspose1d, 2: KANConvTranspose2d}


@pytest.mark.parametrize("basis", ["bspline", "chebyshev", "gelu"])
@pytest.mark.parametrize("kernel", [2, (3,), (3, 2)])
def test_tiles_are_the_plain_operator(kernel: Any, basis: str) -> None:
    """Value and gradients, with and without a batch."""
    dims = len(kernel) if isinstance(kernel, tuple) else 2
    layer = CLASSES[dims](4, 5, kernel, kernel, basis=basis, **DOUBLE)
    assert layer.tiles
    nn.init.normal_(layer.bias)
    x = points(3, 4, *(5, 4)[:dims]).requires_grad_()
    weight = layer.weight.transpose(0, 1).flatten(0, 1)
    features = channel_features(layer.expansion, weight.dtype, x)
    expected = TRANSPOSED[dims](features, weight, layer.bias, stride=layer.stride)
    out = layer(x)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(layer(x[0]), expected[0])
    wanted = [x, *layer.parameters()]
    weights = points(*out.shape)
    for one, other in zip(
        torch.autograd.grad((out * weights).sum(), wanted),
        torch.autograd.grad((expected * weights).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    "options",
    [{"padding": 1}, {"output_padding": 1}, {"groups": 2}, {"dilation": 2}, {"stride": 1}],
)
def test_taps_that_meet_are_no_tiles(options: dict[str, Any]) -> None:
    options = {"stride": 2, **options}
    layer, plain = KANConvTranspose2d(4, 4, 2, **options), nn.ConvTranspose2d(4, 4, 2, **options)
    assert not layer.tiles
    x = torch.zeros(1, 4, 5, 5)
    assert layer(x).shape == plain(x).shape
