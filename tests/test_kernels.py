"""All paths of the B-spline layer against a slow Cox-de Boor recursion in float64."""

import pytest
import torch
from kernel_cases import (
    COMPILED,
    DENSE,
    EXTRAPOLATIONS,
    assert_close,
    check,
    make_case,
    make_knots,
    needs_compiler,
)
from pairwise import pairwise

from kanzoo import kernels
from kanzoo.kernels.spline import calls
from kanzoo.kernels.spline import linear as compiled


@pairwise(
    order=range(6),
    knots=["uniform", "random", "repeated", "clamped", "empty cell"],
    kind=EXTRAPOLATIONS,
    layer=[COMPILED, DENSE],
)
def test_equals_cox_de_boor(layer, order: int, knots: str, kind: str) -> None:  # type: ignore[no-untyped-def]
    check(layer, make_case(24, 3, 5, 4, order, knots), order, kind, torch.float64)


@needs_compiler
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize(
    ("rows", "inputs", "outputs", "cells"),
    [(1, 1, 1, 1), (3, 7, 1, 5), (2, 1, 300, 3), (40, 3, 33, 2), (17, 20, 65, 6), (5, 9, 16, 20)],
)
def test_odd_sizes_in_float32(
    rows: int, inputs: int, outputs: int, cells: int, residual: bool
) -> None:
    case = make_case(rows, inputs, outputs, cells, 3, "uniform", residual)
    check(kernels.spline_linear, case, 3, "linear", torch.float32)


@needs_compiler
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"), [(5000, 5, 70), (4, 600, 300), (300, 1, 513), (600, 40, 30)]
)
def test_blocks_and_threads_equal_dense(
    monkeypatch: pytest.MonkeyPatch, rows: int, inputs: int, outputs: int, threads: int
) -> None:
    monkeypatch.setattr(calls, "SERIAL_WORK", 0)
    monkeypatch.setattr(compiled, "max_threads", lambda: threads)
    calls.sizes_of.cache_clear()
    case = make_case(rows, inputs, outputs, 7, 3, "random")
    x, weight, residual, knots = (None if t is None else t.double() for t in case)
    variables = [t.requires_grad_() for t in (x, weight, residual)]
    results = []
    for layer in (kernels.spline_linear, kernels.dense_linear):
        y = layer(x, weight, residual, knots, 3, "zero")
        results.append((y, *torch.autograd.grad((y * y).sum(), variables)))
    for found, want in zip(*results, strict=True):
        assert_close(found.detach(), want.detach(), 1e-12)


@needs_compiler
def test_strided_and_batched_input() -> None:
    x, weight, residual, knots = make_case(12, 6, 9, 5, 3, "uniform")
    want = kernels.spline_linear(x, weight, residual, knots, 3, "clamp")
    wide = torch.stack([x, -x], -1)[..., 0]
    loose = weight.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert not wide.is_contiguous()
    assert not loose.is_contiguous()
    torch.testing.assert_close(
        kernels.spline_linear(wide, loose, residual, knots, 3, "clamp"), want
    )
    cube = kernels.spline_linear(x.view(3, 4, 6), weight, residual.view(3, 4, 6), knots, 3, "clamp")
    assert cube.shape == (3, 4, 9)
    torch.testing.assert_close(cube.view(12, 9), want)
    weight.requires_grad_()  # an expanded gradient
    kernels.spline_linear(x, weight, residual, knots, 3, "clamp").sum().backward()
    assert_close(weight.grad[:, -1], residual.double().sum(0)[:, None].expand(-1, 9), 1e-5)


@needs_compiler
@pytest.mark.parametrize("shape", [(0, 4, 3), (5, 4, 0)])
def test_empty(shape: tuple[int, int, int]) -> None:
    rows, inputs, outputs = shape
    weight = torch.randn(inputs, 9, outputs, requires_grad=True)
    x = torch.randn(rows, inputs, requires_grad=True)
    knots = make_knots(5, 3, inputs, "uniform")
    y = kernels.spline_linear(x, weight, x.sin(), knots, 3, "zero")
    assert y.shape == (rows, outputs)
    y.sum().backward()
    assert torch.equal(weight.grad, torch.zeros_like(weight))
    assert torch.equal(x.grad, torch.zeros_like(x))


@pairwise(order=[0, 1, 3, 5], kind=EXTRAPOLATIONS, layer=[COMPILED, DENSE])
def test_nan_stays_in_its_row(layer, order: int, kind: str) -> None:  # type: ignore[no-untyped-def]
    x, weight, _, knots = make_case(8, 4, 5, 6, order, "random", residual=False)
    clean = layer(x, weight, None, knots, order, kind)
    x[3, 2] = torch.nan
    x.requires_grad_()
    y = layer(x, weight, None, knots, order, kind)
    others = [n for n in range(8) if n != 3]
    assert y[3].isnan().all()
    assert torch.equal(y[others], clean[others])
    y.sum().backward()
    assert x.grad[others].isfinite().all()
    if order:
        assert x.grad[3, 2].isnan()


@pytest.mark.parametrize("layer", [COMPILED, DENSE])
def test_infinite_and_huge_inputs(layer) -> None:  # type: ignore[no-untyped-def]
    x, weight, _, knots = make_case(4, 3, 5, 6, 3, "uniform", residual=False)
    for value in (torch.inf, -torch.inf, 3e38, -1e30):
        x[2] = value
        assert torch.equal(layer(x, weight, None, knots, 3, "zero")[2], torch.zeros(5))
        ends = knots[:, -4] if value > 0 else knots[:, 3]
        edge = layer(ends.expand(1, 3), weight, None, knots, 3, "clamp")[0]
        torch.testing.assert_close(layer(x, weight, None, knots, 3, "clamp")[2], edge)
        layer(x, weight, None, knots, 3, "linear")


@needs_compiler
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.zeros(3, 7, 4)}, "weight"),
        ({"residual": torch.zeros(5, 2)}, "residual"),
        ({"knots": torch.zeros(2, 12)}, "knots"),
        ({"knots": torch.zeros(1, 7)}, "knots"),
        ({"order": 6}, "order"),
        ({"extrapolation": "mirror"}, "extrapolation"),
        ({"x": torch.zeros(5, 3, dtype=torch.int64)}, "x must be float32 or float64"),
        ({"weight": torch.zeros(3, 9, 4, dtype=torch.float64)}, "weight must be a torch.float32"),
    ],
)
def test_bad_arguments(change: dict[str, object], message: str) -> None:
    x, weight, residual, knots = make_case(5, 3, 4, 5, 3, "uniform")
    arguments = {"x": x, "weight": weight, "residual": residual, "knots": knots}
    arguments |= {"order": 3, "extrapolation": "zero"} | change
    with pytest.raises(ValueError, match=message):
        kernels.spline_linear(**arguments)  # type: ignore[arg-type]
