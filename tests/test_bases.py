"""Every basis of `conf/basis` against its contract, and each family against outside references."""

import random
from typing import Any

import numpy as np
import pytest
import reference
import torch
from samples import DOUBLE, points, shaken
from scipy import interpolate
from torch import Tensor

from kanzoo import registry
from kanzoo.bases.base import Basis, as_factory, get_basis, make_factory, second_moment
from kanzoo.bases.spline import BSpline
from kanzoo.layers import KANLinear
from kanzoo.layers.expansion import Expansion

NAMES = registry.names("basis")


def expansion(name: str, features: int, **options: Any) -> Expansion:
    """The expansion with the basis' own squash, without the residual branch where possible."""
    residual = "silu" if get_basis(name)(1).num_functions == 0 else None
    return Expansion(features, get_basis(name), residual=residual, **options)


# --- the contract, for every basis ---------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_shapes_and_dtypes(name: str) -> None:
    for dtype in (torch.float32, torch.float64):
        basis = get_basis(name)(3, dtype=dtype)
        for shape in ((3,), (4, 3), (2, 5, 3), (0, 3)):
            values = basis(torch.zeros(shape, dtype=dtype))
            assert values.shape == (basis.num_functions, *shape)
            assert values.dtype == dtype


@pytest.mark.parametrize("name", NAMES)
def test_functions_see_only_their_own_input(name: str) -> None:
    basis = shaken(get_basis(name)(4, **DOUBLE))
    x = points(6, 4)
    values = basis(x)
    one_by_one = torch.stack([basis(row) for row in x], 1)
    torch.testing.assert_close(values, one_by_one, rtol=1e-13, atol=1e-13)
    moved = x.clone()
    moved[2, 1] += 0.3
    changed = (basis(moved) != values).any(0)
    assert not changed[torch.arange(6) != 2].any()
    assert not changed[:, torch.arange(4) != 1].any()


@pytest.mark.parametrize("name", NAMES)
def test_first_and_second_derivatives(name: str) -> None:
    basis = shaken(get_basis(name)(2, **DOUBLE))
    if basis.num_functions == 0:
        pytest.skip("no functions")
    names, parameters = (
        zip(*basis.named_parameters(), strict=True) if list(basis.parameters()) else ((), ())
    )
    leaves = tuple(p.detach().clone().requires_grad_() for p in parameters)

    def call(x: Tensor, *values: Tensor) -> Any:
        return torch.func.functional_call(basis, dict(zip(names, values, strict=True)), (x,))

    x = points(3, 2).requires_grad_()
    assert torch.autograd.gradcheck(call, (x, *leaves))
    assert torch.autograd.gradgradcheck(call, (x, *leaves))


@pytest.mark.parametrize("name", NAMES)
def test_a_factory_leaves_the_generator_alone(name: str) -> None:
    before = torch.get_rng_state()
    get_basis(name)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", NAMES)
def test_declared_flops_are_the_counted_ones(name: str) -> None:
    basis = get_basis(name)(8)
    assert reference.flops_per_input(basis, 8) == basis.flops
    for residual in ("silu", "identity"):
        for squash in ("none", "tanh"):
            layer = Expansion(8, get_basis(name), residual=residual, squash=squash).eval()
            assert reference.flops_per_input(layer, 8) == layer.flops


@pytest.mark.parametrize("name", NAMES)
def test_far_inputs_stay_finite(name: str) -> None:
    far = [0.0, 1e-30, 1.0, 3.0, 30.0, 300.0, 1e4]
    for autocast in (False, True):
        layer = shaken(KANLinear(3, 5, basis=name))
        x = torch.tensor(far + [-v for v in far]).view(-1, 1).repeat(1, 3)
        x = (x.bfloat16() if autocast else x).requires_grad_()
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=autocast):
            y = layer(x)
        y.float().sum().backward()
        tensors = [y, x.grad, *[p.grad for p in layer.parameters()]]
        assert all(torch.isfinite(t).all() for t in tensors if t is not None)


@pytest.mark.parametrize("name", NAMES)
def test_expansion_runs_in_float32_under_autocast(name: str) -> None:
    module = shaken(expansion(name, 3))
    x = points(9, 3).bfloat16()
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        values = module(x)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, module(x.float()), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_nan_stays_in_its_row(name: str) -> None:
    basis = get_basis(name)(3)
    x = points(4, 3).float()
    clean = basis(x)
    x[1, 2] = float("nan")
    values = basis(x)
    spoiled = values.isnan().any(0)
    assert not spoiled[:, :2].any()
    assert spoiled[:, 2].tolist() == [False, basis.num_functions > 0, False, False]
    keep = torch.ones(4, 3, dtype=torch.bool)
    keep[1, 2] = False
    assert torch.equal(values[:, keep], clean[:, keep])


@pytest.mark.parametrize("name", NAMES)
def test_construction_leaves_global_generators_alone(name: str) -> None:
    second_moment.cache_clear()
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002 - the global generator is what is tested
    random.seed(5)
    first = KANLinear(3, 4, basis=name)
    after = torch.rand(4)
    second = KANLinear(3, 4, basis=name)
    numbers = (np.random.rand(), random.random())  # noqa: NPY002
    assert not torch.equal(first.weight, second.weight)
    torch.manual_seed(5)
    again = KANLinear(3, 4, basis=name)
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True)
    )
    assert torch.equal(after, torch.rand(4))
    np.random.seed(5)  # noqa: NPY002
    random.seed(5)
    assert numbers == (np.random.rand(), random.random())  # noqa: NPY002


@pytest.mark.parametrize("name", NAMES)
def test_state_lives_in_the_state_dict(name: str) -> None:
    source = shaken(get_basis(name)(3, **DOUBLE))
    torch.manual_seed(99)
    target = get_basis(name)(3, **DOUBLE)
    target.load_state_dict(source.state_dict())
    x = points(5, 3)
    assert torch.equal(source(x), target(x))


@pytest.mark.parametrize("name", NAMES)
def test_builds_on_the_meta_device(name: str) -> None:
    basis = get_basis(name)(3, device="meta")
    assert all(t.is_meta for t in [*basis.parameters(), *basis.buffers()])
    real = sum(p.numel() for p in get_basis(name)(3).parameters())
    assert sum(p.numel() for p in basis.parameters()) == real


@pytest.mark.parametrize("name", NAMES)
def test_second_moment_is_that_of_normal_inputs(name: str) -> None:
    torch.manual_seed(0)
    factory = get_basis(name)
    x = torch.randn(2_000, 256, **DOUBLE)
    with torch.no_grad():
        measured = factory(256, **DOUBLE)(x.tanh()).square().sum(0).mean()
    assert second_moment(factory, torch.tanh) == pytest.approx(float(measured), rel=0.05)


# --- B-splines -----------------------------------------------------------------------------------


@pytest.mark.parametrize("order", range(6))
@pytest.mark.parametrize("grid_size", [1, 5, 12])
def test_bspline_is_cox_de_boor_and_scipy(order: int, grid_size: int) -> None:
    low, high = -1.3, 2.1
    basis = BSpline(
        1, grid_size=grid_size, spline_order=order, grid_range=(low, high), dtype=torch.float64
    )
    knots = reference.uniform_knots(low, high, grid_size, order)
    inner = np.concatenate([np.linspace(low, high, 41), [knots[0] - 1, knots[-1] + 1]])
    x = np.concatenate([inner, np.linspace(knots[0], knots[-1], 29), knots])
    if order == 0:  # steps: knots computed in another order of rounding may fall on either side
        x = np.concatenate([np.linspace(low, high, 40) + 1e-6, [low, high]]).clip(low, high)
    values = basis(torch.as_tensor(x).unsqueeze(-1)).squeeze(-1).cpu().numpy()
    np.testing.assert_allclose(values, reference.spline_matrix(x, knots, order), atol=1e-12)

    off = x[np.abs(x[:, None] - knots).min(1) > 1e-7]
    point = torch.as_tensor(off).unsqueeze(-1).requires_grad_()
    values = basis(point).squeeze(-1)
    for function in range(basis.num_functions):
        element = interpolate.BSpline.basis_element(
            knots[function : function + order + 2], extrapolate=False
        )
        np.testing.assert_allclose(
            values[function].detach().cpu().numpy(), np.nan_to_num(element(off)), atol=1e-12
        )
        (slope,) = torch.autograd.grad(values[function].sum(), point, retain_graph=True)
        if order > 0:
            expected = np.nan_to_num(element.derivative()(off))
            np.testing.assert_allclose(slope.squeeze(-1).cpu().numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("order", range(6))
def test_bspline_right_end_is_inside(order: int) -> None:
    basis = BSpline(1, grid_size=4, spline_order=order, grid_range=(-1, 1), dtype=torch.float64)
    at_end = basis(torch.ones(1, dtype=torch.float64)).squeeze(-1)
    before = basis(torch.full((1,), 1 - 1e-9, dtype=torch.float64)).squeeze(-1)
    torch.testing.assert_close(at_end, before, atol=1e-7, rtol=0)
    assert float(at_end.sum()) == pytest.approx(1, abs=1e-14)


@pytest.mark.parametrize("order", range(6))
@pytest.mark.parametrize("extrapolation", ["zero", "clamp", "linear"])
def test_bspline_functions_add_up_to_one_inside(order: int, extrapolation: str) -> None:
    basis = get_basis("bspline", grid_size=7, spline_order=order, extrapolation=extrapolation)
    x = torch.linspace(-3, 3, 101, dtype=torch.float64).unsqueeze(-1)
    values = basis(1, dtype=torch.float64)(x)
    torch.testing.assert_close(values.sum(0), torch.ones_like(x), rtol=0, atol=1e-13)
    assert values.min() >= 0


@pytest.mark.parametrize("order", range(1, 6))
def test_bspline_extrapolations_continue_from_the_ends(order: int) -> None:
    options: dict[str, Any] = {"grid_size": 5, "spline_order": order, "grid_range": (-1.0, 2.0)}
    plain = BSpline(1, **options, dtype=torch.float64)
    ends = torch.tensor([[-1.0], [2.0]], dtype=torch.float64)
    nudge = 1e-7 * torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    slopes = (plain(ends + nudge) - plain(ends)) / nudge
    outside = ends + torch.tensor([[-0.7], [5.0]], dtype=torch.float64)
    clamped = BSpline(1, **options, extrapolation="clamp", dtype=torch.float64)
    torch.testing.assert_close(clamped(outside), plain(ends))
    linear = BSpline(1, **options, extrapolation="linear", dtype=torch.float64)
    expected = plain(ends) + slopes * (outside - ends)
    torch.testing.assert_close(linear(outside), expected, rtol=0, atol=1e-5)
    inside = points(9, 1).clamp(-1, 2)
    torch.testing.assert_close(linear(inside), plain(inside), rtol=0, atol=0)


# --- names and bad input -------------------------------------------------------------------------


def test_unknown_names_list_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'bspline'"):
        get_basis("bsplin")
    with pytest.raises(ValueError, match="did you mean 'grid_size'"):
        get_basis("bspline", grid_sizes=3)
    with pytest.raises(ValueError, match="did you mean 'linear'"):
        get_basis("bspline", extrapolation="liner")
    with pytest.raises(ValueError, match="basis must be a name"):
        as_factory(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("bspline", {"grid_size": 0}),
        ("bspline", {"grid_size": None}),
        ("bspline", {"grid_size": 2.5}),
        ("bspline", {"spline_order": -1}),
        ("bspline", {"grid_range": (1, -1)}),
        ("bspline", {"grid_range": (0, float("nan"))}),
        ("bspline", {"grid_range": 3}),
        ("rbf", {"grid_size": 1}),
        ("chebyshev", {"degree": 0}),
        ("chebyshev", {"degree": 1.5}),
    ],
)
def test_impossible_options_are_refused_at_once(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(options)))):
        get_basis(name, **options)


def test_no_features_are_refused() -> None:
    with pytest.raises(ValueError, match="in_features"):
        BSpline(0)


def test_factories_compare_by_content() -> None:
    listed = get_basis("bspline", grid_range=[-1, 1])
    assert listed == get_basis("bspline", grid_range=(-1, 1))
    assert hash(listed) == hash(get_basis("bspline", grid_range=(-1, 1)))
    assert listed != get_basis("bspline")
    assert isinstance(make_factory(BSpline)(3), Basis)
