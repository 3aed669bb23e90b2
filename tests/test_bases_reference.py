"""Each family of functions against closed forms of other makers: NumPy, SciPy, autograd."""

from typing import Any

import numpy as np
import pytest
import reference
import torch
import torch.nn.functional as F
from scipy import integrate, interpolate, special
from torch import Tensor

from kanzoo.bases.base import Basis, get_basis
from kanzoo.bases.rational import STARTS

X = np.linspace(-2.7, 2.9, 61)
INSIDE = np.linspace(-1, 1, 57)


def evaluate(basis: Basis, x: np.ndarray) -> np.ndarray:
    """All functions of the first feature at x: `(K, N)`."""
    points = torch.as_tensor(x).unsqueeze(-1).expand(-1, basis.in_features)
    with torch.no_grad():
        values: Tensor = basis(points)
    return values[..., 0].cpu().numpy()


def make(name: str, features: int = 1, **options: Any) -> Any:
    return get_basis(name, **options)(features, dtype=torch.float64)


POLYNOMIALS = {
    "chebyshev": lambda n, x: np.polynomial.Chebyshev.basis(n)(x),
    "legendre": lambda n, x: np.polynomial.Legendre.basis(n)(x),
    "hermite": lambda n, x: np.polynomial.HermiteE.basis(n)(x) / np.sqrt(special.factorial(n)),
}


@pytest.mark.parametrize("name", POLYNOMIALS)
def test_polynomials_are_those_of_numpy(name: str) -> None:
    basis = make(name, degree=9)
    point = torch.as_tensor(INSIDE).unsqueeze(-1).requires_grad_()
    values = basis(point).squeeze(-1)
    for degree in range(10):
        expected = POLYNOMIALS[name](degree, INSIDE)
        np.testing.assert_allclose(values[degree].detach().cpu().numpy(), expected, atol=1e-12)
    (slope,) = torch.autograd.grad(values[7].sum(), point)
    nudge = 1e-6
    ahead, behind = (POLYNOMIALS[name](7, INSIDE + step) for step in (nudge, -nudge))
    np.testing.assert_allclose(slope[:, 0].cpu().numpy(), (ahead - behind) / (2 * nudge), atol=1e-6)


@pytest.mark.parametrize(("alpha", "beta"), [(1, 1), (0, 0), (-0.5, 0.5), (2.5, -0.3)])
def test_jacobi_is_that_of_scipy(alpha: float, beta: float) -> None:
    values = evaluate(make("jacobi", degree=8, alpha=alpha, beta=beta), INSIDE)
    for degree, value in enumerate(values):
        expected = special.eval_jacobi(degree, alpha, beta, INSIDE)
        np.testing.assert_allclose(value, expected, atol=1e-11)


def test_hermite_is_orthonormal_for_normal_inputs() -> None:
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    values = evaluate(make("hermite", degree=7), nodes)
    gram = (values * weights) @ values.T / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(gram, np.eye(8), atol=1e-11)


@pytest.mark.parametrize("degree", [1, 4, 12])
def test_bernstein_is_that_of_scipy(degree: int) -> None:
    t = np.linspace(0, 1, 33)
    values = evaluate(make("bernstein", degree=degree), t)
    expected = [interpolate.BPoly(row[:, None], [0, 1])(t) for row in np.eye(degree + 1)]
    np.testing.assert_allclose(values, expected, atol=1e-13)
    np.testing.assert_allclose(values.sum(0), 1, atol=1e-13)


def test_gaussians() -> None:
    centres = np.linspace(-2, 2, 8)
    expected = np.exp(-(((X - centres[:, None]) / (4 / 7)) ** 2))
    np.testing.assert_allclose(evaluate(make("rbf"), X), expected, atol=1e-13)


def test_reflectional_switches_are_squared_hyperbolic_secants() -> None:
    centres = np.linspace(-2, 2, 8)
    expected = np.cosh((X - centres[:, None]) * 7 / 4) ** -2.0
    np.testing.assert_allclose(evaluate(make("rswaf"), X), expected, atol=1e-13)


def test_splines_and_gaussians_are_added_one_to_one() -> None:
    splines = reference.spline_matrix(X, reference.uniform_knots(-3, 3, 5, 3), 3)
    centres = np.linspace(-3, 3, 8)
    bells = np.exp(-(((X - centres[:, None]) / (6 / 7)) ** 2))
    np.testing.assert_allclose(evaluate(make("bspline_rbf"), X), splines + bells, atol=1e-12)


def test_piecewise_linear_interpolates_between_vertices() -> None:
    basis = make("piecewise_linear", grid_size=6, extrapolation="clamp")
    vertices = np.linspace(-3, 3, 7)
    far = np.concatenate([X, [-5.0, 5.0]])
    expected = [np.interp(far, vertices, row) for row in np.eye(7)]
    np.testing.assert_allclose(evaluate(basis, far), expected, atol=1e-13)


@pytest.mark.parametrize("power", [1, 2, 4])
@pytest.mark.parametrize("trainable", [True, False])
def test_relu_kan_is_the_formula_of_the_papers(power: int, trainable: bool) -> None:
    basis = make("relu_kan", power=power, trainable=trainable)
    starts = -3 + 1.2 * np.arange(-3, 5)[:, None]
    ends = starts + 4 * 1.2
    expected = (np.maximum(ends - X, 0) * np.maximum(X - starts, 0)) ** power
    expected *= (4 / (ends - starts) ** 2) ** power
    np.testing.assert_allclose(evaluate(basis, X), expected, atol=1e-12)
    assert len(list(basis.parameters())) == (2 if trainable else 0)


@pytest.mark.parametrize("smoothness", [0.0, 2.0])
def test_fourier_is_the_real_and_imaginary_part_of_exponentials(smoothness: float) -> None:
    values = evaluate(make("fourier", grid_size=4, period=5.0, smoothness=smoothness), X)
    orders = np.arange(1, 5)[:, None]
    waves = np.exp(2j * np.pi * orders * X / 5) / orders**smoothness
    np.testing.assert_allclose(values, np.concatenate([waves.real, waves.imag]), atol=1e-12)


def test_sines_differ_in_phase_between_features() -> None:
    basis = make("sine", 4, grid_size=3)
    values = basis(torch.zeros(1, 4, dtype=torch.float64))[:, 0]
    phases = np.arange(1, 4)[:, None] / 4 + np.pi * np.arange(4) / 4
    np.testing.assert_allclose(values.detach().cpu().numpy(), np.sin(phases), atol=1e-13)
    expected = np.sin(np.arange(1, 4)[:, None] * X + phases[:, :1])
    np.testing.assert_allclose(evaluate(basis, X), expected, atol=1e-12)


def derivatives_of_a_gaussian(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    point = torch.as_tensor(x).requires_grad_()
    bell = torch.exp(-point.square() / 2)
    (first,) = torch.autograd.grad(bell.sum(), point, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), point)
    return first.detach().cpu().numpy(), second.cpu().numpy()


def test_wavelets_come_from_the_gaussian() -> None:
    options: dict[str, Any] = {"grid_size": 1, "grid_range": (-2.0, 1.0), "scale": 0.7}
    first, second = derivatives_of_a_gaussian((X + 0.5) / 0.7)
    np.testing.assert_allclose(evaluate(make("dog", **options), X)[0], first, atol=1e-12)
    hat = evaluate(make("mexican_hat", **options), X)[0]
    np.testing.assert_allclose(hat / second, -2 / np.sqrt(3) * np.pi**-0.25, atol=1e-9)
    wave = np.exp(3j * (X + 0.5) / 0.7 - ((X + 0.5) / 0.7) ** 2 / 2).real
    morlet = evaluate(make("morlet", frequency=3.0, **options), X)[0]
    np.testing.assert_allclose(morlet, wave, atol=1e-12)


def test_mexican_hat_has_unit_norm_and_no_mean() -> None:
    basis = make("mexican_hat", grid_size=1)

    def value(x: float) -> float:
        return float(evaluate(basis, np.array([x]))[0, 0])

    assert integrate.quad(lambda x: value(x) ** 2, -9, 9)[0] == pytest.approx(1, abs=1e-9)
    assert integrate.quad(value, -9, 9)[0] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("start", STARTS)
def test_rational_starts_in_the_shape_it_says(start: str) -> None:
    shapes = {"identity": lambda x: x, "gelu": F.gelu, "silu": F.silu}
    basis = make("rational", start=start)
    x = np.linspace(-3.5, 3.5, 201)
    error = evaluate(basis, x)[0] - shapes[start](torch.as_tensor(x)).cpu().numpy()
    assert np.abs(error).max() < {"identity": 1e-12, "gelu": 3e-3, "silu": 1e-5}[start]
    one, two = evaluate(basis, np.array([1e6, 2e6]))[0]
    assert two / one == pytest.approx(4 if start == "gelu" else 2, rel=1e-3)  # how it grows
    assert sum(p.numel() for p in make("rational", 64).parameters()) == 38


@pytest.mark.parametrize(("features", "degree"), [(16, 3), (11, 1), (3, 6)])
def test_grouped_chebyshev_series_are_numpys(features: int, degree: int) -> None:
    basis = make("chebyshev_grouped", features, degree=degree)
    generator = torch.Generator().manual_seed(0)
    x = torch.as_tensor(X).unsqueeze(-1).expand(-1, features)
    torch.testing.assert_close(basis(x)[0], x)  # the start
    with torch.no_grad():
        shape = basis.coefficients.shape
        basis.coefficients.copy_(torch.randn(shape, generator=generator, dtype=torch.float64))
        values = basis(x)[0].cpu().numpy()
    assert shape == (degree + 1, min(features, 8))
    rows = basis.coefficients.detach().cpu().numpy()
    for feature in range(features):
        group = feature * shape[1] // features
        expected = np.polynomial.chebyshev.chebval(X, rows[:, group])
        np.testing.assert_allclose(values[:, feature], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("features", [16, 11, 3])
def test_rational_groups_share_one_denominator(features: int) -> None:
    generator = torch.Generator().manual_seed(0)
    basis = make("rational", features)
    with torch.no_grad():
        for p in basis.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    x = torch.as_tensor(X).unsqueeze(-1).expand(-1, features)
    with torch.no_grad():
        values = basis(x)[0]
    assert basis.denominator.shape == (4, min(features, 8))
    sizes = torch.bincount(basis.group_of)
    assert sizes.min() >= features // 8
    assert sizes.max() - sizes.min() <= 1
    above = np.polyval(basis.numerator.detach().cpu().numpy()[::-1], X)
    for feature in range(features):
        row = basis.denominator.detach().cpu().numpy()[:, int(basis.group_of[feature])]
        below = 1 + np.abs(np.polyval([*row[::-1], 0.0], X))
        np.testing.assert_allclose(values[:, feature].cpu().numpy(), above / below, atol=1e-10)


def test_random_waves_are_frozen_and_estimate_a_gaussian_kernel() -> None:
    torch.manual_seed(0)
    basis = make("random", 4096, grid_size=8, scale=1.5)
    assert not list(basis.parameters())
    pair = torch.tensor([[0.4], [1.9]], dtype=torch.float64).expand(2, 4096)
    left, right = basis(pair).unbind(1)
    kernel = float((left * right).mean())
    assert kernel == pytest.approx(np.exp(-((1.5 / 1.5) ** 2) / 2), abs=0.02)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *[
            ("bspline", {"spline_order": order, "extrapolation": extrapolation})
            for order in (0, 1, 2, 5)
            for extrapolation in ("zero", "clamp", "linear")
        ],
        ("jacobi", {"alpha": 0.5, "beta": -0.5}),
        ("legendre", {"degree": 1}),
        ("chebyshev", {"degree": 1}),
        ("bernstein", {"degree": 7}),
        ("relu_kan", {"power": 1}),
        ("relu_kan", {"power": 4, "trainable": False}),
        ("fourier", {"smoothness": 0.0}),
        ("rational", {"groups": 3}),
        ("chebyshev_grouped", {"degree": 1}),
    ],
)
def test_declared_flops_follow_the_options(name: str, options: dict[str, Any]) -> None:
    basis = get_basis(name, **options)(8)
    assert reference.flops_per_input(basis, 8) == basis.flops


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("rswaf", {"grid_size": 1}),
        ("relu_kan", {"power": 0}),
        ("relu_kan", {"grid_size": 0}),
        ("jacobi", {"alpha": -1}),
        ("jacobi", {"beta": float("nan")}),
        ("bernstein", {"degree": 0}),
        ("fourier", {"period": 0}),
        ("fourier", {"smoothness": -1}),
        ("sine", {"frequency": 0}),
        ("morlet", {"scale": 0}),
        ("morlet", {"frequency": -1}),
        ("rational", {"groups": 0}),
        ("chebyshev_grouped", {"groups": 0}),
        ("rational", {"start": "gelo"}),
        ("random", {"scale": 0.0}),
        ("piecewise_linear", {"grid_size": 0}),
    ],
)
def test_impossible_options_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(options)))):
        get_basis(name, **options)
