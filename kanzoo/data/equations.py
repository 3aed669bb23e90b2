"""Differential equations in two variables with the values that are known on the border of a box.

Axes: N points. Derivatives are by position: first `(N, 2)`, second `(N, 2)` of each variable alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from torch import Tensor

Residual = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
PI = np.pi
VISCOSITY = 0.01 / PI  # of Burgers' equation (Raissi et al., 2019)
DIFFUSION = 0.001  # of the Allen-Cahn equation, as in DeepXDE's examples (1907.04502)
WAVES = (1, 4)  # of the Helmholtz equation (2001.04536, section 4.1), whose k is 1


@dataclass(frozen=True)
class Equation:
    """residual(x, u, first, second) = 0 inside a box, u given on some of its sides.

    `solution` gives u and both first derivatives, `(N, 2) -> (N, 3)` in float64. `second` are the
    variables by which second derivatives occur, `sides` the sides with values as (variable, end).
    """

    variables: tuple[str, str]
    low: tuple[float, float]
    residual: Residual
    solution: Callable[[np.ndarray], np.ndarray]
    second: tuple[int, ...] = (0, 1)
    sides: tuple[tuple[int, int], ...] = ((0, 0), (0, 1), (1, 0), (1, 1))
    residual_weight: float = 1.0


def waves(x: np.ndarray, a: int, b: int) -> np.ndarray:
    """sin(a pi x) sin(b pi y) and its first derivatives, `(N, 3)`."""
    (s, t), (c, d) = np.sin(PI * x * [a, b]).T, np.cos(PI * x * [a, b]).T
    return np.stack([s * t, a * PI * c * t, b * PI * s * d], 1)


def _sines(x: Tensor, a: int, b: int) -> Tensor:
    return (a * PI * x[:, 0]).sin() * (b * PI * x[:, 1]).sin()


def _poisson(x: Tensor, u: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return second.sum(1) + 2 * PI**2 * _sines(x, 1, 1)


def _helmholtz(x: Tensor, u: Tensor, first: Tensor, second: Tensor) -> Tensor:
    a, b = WAVES
    return second.sum(1) + u - (1 - PI**2 * (a * a + b * b)) * _sines(x, a, b)


def _burgers(x: Tensor, u: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return first[:, 0] + u * first[:, 1] - VISCOSITY * second[:, 1]


def _allen_cahn(x: Tensor, u: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return first[:, 0] - DIFFUSION * second[:, 1] - 5 * (u - u**3)


def burgers(x: np.ndarray, nodes: int = 1201) -> np.ndarray:
    """u of Burgers' equation from -sin(pi x) by Cole and Hopf, and derivatives by t and x.

    The integrals are sums over even nodes, which converge faster than any power of their number.
    """
    z = np.linspace(-14, 14, nodes)
    result = []
    for t, place in x:
        y = place - np.sqrt(4 * VISCOSITY * t) * z
        exponent = -np.cos(PI * y) / (2 * PI * VISCOSITY) - z * z
        weight = np.exp(exponent - exponent.max())
        weight /= weight.sum()
        slopes = [np.sin(PI * y), PI * np.cos(PI * y), -(PI**2) * np.sin(PI * y)]
        g, g1, g2 = (slope / (2 * VISCOSITY) for slope in slopes)
        mean = weight @ g
        centred = g - mean
        u = -2 * VISCOSITY * mean
        u_x = -2 * VISCOSITY * (weight @ g1 + weight @ centred**2)
        u_xx = -2 * VISCOSITY * (weight @ g2 + 3 * weight @ (centred * g1) + weight @ centred**3)
        result.append((u, VISCOSITY * u_xx - u * u_x, u_x))
    return np.array(result)


@cache
def _allen_cahn_flow(degree: int, tolerance: float) -> tuple[Any, np.ndarray]:
    """The solution over time in Chebyshev points of odd degree, of which symmetry leaves half."""
    from scipy.integrate import solve_ivp

    k = np.arange(degree + 1)
    points = np.cos(PI * k / degree)
    c = np.where((k == 0) | (k == degree), 2.0, 1.0) * (-1.0) ** k
    matrix = np.outer(c, 1 / c) / (points[:, None] - points + np.eye(degree + 1))
    matrix -= np.diag(matrix.sum(1))
    second = matrix @ matrix
    half = (degree + 1) // 2
    folded = second[:half, :half] + second[:half, half:][:, ::-1]
    start = points[:half] ** 2 * np.cos(PI * points[:half])

    def flow(t: float, u: np.ndarray) -> np.ndarray:
        change: np.ndarray = DIFFUSION * folded @ u + 5 * (u - u**3)
        change[0] = 0.0  # u = -1 at the ends
        return change

    def slope(t: float, u: np.ndarray) -> np.ndarray:
        jacobian: np.ndarray = DIFFUSION * folded + np.diag(5 - 15 * u * u)
        jacobian[0] = 0.0
        return jacobian

    options: dict[str, Any] = {"rtol": tolerance, "atol": tolerance, "jac": slope}
    found = solve_ivp(flow, (0, 1), start, "Radau", dense_output=True, **options)
    return found.sol, points


def allen_cahn(x: np.ndarray, degree: int = 255, tolerance: float = 1e-8) -> np.ndarray:
    """u of the Allen-Cahn equation and its derivatives by t and x; u is exact within 2e-5.

    By lines of Chebyshev points over time.
    """
    from numpy.polynomial.chebyshev import chebder, chebval
    from scipy.fft import dct

    flow, _ = _allen_cahn_flow(degree, tolerance)
    half = flow(x[:, 0])  # (H, N)
    values = np.concatenate([half, half[::-1]])
    coefficients = dct(values, type=1, axis=0) / degree
    coefficients[[0, -1]] /= 2
    u, u_x, u_xx = (
        chebval(x[:, 1], chebder(coefficients, order), tensor=False) for order in range(3)
    )
    return np.stack([u, DIFFUSION * u_xx + 5 * (u - u**3), u_x], 1)


EVOLVING: dict[str, Any] = {"second": (1,), "sides": ((0, 0), (1, 0), (1, 1))}
SQUARE, TIME = ("x", "y"), ("t", "x")
EQUATIONS = {
    "poisson": Equation(SQUARE, (-1, -1), _poisson, lambda x: waves(x, 1, 1), residual_weight=0.01),
    "helmholtz": Equation(
        SQUARE, (-1, -1), _helmholtz, lambda x: waves(x, *WAVES), residual_weight=0.01
    ),
    "burgers": Equation(TIME, (0, -1), _burgers, burgers, **EVOLVING),
    "allen_cahn": Equation(TIME, (0, -1), _allen_cahn, allen_cahn, **EVOLVING),
}
