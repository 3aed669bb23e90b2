"""B-splines by a slow Cox-de Boor recursion, and what the tests of the kernels share."""

import pytest
import torch
from torch import Tensor

from kanzoo import kernels

needs_compiler = pytest.mark.skipif(
    not kernels.is_available(), reason=f"compiled kernels: {kernels.unavailable_reason()}"
)
COMPILED = pytest.param(kernels.spline_linear, marks=needs_compiler, id="compiled")
DENSE = pytest.param(kernels.dense_linear, id="dense")

EXTRAPOLATIONS = ("zero", "clamp", "linear")


def recursion(x: float, t: list[float], j: int, k: int, last: int) -> float:
    """B_{j,k}(x) by its definition; cell `last` is closed on the right."""
    if k == 0:
        return float(j == last if x == t[last + 1] else t[j] <= x < t[j + 1])
    left = 0.0 if t[j + k] == t[j] else (x - t[j]) / (t[j + k] - t[j])
    right = 0.0 if t[j + k + 1] == t[j + 1] else (t[j + k + 1] - x) / (t[j + k + 1] - t[j + 1])
    return left * recursion(x, t, j, k - 1, last) + right * recursion(x, t, j + 1, k - 1, last)


def slope(x: float, t: list[float], j: int, k: int, last: int) -> float:
    if k == 0:
        return 0.0
    left = 0.0 if t[j + k] == t[j] else recursion(x, t, j, k - 1, last) / (t[j + k] - t[j])
    right = t[j + k + 1] - t[j + 1]
    return k * (left - (recursion(x, t, j + 1, k - 1, last) / right if right else 0.0))


def reference(x: float, t: list[float], order: int, kind: str) -> tuple[list[float], list[float]]:
    """Values and derivatives of all functions at one point."""
    outer = 0 if kind == "zero" else order
    cells, count = range(outer, len(t) - outer - 1), len(t) - order - 1
    last = max(j for j in cells if t[j] < t[j + 1])
    low, high = t[outer], t[-outer - 1]
    inside = min(max(x, low), high)
    values = [recursion(inside, t, j, order, last) for j in range(count)]
    slopes = [slope(inside, t, j, order, last) for j in range(count)]
    if inside == x:
        return values, slopes
    if kind == "zero":
        return [0.0] * count, [0.0] * count
    if kind == "clamp":
        return values, [0.0] * count
    return [v + s * (x - inside) for v, s in zip(values, slopes, strict=True)], slopes


def make_knots(cells: int, order: int, features: int, kind: str) -> Tensor:
    """(1 or features, cells + 2 order + 1), equidistant or random; some with repeated knots."""
    count = cells + 2 * order + 1
    if kind == "uniform":
        step = 2 / cells
        return torch.linspace(-1 - order * step, 1 + order * step, count)[None]
    knots = torch.rand(features, count).mul(3).sub(1.5).sort(1).values
    if kind == "repeated":
        knots[:, order + 1] = knots[:, order + 2]
        if order > 1:  # outside, at one end of the knots and next to the grid
            knots[:, 0] = knots[:, 1]
            knots[:, -order - 1] = knots[:, -order]
    if kind == "clamped":  # no outer cells
        knots[:, :order] = knots[:, order, None]
        knots[:, count - order :] = knots[:, -order - 1, None]
    if kind == "empty cell":
        knots[:, order] = knots[:, order + 1]
    return knots


def make_case(
    rows: int, inputs: int, outputs: int, cells: int, order: int, kind: str, residual: bool = True
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    torch.manual_seed(0)
    knots = make_knots(cells, order, inputs, kind)
    x = torch.randn(rows, inputs)
    x[:1] = knots[:, order]  # both ends belong to the grid
    x[1:2] = knots[:, -order - 1]
    x[2:3] = knots[:, 0] - 2  # far outside
    x[3:4] = knots[:, -1] + 30
    outer = torch.cat([knots[:, :order], knots[:, -order - 1 : -1]], 1)  # cells around the grid
    width = torch.cat([knots.diff()[:, :order], knots.diff()[:, knots.shape[1] - order - 1 :]], 1)
    inner = (outer + 0.3 * width).t()[: max(rows - 6, 0)]
    x[4 : 4 + len(inner)] = inner
    weight = torch.randn(inputs, cells + order + residual, outputs)
    return x, weight, torch.randn(rows, inputs) if residual else None, knots


def expected(
    x: Tensor,
    weight: Tensor,
    residual: Tensor | None,
    knots: Tensor,
    order: int,
    kind: str,
    g: Tensor,
) -> list[Tensor]:
    """y and the gradients of <g, y> with respect to x, weight, residual, in float64."""
    all_knots = knots.double().expand(x.shape[1], -1).tolist()
    table = [
        [reference(v, t, order, kind) for v, t in zip(row, all_knots, strict=True)]
        for row in x.double().tolist()
    ]
    both = torch.tensor(table, dtype=torch.float64)  # (N, I, 2, K)
    values, slopes = both.unbind(2)
    w, g = weight.double(), g.double()
    spline = w[:, : values.shape[2]]
    found = [
        torch.einsum("nik,iko->no", values, spline),
        torch.einsum("no,iko,nik->ni", g, spline, slopes),
        torch.einsum("nik,no->iko", values, g),
    ]
    if residual is not None:
        r = residual.double()
        found[0] += r @ w[:, -1]
        found[2] = torch.cat([found[2], torch.einsum("ni,no->io", r, g)[:, None]], 1)
        found.append(g @ w[:, -1].t())
    return found


def assert_close(found: Tensor, wanted: Tensor, tolerance: float) -> None:
    scale = wanted.abs().max().clamp(min=1)
    assert found.shape == wanted.shape
    assert ((found.double() - wanted).abs().max() / scale).item() < tolerance


def check(layer, case, order: int, kind: str, dtype: torch.dtype) -> None:  # type: ignore[no-untyped-def]
    x, weight, residual, knots = (None if t is None else t.to(dtype) for t in case)
    variables = [t.requires_grad_() for t in (x, weight, residual) if t is not None]
    y = layer(x, weight, residual, knots, order, kind)
    g = torch.randn_like(y)
    grads = torch.autograd.grad(y, variables, g)
    wanted = expected(x.detach(), weight.detach(), residual, knots, order, kind, g)
    tolerance = 1e-12 if dtype == torch.float64 else 5e-5
    for found, want in zip((y, *grads), wanted, strict=True):
        assert_close(found.detach(), want.detach(), tolerance)
