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


@pytest.mark.parametrize(("kernel", "options"), [(2, {"stride": 2}), (3, {"stride": (3, 2)})])
def test_output_size_is_that_of_torch(kernel: int, options: dict[str, Any]) -> None:
    """Every size that `nn.ConvTranspose2d` can give, which KAN of one activation then equals."""
    plain = nn.ConvTranspose2d(4, 3, kernel, **options, **DOUBLE)
    layer = KANConvTranspose2d(4, 3, kernel, **options, basis="identity", residual=None, **DOUBLE)
    kan = KANConvTranspose2d(4, 3, kernel, **options, **DOUBLE)
    with torch.no_grad():
        layer.weight.copy_(plain.weight.unsqueeze(1))
        layer.bias.copy_(plain.bias)
    x = points(2, 4, 4, 5)
    low = plain(x).shape[2:]
    for height in range(plain.stride[0]):
        for width in range(plain.stride[1]):
            sides = [low[0] + height, low[1] + width]
            torch.testing.assert_close(layer(x, sides), plain(x, sides))
            assert kan(x, torch.Size([2, 3, *sides])).shape == (2, 3, *sides)
            torch.testing.assert_close(kan(x, sides)[..., : low[0], : low[1]], kan(x))
    for wrong in ([low[0] - 1, low[1]], [low[0], low[1] + plain.stride[1]], [low[0]]):
        with pytest.raises(ValueError, match="output_size must be from"):
            layer(x, wrong)
