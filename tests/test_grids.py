"""Grids that follow the data and grow: the function of a layer stays, in every situation."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import reference
import torch
from samples import DOUBLE, irregular, layers_on, normal, relative, skewed
from scipy import interpolate
from torch import Tensor

from kanzoo.bases.base import get_basis
from kanzoo.bases.knots import extend, split_cells
from kanzoo.bases.spline import BSpline
from kanzoo.layers import KANConv2d, KANLayer, KANLinear
from kanzoo.layers.grid import sample_rows
from kanzoo.layers.inputs import outside_shares

ADAPTIVE = get_basis("bspline_adaptive")


# --- adaptive B-splines --------------------------------------------------------------------------


@pytest.mark.parametrize("order", range(6))
def test_adaptive_bspline_is_cox_de_boor_and_scipy(order: int) -> None:
    basis = irregular(order)
    for feature in range(3):
        knots = basis.knots[feature].cpu().numpy()
        x = np.concatenate([np.linspace(knots[0] - 1, knots[-1] + 1, 83), knots])
        inputs = torch.zeros(len(x), 3, **DOUBLE)
        inputs[:, feature] = torch.as_tensor(x)
        inputs.requires_grad_()
        values = basis(inputs)[..., feature]
        expected = reference.spline_matrix(x, knots, order)
        np.testing.assert_allclose(values.detach().cpu().numpy(), expected, atol=1e-12)
        off = np.abs(x[:, None] - knots).min(1) > 1e-7
        for function in range(basis.num_functions if order else 0):
            element = interpolate.BSpline.basis_element(
                knots[function : function + order + 2], extrapolate=False
            )
            (slope,) = torch.autograd.grad(values[function].sum(), inputs, retain_graph=True)
            wanted = np.nan_to_num(element.derivative()(x[off]))
            np.testing.assert_allclose(slope[off, feature].cpu().numpy(), wanted, atol=1e-11)


@pytest.mark.parametrize("order", range(1, 6))
def test_adaptive_extrapolations_continue_from_the_ends(order: int) -> None:
    plain = irregular(order)
    low, high = plain.knots[:, order], plain.knots[:, -1 - order]
    outside = torch.stack([low - 0.7, high + 5])
    ends = torch.stack([low, high])
    for extrapolation in ("clamp", "linear"):
        basis = BSpline(
            3,
            grid_size=6,
            spline_order=order,
            grid="adaptive",
            extrapolation=extrapolation,
            **DOUBLE,
        )
        basis.set_breaks(plain.breaks())
        if extrapolation == "clamp":
            expected = plain(ends)
        else:
            nudge = 1e-7 * torch.tensor([[1.0], [-1.0]], **DOUBLE)
            slopes = (plain(ends + nudge) - plain(ends)) / nudge
            expected = plain(ends) + slopes * (outside - ends)
        torch.testing.assert_close(basis(outside), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("order", range(6))
def test_equal_breaks_make_adaptive_and_uniform_the_same(order: int) -> None:
    uniform = BSpline(2, grid_size=5, spline_order=order, extrapolation="linear", **DOUBLE)
    adaptive = BSpline(
        2, grid_size=5, spline_order=order, extrapolation="linear", grid="adaptive", **DOUBLE
    )
    x = 2 * normal(50, 2)
    torch.testing.assert_close(uniform(x), adaptive(x), rtol=1e-12, atol=1e-12)


def test_splitting_keeps_breaks_and_order() -> None:
    breaks = irregular(3).breaks()
    finer = split_cells(breaks, 13)
    assert finer.shape == (3, 14)
    assert (finer.diff(dim=1) > 0).all()
    for old, new in zip(breaks, finer, strict=True):
        assert torch.isin(old, new).all()
    coarser = split_cells(breaks, 2)
    assert torch.equal(coarser[:, [0, -1]], breaks[:, [0, -1]])
    assert extend(breaks, 3).shape == (3, 13)


def test_unsorted_breaks_are_refused() -> None:
    with pytest.raises(ValueError, match="increase"):
        irregular(3).set_breaks(torch.tensor([[0.0, 2.0, 1.0]]).repeat(3, 1))


@pytest.mark.parametrize("features", [1, 3])
@pytest.mark.parametrize("order", [0, 1, 3, 5])
@pytest.mark.parametrize("extrapolation", ["zero", "clamp", "linear"])
def test_layers_and_expansions_agree_on_moved_grids_and_outside(
    features: int, order: int, extrapolation: str
) -> None:
    for grid in ("uniform", "adaptive"):
        basis = get_basis("bspline", spline_order=order, extrapolation=extrapolation, grid=grid)
        layer: Any = KANLinear(features, 5, basis=basis, **DOUBLE)
        layer.update_grid(skewed(200, features))
        knots = layer.expansion.basis.knots.reshape(-1, layer.expansion.basis.knots.shape[-1])
        subsample = torch.linspace(-4, 4, 121, **DOUBLE) + 1e-4
        x = torch.cat([subsample, knots[0, order + 1 : -1 - order] + 1e-7]).unsqueeze(-1)
        x = x.repeat(1, features)
        expected = torch.einsum("knc,cko->no", layer.expansion(x), layer.weight) + layer.bias
        torch.testing.assert_close(layer(x), expected, rtol=1e-9, atol=1e-9)


# --- refine --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "grid_size"),
    [
        ("bspline", {}, 10),
        ("bspline", {"spline_order": 2, "extrapolation": "linear"}, 15),
        ("bspline", {"spline_order": 0}, 10),
        ("bspline_adaptive", {}, 6),
        ("bspline_adaptive", {"spline_order": 5, "extrapolation": "clamp"}, 9),
        ("bspline_adaptive", {"spline_order": 1, "grid_size": 1}, 2),
        ("piecewise_linear", {}, 24),
    ],
)
def test_refining_keeps_the_function(name: str, options: dict[str, Any], grid_size: int) -> None:
    for layer, x in layers_on(get_basis(name, **options)):
        before, weight = layer(x), layer.weight
        change = layer.refine(grid_size)
        assert layer.weight is weight
        assert layer.expansion.basis.grid_size == grid_size
        assert layer.num_params == sum(p.numel() for p in layer.parameters())
        assert change.matrix.shape[1] == layer.expansion.num_functions
        assert relative(layer(x), before) < 1e-6
        layer(x).sum().backward()
        assert layer.weight.grad.shape == layer.weight.shape


@pytest.mark.parametrize("name", ["rbf", "rswaf"])
def test_refining_bells_nearly_keeps_the_function(name: str) -> None:
    torch.manual_seed(0)
    layer: Any = KANLinear(3, 4, basis=name, **DOUBLE)
    x = skewed(200, 3) * 0.8
    before = layer(x)
    layer.refine(16, x)
    assert relative(layer(x), before) < 1e-2


def test_refining_to_fewer_cells_fits_the_data_best() -> None:
    layer: Any = KANLinear(2, 3, basis=get_basis("bspline", grid_size=12), **DOUBLE)
    x = skewed(300, 2)
    features = layer.expansion(x).detach()
    target = layer(x).detach()
    layer.refine(4, x)
    values = layer.expansion(x)[:-1].detach().movedim(0, 1).flatten(1)
    residual = torch.einsum("nc,co->no", features[-1], layer.weight[:, -1].detach()) + layer.bias
    best = torch.linalg.lstsq(values, (target - residual).detach(), driver="gelsd").solution
    least = (values @ best + residual - target).norm()
    assert (layer(x) - target).norm() < 1.2 * least + 1e-6


def test_a_refined_layer_starts_anew_with_unit_variance() -> None:
    torch.manual_seed(0)
    layer: Any = KANLinear(50, 512, basis="bspline")
    layer.refine(30)
    layer.reset_parameters()
    assert layer(torch.randn(256, 50)).square().mean().item() == pytest.approx(1, rel=0.15)
    x = torch.randn(4, 50)
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))


# --- update_grid ---------------------------------------------------------------------------------


def make_cubic(layer: Any) -> None:
    """Give all edges cubic polynomials, which every grid of cubic splines can represent."""
    basis = layer.expansion.basis
    x = (
        torch.linspace(-2.9, 2.9, 200, dtype=torch.float64)
        .unsqueeze(-1)
        .expand(-1, basis.in_features)
    )
    values = basis(x).detach()[..., 0].t()
    powers = torch.stack([x[:, 0] ** n for n in range(4)], -1)
    coefficients = torch.linalg.lstsq(values, powers, driver="gelsd").solution  # (K, 4)
    with torch.no_grad():
        view = layer.by_function()[: basis.num_functions]
        mix = normal(4, *view.shape[1:], seed=8)
        view.copy_(torch.einsum("kp,p...->k...", coefficients, mix))


@pytest.mark.parametrize("grid", ["uniform", "adaptive"])
@pytest.mark.parametrize("extrapolation", ["zero", "linear"])
def test_updating_keeps_representable_functions(grid: str, extrapolation: str) -> None:
    for layer, x in layers_on(get_basis("bspline", grid=grid, extrapolation=extrapolation)):
        make_cubic(layer)
        before = layer(x)
        knots = layer.expansion.basis.knots.clone()
        layer.update_grid(x)
        assert not torch.equal(layer.expansion.basis.knots, knots)
        assert relative(layer(x), before) < 1e-3
        again = layer.expansion.basis.knots.clone()
        before = layer(x)
        layer.update_grid(x)  # the same data, so the same grid
        torch.testing.assert_close(layer.expansion.basis.knots, again)
        assert relative(layer(x), before) < 1e-6


def test_adaptive_grids_cover_the_data_and_crowd_where_they_do() -> None:
    layer: Any = KANLinear(3, 4, basis=ADAPTIVE, **DOUBLE)
    x = skewed(2000, 3)
    layer.update_grid(x, uniform_share=0.05, margin=0.02)
    breaks, x = layer.expansion.basis.breaks(), x.cpu()
    extent = x.max(0).values - x.min(0).values
    torch.testing.assert_close(breaks[:, 0], x.min(0).values - 0.02 * extent)
    torch.testing.assert_close(breaks[:, -1], x.max(0).values + 0.02 * extent)
    counts = torch.stack([torch.histogram(x[:, c], breaks[c])[0] for c in range(3)])
    assert counts.min() > 0.5 * 2000 / 5
    layer.update_grid(x, uniform_share=1.0)
    steps = layer.expansion.basis.breaks().diff(dim=1)
    torch.testing.assert_close(steps, steps.mean(1, keepdim=True).expand_as(steps))


def test_features_without_range_keep_their_grid() -> None:
    layer: Any = KANLinear(5, 4, basis=ADAPTIVE, **DOUBLE)
    x = skewed(300, 5)
    x[:, 0] = 0.7  # constant
    x[:, 1] = (x[:, 1] > 0).double()  # two values
    x[:, 2] = torch.nan  # never known
    x[::7, 3] = torch.inf  # sometimes unknown
    finite = x.nan_to_num(0.3, 0.3, 0.3)
    before, old = layer(finite), layer.expansion.basis.breaks()
    layer.update_grid(x)
    new = layer.expansion.basis.breaks()
    assert torch.equal(old[[0, 2]], new[[0, 2]])
    assert (new.diff(dim=1) > 0).all()
    assert layer.weight.isfinite().all()
    only = torch.zeros_like(finite)
    for feature in (0, 1):
        part = only.clone()
        part[:, feature] = finite[:, feature]
        values = torch.stack([layer.edge(feature, o, part[:, feature]) for o in range(4)])
        assert values.isfinite().all()
    layer.refine(12, x)
    assert layer.weight.isfinite().all()
    assert before.isfinite().all()


@pytest.mark.parametrize("grid", ["uniform", "adaptive"])
def test_the_share_of_inputs_outside_is_that_of_what_the_basis_sees(grid: str) -> None:
    layer: Any = KANLinear(2, 3, basis=get_basis("bspline", grid=grid), **DOUBLE)
    x = torch.tensor([[0.0, 3.5], [2.9, -4.0], [-2.9, 0.0], [9.0, 1.0]], **DOUBLE)
    assert layer.outside_share(x) == 3 / 8
    net = torch.nn.Sequential(torch.nn.Identity(), layer)
    assert outside_shares(net, x) == {"1": 3 / 8}
    layer.update_grid(x)
    assert layer.outside_share(x) == 0
    squashed: Any = KANLinear(2, 3, basis="bspline", squash="tanh", **DOUBLE)
    assert squashed.outside_share(x) == 0


@pytest.mark.parametrize("grid", ["uniform", "adaptive"])
def test_few_valued_data_keep_their_outputs(grid: str) -> None:
    torch.manual_seed(0)
    layer: Any = KANLinear(4, 3, basis=get_basis("bspline", grid=grid), **DOUBLE)
    x = (normal(100, 4) > 0).double() * torch.tensor([1.0, 0.5, 0.0, 2.0], **DOUBLE)
    before = layer(x)
    layer.update_grid(x)
    assert relative(layer(x), before) < 1e-3
    layer.refine(9, x)
    assert relative(layer(x), before) < 1e-3


def test_wrong_sizes_change_nothing() -> None:
    changes: list[Callable[[KANLayer, Tensor], object]] = [
        lambda layer, x: layer.update_grid(x),
        lambda layer, x: layer.refine(9, x),
        lambda layer, x: layer.edge_norms(x),
        lambda layer, x: layer.outside_share(x),
    ]
    cases: list[tuple[KANLayer, Tensor]] = [
        (KANLinear(3, 4), torch.randn(3, 5)),
        (KANConv2d(3, 4, 3), torch.randn(2, 6, 3, 3)),
    ]
    for layer, x in cases:
        before = copy.deepcopy(layer.state_dict())
        for change in changes:
            with pytest.raises(ValueError, match="expected 3 features"):
                change(layer, x)
        with pytest.raises(ValueError, match="1 to 10000"):
            layer.refine(10**9)
        after = layer.state_dict()
        assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_empty_and_unknown_data_change_nothing() -> None:
    layer: Any = KANLinear(3, 4, basis=ADAPTIVE, **DOUBLE)
    x = normal(5, 3)
    before, knots = layer(x), layer.expansion.basis.knots.clone()
    for sample in (x[:0], torch.full_like(x, torch.nan)):
        layer.update_grid(sample)
        assert torch.equal(layer.expansion.basis.knots, knots)
        torch.testing.assert_close(layer(x), before, rtol=1e-8, atol=1e-8)


def test_updates_see_squashed_inputs_and_leave_statistics_and_generators_alone() -> None:
    layer: Any = KANLinear(3, 4, basis=ADAPTIVE, squash="batch", **DOUBLE)
    x = 10 + 5 * normal(200, 3)
    layer(x)
    statistics = layer.expansion.squasher.norm.running_mean.clone()
    state = torch.get_rng_state()
    layer.update_grid(x)
    assert layer.expansion.squasher.training
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(statistics, layer.expansion.squasher.norm.running_mean)
    seen = layer.expansion.squashed(x).cpu()
    assert (layer.expansion.basis.breaks()[:, 0] < seen.min(0).values).all()
    tanh: Any = KANLinear(3, 4, basis=ADAPTIVE, squash="tanh", **DOUBLE)
    tanh.update_grid(x)
    assert tanh.expansion.basis.breaks().abs().max() < 1.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precisions_keep_their_dtype(dtype: torch.dtype) -> None:
    layer: Any = KANLinear(3, 4, basis=ADAPTIVE, dtype=dtype)
    x = skewed(200, 3).to(dtype)
    before = layer(x).float()
    layer.update_grid(x, uniform_share=1.0)
    layer.refine(10, x)
    assert layer.weight.dtype == layer.expansion.basis.knots.dtype == dtype
    assert relative(layer(x).float(), before) < 0.3


def test_samples_are_spread_over_many_rows() -> None:
    sample = sample_rows(torch.arange(10_000.0).unsqueeze(-1), 100)
    ends = sample.new_tensor([0.0, 10_000.0])
    gaps = torch.cat([ends[:1], sample[:, 0], ends[1:]]).diff()
    assert len(sample) == 100
    assert gaps[1:-1].min() > 0  # no row twice, in their order
    assert gaps.max() < 300
    assert sample_rows(normal(7, 2)).shape == (7, 2)
    # No column of an image is always passed over, as it would be by a fixed step.
    columns = sample_rows((torch.arange(100_000) % 10).double().unsqueeze(-1), 1000)
    assert columns.flatten().long().bincount(minlength=10).min() > 50


@pytest.mark.parametrize("layer", [KANLinear(4, 3), KANConv2d(4, 3, 1, basis="bspline_adaptive")])
def test_layers_whose_grid_changed_in_inference_mode_can_be_trained(layer: Any) -> None:
    x = torch.randn(40, 4) if isinstance(layer, KANLinear) else torch.randn(8, 4, 3, 2)
    with torch.inference_mode():
        layer.update_grid(x)
        y = layer(x)
        layer.refine(10, x)
        torch.testing.assert_close(layer(x), y, rtol=1e-4, atol=1e-4)
    layer(x).sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
    torch.optim.SGD(layer.parameters(), lr=0.1).step()
    layer.load_state_dict(layer.state_dict())


def test_meta_layers_have_no_function_to_keep() -> None:
    layer = KANLinear(4, 3, device="meta")
    for change in (lambda: layer.refine(10), lambda: layer.update_grid(torch.randn(5, 4))):
        with pytest.raises(ValueError, match="meta device has no function"):
            change()
    assert layer.weight.shape == (4, 9, 3)
