"""KAN layers: equal to ordinary operators on expanded features, for every basis of `conf/basis`."""

import copy
from typing import Any

import numpy as np
import pytest
import reference
import torch
import torch.nn.functional as F
from samples import DOUBLE, KINDS, points, shaken
from scipy import interpolate
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kanzoo import get_basis, registry
from kanzoo.layers import KANConv2d, KANLinear
from kanzoo.layers.edge_scale import with_edge_scale
from kanzoo.layers.expansion import INITS, MAX_SLOPE

NAMES = registry.names("basis")
FINE = {"grid_size": 20, "grid_range": [-1.0, 1.0]}


def linear(name: str = "bspline", **options: Any) -> Any:
    return shaken(KANLinear(3, 4, basis=name, **{**DOUBLE, **options}))


def conv(name: str = "bspline", *args: Any, **options: Any) -> Any:
    args = args or (4, 6, 3)
    return shaken(KANConv2d(*args, basis=name, **{**DOUBLE, **options}))


# --- what a layer computes -----------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_linear_is_the_sum_of_its_edges(name: str) -> None:
    layer = linear(name)
    x = points(5, 3)
    edges = torch.stack(
        [torch.stack([layer.edge(i, o, x[:, i]) for i in range(3)]).sum(0) for o in range(4)], -1
    )
    torch.testing.assert_close(layer(x), edges + layer.bias, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", KINDS)
def test_linear_is_one_product_with_expanded_features(name: str) -> None:
    layer = linear(name)
    x = points(2, 5, 3)
    features = layer.expansion(x).permute(1, 2, 3, 0).flatten(2)  # (2, 5, C K)
    expected = F.linear(features, layer.weight.flatten(0, 1).t(), layer.bias)
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    assert layer(x[0, 0]).shape == (4,)


@pytest.mark.parametrize("name", KINDS)
def test_conv_is_linear_over_unfolded_padded_pixels(name: str) -> None:
    options: dict[str, Any] = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)}
    layer = conv(name, 2, 3, (3, 2), **options)
    x = points(2, 2, 6, 5)
    padded = F.pad(x, (2, 2, 1, 1))
    windows = reference.unfold_windows(padded, (3, 2), (2, 1), (1, 2))  # (B, H, W, C, kH, kW)
    expected = torch.zeros(*windows.shape[:3], 3, **DOUBLE)
    for o in range(3):
        for i in range(2):
            for tap in ((v, h) for v in range(3) for h in range(2)):
                expected[..., o] += layer.edge(i, o, windows[..., i, tap[0], tap[1]], tap)
    expected = (expected + layer.bias).movedim(-1, 1)
    torch.testing.assert_close(layer(x), expected, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(layer(x[0]), expected[0], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", KINDS)
def test_pointwise_conv_is_linear(name: str) -> None:
    layer = conv(name, 3, 4, 1)
    same = KANLinear(3, 4, basis=name, **DOUBLE)
    state = layer.state_dict()
    state["weight"] = state["weight"].flatten(2).permute(1, 2, 0)
    same.load_state_dict(state)
    x = points(2, 3, 4, 5)
    torch.testing.assert_close(layer(x).movedim(1, -1), same(x.movedim(1, -1)))


@pytest.mark.parametrize("groups", [2, 4])
def test_grouped_conv_is_a_loop_over_groups(groups: int) -> None:
    layer = conv("bspline", 4, 8, 3, padding=1, groups=groups)
    x = points(2, 4, 5, 5)
    parts = []
    for part, weight, bias in zip(
        x.chunk(groups, 1), layer.weight.chunk(groups), layer.bias.chunk(groups), strict=True
    ):
        one: Any = KANConv2d(4 // groups, 8 // groups, 3, padding=1, basis="bspline", **DOUBLE)
        with torch.no_grad():
            one.weight.copy_(weight)
            one.bias.copy_(bias)
        parts.append(one(part))
    torch.testing.assert_close(layer(x), torch.cat(parts, 1))
    o = 5
    inside = x.chunk(groups, 1)[o * groups // 8]
    pixels = reference.unfold_windows(F.pad(inside, (1, 1, 1, 1)), (3, 3), (1, 1), (1, 1))
    total = sum(
        layer.edge(i, o, pixels[..., i, v, h], (v, h))
        for i in range(4 // groups)
        for v in range(3)
        for h in range(3)
    )
    torch.testing.assert_close(layer(x)[:, o], total + layer.bias[o])


def test_fixed_activation_makes_an_ordinary_layer() -> None:
    layer = linear("gelu")
    plain = nn.Linear(3, 4, **DOUBLE)
    with torch.no_grad():
        plain.weight.copy_(layer.weight[:, 0].t())
        plain.bias.copy_(layer.bias)
    x = points(6, 3)
    torch.testing.assert_close(layer(x), plain(F.gelu(x)), rtol=1e-14, atol=1e-14)
    image = points(2, 4, 6, 6)
    filters = conv("gelu", 4, 6, 3, stride=2, padding=1, groups=2)
    expected = F.conv2d(F.gelu(image), filters.weight[:, :, 0], filters.bias, 2, 1, groups=2)
    torch.testing.assert_close(filters(image), expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("residual", ["silu", None])
@pytest.mark.parametrize("bias", [True, False])
def test_residual_and_bias_are_options(residual: str | None, bias: bool) -> None:
    layer: Any = KANLinear(3, 4, bias, basis="rbf", residual=residual, **DOUBLE)
    assert layer.weight.shape[1] == 8 + (residual is not None)
    assert (layer.bias is not None) == bias
    x = points(5, 3)
    with torch.no_grad():
        layer.weight[:, :8] = 0
    expected = F.silu(x) @ layer.weight[:, -1] if residual else torch.zeros(5, 4, **DOUBLE)
    torch.testing.assert_close(layer(x), expected)


# --- gradients -----------------------------------------------------------------------------------


def functional(layer: nn.Module) -> tuple[Any, tuple[Tensor, ...]]:
    """A function of input and parameters, and leaves for the latter."""
    names = [name for name, _ in layer.named_parameters()]
    leaves = tuple(p.detach().clone().requires_grad_() for p in layer.parameters())

    def call(x: Tensor, *values: Tensor) -> Any:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    return call, leaves


@pytest.mark.parametrize("name", KINDS)
def test_gradients_of_layers(name: str) -> None:
    for layer, x in (
        (KANLinear(2, 2, basis=name, **DOUBLE), points(2, 2)),
        (KANConv2d(2, 2, 2, padding=1, groups=2, basis=name, **DOUBLE), points(1, 2, 2, 2)),
    ):
        call, leaves = functional(shaken(layer))
        inputs = (x.requires_grad_(), *leaves)
        # Padded zeros stay zeros, so the kinks of ramps at zero are harmless.
        assert torch.autograd.gradcheck(call, inputs, fast_mode=True)
        assert torch.autograd.gradgradcheck(call, inputs, fast_mode=True)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    torch.manual_seed(0)
    for layer, x in (
        (KANLinear(16, 4, basis=name), torch.randn(64, 16)),
        (KANConv2d(16, 4, 3, basis=name), torch.randn(8, 16, 5, 5)),
    ):
        layer(x).square().sum().backward()
        for key, p in layer.named_parameters():
            assert p.grad is not None, key
            assert p.grad.isfinite().all(), key
            assert (p.grad != 0).any(), key


@pytest.mark.parametrize("name", KINDS)
def test_rows_do_not_depend_on_batch_mates(name: str) -> None:
    layer = linear(name)
    x = points(6, 3)
    torch.testing.assert_close(layer(x)[2], layer(x[2:3])[0], rtol=1e-13, atol=1e-13)
    spoiled = x.clone()
    spoiled[4] = float("nan")
    y = layer(spoiled)
    assert y[4].isnan().all()
    assert torch.equal(y[torch.arange(6) != 4], layer(x)[torch.arange(6) != 4])


# --- initialisation ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "fan_in"), [*((n, 50) for n in NAMES), *((n, f) for n in KINDS for f in (3, 3000))]
)
def test_output_variance_starts_near_one(name: str, fan_in: int) -> None:
    torch.manual_seed(1)
    layers, out, batch = {3: (16, 256, 1024), 50: (1, 2048, 512), 3000: (1, 1024, 64)}[fan_in]
    with torch.no_grad():  # several where few inputs decide, whose functions may be drawn
        ys = [KANLinear(fan_in, out, basis=name)(torch.randn(batch, fan_in)) for _ in range(layers)]
    assert float(torch.stack(ys).square().mean()) == pytest.approx(1, rel=0.15)


@pytest.mark.parametrize(("name", "options"), [(n, {}) for n in NAMES] + [("bspline", FINE)])
def test_slopes_start_bounded(name: str, options: dict[str, Any]) -> None:
    """By autograd: random functions of a fine grid would make deep networks chaotic."""
    torch.manual_seed(0)
    basis = get_basis(name, **options)
    layer = KANLinear(400, 300, basis=basis, squash="none")
    x = torch.randn(200, 400, requires_grad=True)
    y = layer(x)
    assert float(y.detach().square().mean()) == pytest.approx(1, rel=0.15)
    (gradient,) = torch.autograd.grad((y * torch.randn_like(y)).sum(), x)
    assert gradient.square().mean() * 400 / 300 < 1.1 * MAX_SLOPE


def test_smooth_bases_start_with_equal_weights() -> None:
    torch.manual_seed(0)
    weight = KANLinear(300, 300, basis="bspline").weight.detach()
    assert float(weight[:, :8].std()) == pytest.approx(weight[:, 8].std().item(), rel=0.02)


@pytest.mark.parametrize("name", KINDS)
def test_conv_output_variance_starts_near_one(name: str) -> None:
    torch.manual_seed(1)
    layer = KANConv2d(16, 2048, 3, groups=2, basis=name)
    with torch.no_grad():
        y = layer(torch.randn(4, 16, 8, 8))
    assert float(y.square().mean()) == pytest.approx(1, rel=0.15)


def test_other_initialisations_have_their_stated_deviations() -> None:
    torch.manual_seed(0)
    paper = KANLinear(100, 300, basis="bspline", init="paper").weight.detach()
    assert float(paper[:, :8].std()) == pytest.approx(0.1 / (8 * 100) ** 0.5, rel=0.02)
    assert float(paper[:, 8].std()) == pytest.approx((2 / 400) ** 0.5, rel=0.02)
    unscaled = KANLinear(100, 300, basis="bspline", init="paper_unscaled").weight.detach()
    assert float(unscaled[:, :8].std()) == pytest.approx(0.1, rel=0.02)
    assert float(unscaled[:, 8].std()) == pytest.approx((2 / 400) ** 0.5, rel=0.02)
    power = KANLinear(100, 300, basis="bspline", init="power_law").weight.detach()
    assert float(power[:, :8].std()) == pytest.approx((9 * 100) ** -1.75, rel=0.02)
    assert float(power[:, 8].std()) == pytest.approx((9 * 100) ** -0.25, rel=0.02)
    alone = KANLinear(100, 300, basis="bspline", residual=None, init="power_law").weight.detach()
    assert float(alone.std()) == pytest.approx((8 * 100) ** -0.5, rel=0.02)
    kernel = KANConv2d(8, 64, 3, groups=2, basis="bspline", init="paper").weight.detach()
    assert float(kernel[:, :, 8].std()) == pytest.approx((2 / (36 + 64 * 9)) ** 0.5, rel=0.05)
    code = KANLinear(100, 300, basis="bspline", init="pykan").weight.detach()
    # Splines whose values at the ends of the grid's five cells are noise, by SciPy's functions.
    knots = np.linspace(-3 - 3 * 1.2, 3 + 3 * 1.2, 12)
    values = interpolate.BSpline.design_matrix(np.linspace(-3, 3, 6), knots, 3).toarray()
    least = np.linalg.pinv(values) * 0.1 / 5 / 12**0.5  # of the deviation of the noise
    assert code[:, :8].std((0, 2)).numpy() == pytest.approx((least**2).sum(1) ** 0.5, rel=0.02)
    rows = KANLinear(100, 300, basis="fourier", init="pykan").weight.detach()
    count = rows.shape[1] - (get_basis("fourier").cls.default_residual is not None)
    assert float(rows[:, :count].std()) == pytest.approx(0.1 / count / 12**0.5, rel=0.02)
    assert float(code[:, 8].mean()) == pytest.approx(0.0, abs=0.005)  # 100^-0.5 - 0.1
    assert float(code[:, 8].std()) == pytest.approx(0.2, rel=0.02)


@pytest.mark.parametrize("make", [KANLinear, KANConv2d])
def test_a_trained_factor_of_every_edge_is_one_at_first_and_learns(
    make: type[KANLinear | KANConv2d],
) -> None:
    torch.manual_seed(0)
    taps = (3,) if make is KANConv2d else ()
    layer = make(3, 4, *taps, basis="bspline")  # type: ignore[call-arg]
    plain = copy.deepcopy(layer)
    layer = with_edge_scale(layer)
    x = torch.randn(8, 3, 5, 5) if taps else torch.randn(8, 3)
    torch.testing.assert_close(layer(x), plain(x))
    edges = 3 * 4 * 9 ** len(taps)
    assert layer.num_params == plain.num_params + edges
    assert layer.num_params == sum(p.numel() for p in layer.parameters())
    # The function is (w_s c) phi + w_b b: that of a layer whose weights are the products.
    scale = layer.parametrizations["weight"][0].scale  # type: ignore[index]
    assert scale.numel() == edges
    with torch.no_grad():
        scale.uniform_(0.5, 2.0)
        basis = plain.weight.narrow(plain.function_dim, 0, 8)
        basis *= scale
    torch.testing.assert_close(layer(x), plain(x))
    layer(x).square().sum().backward()
    assert bool(scale.grad.ne(0).all())
    with pytest.raises(ValueError, match="parametrization"):
        layer.refine(10)


def test_blocks_of_features_with_grids_of_their_own_are_layers_side_by_side() -> None:
    torch.manual_seed(0)
    whole = KANLinear(5, 4, basis="bspline", dtype=torch.float64)
    first = KANLinear(2, 4, basis="bspline", dtype=torch.float64)
    second = KANLinear(3, 4, bias=False, basis="bspline", dtype=torch.float64)
    x = 5.8 * torch.rand(50, 5, dtype=torch.float64) - 2.9  # on the grid
    with torch.no_grad():
        first.bias.copy_(whole.bias)
        for layer, block in ((first, slice(0, 2)), (second, slice(2, 5))):
            layer.weight.copy_(whole.weight[block])
        torch.testing.assert_close(first(x[:, :2]) + second(x[:, 2:]), whole(x))
        second.refine(10)
        torch.testing.assert_close(first(x[:, :2]) + second(x[:, 2:]), whole(x))
    assert first.num_params + second.num_params == whole.num_params + 3 * 4 * 5


def test_uniform_weights_and_biases_are_those_of_pytorch() -> None:
    torch.manual_seed(0)
    layer = KANLinear(100, 3000, basis="identity", init="uniform")
    twin = nn.Linear(100, 3000)
    for ours, theirs in ((layer.weight, twin.weight), (layer.bias, twin.bias)):
        assert float(ours.detach().std()) == pytest.approx(float(theirs.detach().std()), rel=0.05)
        assert float(ours.detach().abs().max()) <= 0.1


@pytest.mark.parametrize("init", ["glorot", "glorot_uniform"])
def test_glorot_shares_the_variances_of_outputs_and_gradients(init: str) -> None:
    torch.manual_seed(0)
    layer = KANLinear(100, 300, basis="chebyshev", residual="identity", init=init)
    x = torch.randn(200_000, 1, dtype=torch.float64)
    if init == "glorot_uniform":
        x.uniform_(-1, 1)
    kept = float(x.square().mean())
    x.requires_grad_()
    values = [f.sum() for f in layer.expansion.double().univariate(x)]  # (K + 1)
    slopes = [torch.autograd.grad(f, x, retain_graph=True)[0] for f in values]
    count = len(values)
    output = layer.expansion.univariate(x).detach()[:-1].square().mean()
    gradient = torch.stack(slopes[:-1]).square().mean()
    wanted = (kept * 2 / (count * (100 * output + 300 * gradient))) ** 0.5
    weight = layer.weight.detach()  # (in, K + 1, out)
    assert float(weight[:, :-1].std()) == pytest.approx(float(wanted), rel=0.02)
    identity = (kept * 2 / (count * (100 * kept + 300))) ** 0.5  # of the residual's moments
    assert float(weight[:, -1].std()) == pytest.approx(identity, rel=0.02)


@pytest.mark.parametrize("init", INITS)
def test_reset_draws_again_and_clears_the_bias(init: str) -> None:
    layer = linear(init=init)
    before = layer.weight.detach().clone()
    layer.reset_parameters()
    assert not torch.equal(layer.weight, before)
    assert (layer.bias.abs().max() == 0) == (init != "uniform")


# --- counting ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_declared_parameters_are_the_counted_ones(name: str) -> None:
    for bias in (True, False):
        for layer in (
            KANLinear(5, 7, bias, basis=name),
            KANConv2d(8, 4, (3, 2), groups=2, bias=bias, basis=name),
        ):
            counted = sum(p.numel() for p in layer.parameters() if p.requires_grad)
            assert layer.num_params == counted
            own = sum(p.numel() for p in layer.expansion.parameters())
            taps = 1 if isinstance(layer, KANLinear) else 6
            groups = 1 if isinstance(layer, KANLinear) else 2
            edges = layer.in_features * layer.out_features * taps // groups
            functions = layer.expansion.num_functions
            assert counted == edges * functions + bias * layer.out_features + own


@pytest.mark.parametrize("name", KINDS)
def test_operator_flops_are_those_of_the_formula(name: str) -> None:
    layer = KANLinear(5, 7, basis=name, backend="dense")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        layer(torch.zeros(3, 5))
    assert counter.get_total_flops() == 2 * 3 * 5 * 7 * layer.expansion.num_functions
    filters = KANConv2d(4, 6, 3, padding=1, groups=2, basis=name, backend="dense")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        filters(torch.zeros(2, 4, 5, 5))
    pixels, functions = 2 * 25, filters.expansion.num_functions
    assert counter.get_total_flops() == 2 * pixels * 6 * 2 * functions * 9


def test_sizes_may_be_numpys() -> None:
    sizes = np.array([6, 4, 3, 2])
    linear = KANLinear(sizes[0], sizes[1], basis=get_basis("bspline", grid_size=sizes[0]))
    conv = KANConv2d(sizes[0], sizes[1], (sizes[2], 1), stride=sizes[3], groups=sizes[3])
    assert str(linear) == str(KANLinear(6, 4, basis=get_basis("bspline", grid_size=6)))
    assert str(conv) == str(KANConv2d(6, 4, (3, 1), stride=2, groups=2))
    linear.refine(sizes[0] + sizes[1])
    assert type(linear.in_features) is type(linear.expansion.basis.grid_size) is int
    for wrong in (2.0, True, np.float64(2), "2"):
        with pytest.raises(ValueError, match="whole number"):
            KANLinear(wrong, 4)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64, torch.float8_e5m2])
def test_dtypes_that_cannot_be_trained_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match="dtype must be one of"):
        KANLinear(4, 3, dtype=dtype)
