"""Convolutions in all dimensions: equal to sums of edge functions over windows of padded pixels."""

import itertools
from typing import Any

import numpy as np
import pytest
import reference
import torch
import torch.nn.functional as F
from samples import DOUBLE, KINDS, points, shaken
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kanzoo.layers import (
    KANConv1d,
    KANConv2d,
    KANConv3d,
    KANConvTranspose1d,
    KANConvTranspose2d,
    KANLinear,
)

FORWARD: dict[int, Any] = {1: KANConv1d, 2: KANConv2d, 3: KANConv3d}
TRANSPOSED: dict[int, Any] = {1: KANConvTranspose1d, 2: KANConvTranspose2d}
PLAIN: dict[Any, Any] = {
    KANConv1d: nn.Conv1d,
    KANConv2d: nn.Conv2d,
    KANConv3d: nn.Conv3d,
    KANConvTranspose1d: nn.ConvTranspose1d,
    KANConvTranspose2d: nn.ConvTranspose2d,
}
OPERATORS = list(PLAIN)


OPTIONS: list[dict[str, Any]] = [
    {"kernel_size": 3},
    {"kernel_size": 2, "stride": 2, "padding": 1},
    {"kernel_size": 3, "padding": 2, "dilation": 2},
    {"kernel_size": 2, "stride": 3, "padding": 2, "dilation": 3, "groups": 2},
    {"kernel_size": 1, "groups": 4, "bias": False},
]


@pytest.mark.parametrize("dims", FORWARD)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", ["bspline", "mexican_hat"])
def test_conv_is_the_sum_of_edges_over_windows(
    dims: int, options: dict[str, Any], name: str
) -> None:
    layer = shaken(FORWARD[dims](4, 8, basis=name, **options, **DOUBLE))
    x = points(2, 4, *(5, 6, 4)[:dims])
    padded = F.pad(x, [options.get("padding", 0)] * (2 * dims))
    windows = reference.unfold_windows(padded, layer.kernel_size, layer.stride, layer.dilation)
    groups = layer.groups
    expected = torch.zeros(*windows.shape[: dims + 1], 8, **DOUBLE)
    taps = list(np.ndindex(*layer.kernel_size))
    for o, i, tap in itertools.product(range(8), range(4 // groups), taps):
        channel = o * groups // 8 * (4 // groups) + i
        expected[..., o] += layer.edge(i, o, windows[(..., channel, *tap)], tap)
    if layer.bias is not None:
        expected = expected + layer.bias
    torch.testing.assert_close(layer(x), expected.movedim(-1, 1), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(layer(x[1]), expected[1].movedim(-1, 0), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dims", TRANSPOSED)
@pytest.mark.parametrize(
    "options",
    [
        *OPTIONS[:2],
        {**OPTIONS[3], "output_padding": 2},
        {"kernel_size": 4, "stride": 2, "padding": 1},
    ],
)
def test_transposed_conv_spreads_edges_over_the_output(dims: int, options: dict[str, Any]) -> None:
    layer = shaken(TRANSPOSED[dims](4, 8, basis="bspline", **options, **DOUBLE))
    shape = (4, 3)[:dims]
    x = points(2, 4, *shape)
    strides, dilations = layer.stride, layer.dilation
    rims = zip(shape, strides, dilations, layer.kernel_size, layer.output_padding, strict=True)
    full = [(n - 1) * s + d * (k - 1) + 1 + extra for n, s, d, k, extra in rims]
    canvas = torch.zeros(2, 8, *full, **DOUBLE)
    taps = np.ndindex(*layer.kernel_size)
    per_group = 4 // layer.groups
    for o, i, tap in itertools.product(range(8), range(per_group), taps):
        channel = o * layer.groups // 8 * per_group + i
        values = layer.edge(i, o, x[:, channel], tap)
        for place in np.ndindex(*shape):
            target = [
                p * s + t * d for p, s, t, d in zip(place, strides, tap, dilations, strict=True)
            ]
            canvas[(slice(None), o, *target)] += values[(slice(None), *place)]
    for axis, (padding, size) in enumerate(zip(layer.padding, full, strict=True)):
        canvas = canvas.narrow(axis + 2, padding, size - 2 * padding)
    expected = canvas + layer.bias.view(-1, *[1] * dims)
    torch.testing.assert_close(layer(x), expected, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(layer(x[0]), expected[0], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("options", OPTIONS)
def test_fixed_activation_makes_the_operator_of_torch(
    operator: Any, options: dict[str, Any]
) -> None:
    layer = shaken(operator(4, 8, basis="gelu", **options, **DOUBLE))
    plain = PLAIN[operator](4, 8, **options, **DOUBLE)
    with torch.no_grad():
        plain.weight.copy_(layer.weight.squeeze(layer.function_dim))
        if layer.bias is not None:
            plain.bias.copy_(layer.bias)
    x = points(2, 4, *(7, 6, 5)[: layer.dims])
    torch.testing.assert_close(layer(x), plain(F.gelu(x)), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer(x[0]), plain(F.gelu(x[0])), rtol=1e-12, atol=1e-12)


PADDINGS: list[dict[str, Any]] = [
    {"kernel_size": 4, "padding": "same", "dilation": 2, "groups": 2},
    {"kernel_size": 2, "padding": "same"},  # uneven: more pixels behind than in front
    {"kernel_size": 3, "padding": "valid", "stride": 2},
    {"kernel_size": 3, "padding": 2, "stride": 2},
]


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("options", PADDINGS)
@pytest.mark.parametrize(
    ("dims", "mode"),
    [(1, "zeros"), (2, "zeros"), (2, "reflect"), (1, "replicate"), (2, "circular"), (3, "reflect")],
)
def test_padding_is_that_of_torch_and_goes_through_the_functions(
    dims: int, options: dict[str, Any], mode: str
) -> None:
    options = {**options, "padding_mode": mode}
    plain = PLAIN[FORWARD[dims]](4, 6, **options, **DOUBLE)
    x = points(2, 4, *(7, 6, 8)[:dims])
    layer = FORWARD[dims](4, 6, basis="identity", **options, **DOUBLE)
    layer.load_state_dict({"weight": plain.weight.unsqueeze(2), "bias": plain.bias})
    for images in (x, x[0]):
        torch.testing.assert_close(layer(images), plain(images), rtol=1e-12, atol=1e-12)
    sides = plain._reversed_padding_repeated_twice  # zeros are left to the operator by torch
    padded = F.pad(x, sides, "constant" if mode == "zeros" else mode)
    for name, dtype in (("bspline", torch.float32), ("chebyshev", torch.float64), ("gelu", None)):
        dtype = dtype or torch.float64
        layer = shaken(FORWARD[dims](4, 6, basis=name, **options, dtype=dtype))
        windows = reference.unfold_windows(
            padded.to(dtype), layer.kernel_size, layer.stride, layer.dilation
        )
        groups = layer.groups
        rows = windows.unflatten(dims + 1, (groups, -1)).movedim(dims + 1, 0).flatten(dims + 2)
        expected = []
        for group, weight in zip(rows, layer.weight.chunk(groups), strict=True):
            same = KANLinear(rows.shape[-1], 6 // groups, bias=False, basis=name, dtype=dtype)
            weight = weight.flatten(3).permute(1, 3, 2, 0).flatten(0, 1)  # (C taps, K, O)
            same.load_state_dict({**same.state_dict(), "weight": weight})
            expected.append(same(group))
        wanted = (torch.cat(expected, -1) + layer.bias).movedim(-1, 1)
        torch.testing.assert_close(layer(x.to(dtype)), wanted, rtol=1e-5, atol=1e-5)
    assert mode == "zeros" or f"padding_mode={mode}" in repr(layer)


def test_impossible_paddings_are_refused() -> None:
    for options, message in [
        ({"padding": "same", "stride": 2}, "padding 'same' needs stride 1"),
        ({"padding": "sane"}, "did you mean 'same'"),
        ({"padding_mode": "reflekt"}, "did you mean 'reflect'"),
        ({"padding": -1}, "padding must be"),
    ]:
        with pytest.raises(ValueError, match=message):
            KANConv2d(4, 6, 3, **options)
    for transposed in TRANSPOSED.values():
        with pytest.raises(ValueError, match="padding_mode"):
            transposed(4, 6, 3, padding_mode="circular")
        with pytest.raises(ValueError, match="padding must be"):
            transposed(4, 6, 3, padding="same")


@pytest.mark.parametrize(
    ("operator", "name"), [(OPERATORS[i % len(OPERATORS)], name) for i, name in enumerate(KINDS)]
)
def test_pointwise_operators_are_linear(operator: Any, name: str) -> None:
    layer = shaken(operator(3, 4, 1, basis=name, **DOUBLE))
    same = KANLinear(3, 4, basis=name, **DOUBLE)
    state = layer.state_dict()
    weight = state["weight"].flatten(3).squeeze(-1)
    state["weight"] = weight if layer.function_dim == 1 else weight.permute(1, 2, 0)
    same.load_state_dict(state)
    x = points(2, 3, *(4, 3, 2)[: layer.dims])
    torch.testing.assert_close(layer(x).movedim(1, -1), same(x.movedim(1, -1)))


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_depthwise_and_grouped_are_loops_over_groups(operator: Any, groups: int) -> None:
    layer = shaken(operator(4, 8, 3, groups=groups, basis="rbf", **DOUBLE))
    x = points(2, 4, *(5, 4, 4)[: layer.dims])
    channels = 0 if layer.function_dim == 2 else None
    parts = []
    for index, part in enumerate(x.chunk(groups, 1)):
        one = operator(4 // groups, 8 // groups, 3, basis="rbf", **DOUBLE)
        with torch.no_grad():
            one.weight.copy_(layer.weight.chunk(groups, channels or 0)[index])
            one.bias.copy_(layer.bias.chunk(groups)[index])
        parts.append(one(part))
    torch.testing.assert_close(layer(x), torch.cat(parts, 1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("operator", OPERATORS)
def test_gradients(operator: Any) -> None:
    layer = shaken(operator(2, 2, 2, 2, 1, groups=2, basis="rational", residual="silu", **DOUBLE))
    names = [name for name, _ in layer.named_parameters()]
    leaves = tuple(p.detach().clone().requires_grad_() for p in layer.parameters())

    def call(x: Tensor, *values: Tensor) -> Any:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    x = points(1, 2, *(3, 2, 2)[: layer.dims]).requires_grad_()
    assert torch.autograd.gradcheck(call, (x, *leaves), fast_mode=True)
    assert torch.autograd.gradgradcheck(call, (x, *leaves), fast_mode=True)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("stride", [1, 2])
def test_variance_starts_near_one(operator: Any, stride: int) -> None:
    torch.manual_seed(1)
    layer = operator(16, 256, 4, stride, groups=2, basis="bspline")
    with torch.no_grad():
        y = layer(torch.randn(4, 16, *(60, 12, 6)[layer.dims - 1 : layer.dims] * layer.dims))
    rim = 4 if operator in TRANSPOSED.values() else 0  # where few pixels reach
    for axis in range(2, y.dim()):
        y = y.narrow(axis, rim, y.shape[axis] - 2 * rim)
    assert float(y.square().mean()) == pytest.approx(1, rel=0.15)


@pytest.mark.parametrize("operator", OPERATORS)
def test_counts(operator: Any) -> None:
    layer = operator(4, 6, 3, 2, 1, groups=2, basis="bspline", backend="dense")
    functions, taps = layer.expansion.num_functions, 3**layer.dims
    assert layer.num_params == sum(p.numel() for p in layer.parameters())
    assert layer.num_params == 4 * 6 // 2 * functions * taps + 6
    x = torch.zeros(2, 4, *(5,) * layer.dims)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        y = layer(x)
    pixels = x if layer.function_dim == 1 else y
    spots = 2 * pixels[0, 0].numel()
    assert counter.get_total_flops() == 2 * spots * 4 * 6 // 2 * functions * taps


@pytest.mark.parametrize("operator", OPERATORS)
def test_export_vmap_and_half_precision(operator: Any) -> None:
    layer = shaken(operator(2, 4, 2, basis="bspline", **DOUBLE)).eval()
    x = points(3, 2, *(4, 3, 3)[: layer.dims])
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.testing.assert_close(program.module()(x[:2]), layer(x[:2]), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.func.vmap(layer)(x), layer(x), rtol=1e-12, atol=1e-12)
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        y = layer.float()(x.float())
    assert y.dtype == torch.bfloat16
    assert (y.double() - layer(x.float())).norm() / y.double().norm() < 0.02


@pytest.mark.parametrize("operator", OPERATORS)
def test_bad_input(operator: Any) -> None:
    layer = operator(4, 6, 3)
    spots = (5,) * layer.dims
    with pytest.raises(ValueError, match="expected 4 features"):
        layer(torch.zeros(2, 3, *spots))
    with pytest.raises(ValueError, match="floating point"):
        layer(torch.zeros(2, 4, *spots, dtype=torch.int32))
    assert layer(torch.zeros(0, 4, *spots)).shape[:2] == (0, 6)
    with pytest.raises(ValueError, match="groups=3"):
        operator(4, 6, 3, groups=3)
    with pytest.raises(ValueError, match="kernel_size"):
        operator(4, 6, (1,) * (layer.dims + 1))
    with pytest.raises(ValueError, match="tap"):
        layer.edge(0, 0, torch.zeros(3), (3,) * layer.dims)
    nan = torch.zeros(2, 4, *spots)
    nan[1, 0] = torch.nan
    y = layer(nan)
    assert y[0].isfinite().all()
    assert y[1].isnan().all()


def test_output_padding_is_smaller_than_the_stride() -> None:
    with pytest.raises(ValueError, match="output_padding"):
        KANConvTranspose1d(2, 2, 3, stride=2, output_padding=2)
