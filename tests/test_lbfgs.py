"""LBFGS, and losses and gradients of small stacks without autograd."""

import copy

import pytest
import torch
from kernel_cases import needs_compiler
from torch import nn

from kanzoo import KANLinear, get_basis
from kanzoo.fit.compiled_mse import compiled_mse
from kanzoo.layers.dispatch import compute
from kanzoo.layers.paths.base import Request
from kanzoo.layers.paths.native import Direct
from kanzoo.training import lbfgs
from kanzoo.training.lbfgs import LBFGS


def solver(parameters: list[torch.Tensor], **options: object) -> LBFGS:
    given = {"max_iter": 200, "tolerance_grad": 0, "tolerance_change": 0} | options
    return LBFGS(parameters, line_search_fn="strong_wolfe", **given)


def test_rosenbrock_to_the_last_digit_from_parameters_of_several_shapes() -> None:
    parts = [
        torch.full((), -1.2, dtype=torch.float64, requires_grad=True),
        torch.ones(1, 2, dtype=torch.float64, requires_grad=True),
    ]
    optimizer = solver(parts)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        z = torch.cat([part.reshape(-1) for part in parts])
        loss = (100 * (z[1:] - z[:-1] ** 2) ** 2 + (1 - z[:-1]) ** 2).sum()
        loss.backward()
        return loss

    start = closure().item()
    assert optimizer.step(closure).item() == start  # as PyTorch's: the loss before the step
    assert closure().item() < 1e-20
    torch.testing.assert_close(parts[1], torch.ones_like(parts[1]))


def test_every_step_satisfies_the_strong_wolfe_conditions(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    w = torch.randn(30, dtype=torch.float64, requires_grad=True)
    matrix = torch.randn(30, 30, dtype=torch.float64)
    seen = []
    search = lbfgs._search

    def watched(objective, direction, start, *rest):  # type: ignore[no-untyped-def]
        found = search(objective, direction, start, *rest)
        seen.append((start, found))
        return found

    monkeypatch.setattr(lbfgs, "_search", watched)
    optimizer = solver([w], max_iter=60, max_eval=1000)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (matrix @ w).sin().square().sum() + 0.01 * w.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert len(seen) > 20
    for start, found in seen[:-1]:
        assert found.length > 0
        assert found.loss <= start.loss + 1e-4 * found.length * start.slope
        assert abs(found.slope) <= 0.9 * abs(start.slope)


def test_the_budget_of_evaluations_holds_and_the_best_point_is_kept() -> None:
    w = torch.full((5,), 3.0, dtype=torch.float64, requires_grad=True)
    optimizer, losses = solver([w], max_eval=7), []

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (w.square() * torch.arange(1, 6)).sum() + w.exp().sum()
        loss.backward()
        losses.append(loss.item())
        return loss

    optimizer.step(closure)
    assert len(losses) <= 7
    assert closure().item() <= min(losses[:-1])


def test_history_goes_through_state_dict() -> None:
    def run(parts: int) -> torch.Tensor:
        w = torch.linspace(-2, 2, 9, dtype=torch.float64).requires_grad_()
        optimizer = solver([w], max_iter=3)
        for _ in range(parts):
            for _ in range(6 // parts):

                def closure() -> torch.Tensor:
                    optimizer.zero_grad()  # noqa: B023
                    loss = (w - 1).pow(4).sum() + (w[1:] * w[:-1]).sin().sum()
                    loss.backward()
                    return loss

                optimizer.step(closure)
            state = copy.deepcopy(optimizer.state_dict())
            optimizer = solver([w], max_iter=3)
            optimizer.load_state_dict(state)
        return w.detach()

    torch.testing.assert_close(run(1), run(3), rtol=1e-12, atol=1e-12)


def test_what_it_cannot_do_is_refused() -> None:
    w = [torch.zeros(2, requires_grad=True)]
    for options in ({"line_search_fn": None}, {"line_search_fn": "strong_wolfe", "maximize": True}):
        with pytest.raises(ValueError, match="strong_wolfe"):
            LBFGS(w, **options)


def test_a_loss_that_is_not_finite_is_stepped_back_from() -> None:
    w = torch.full((1,), 2.0, dtype=torch.float64, requires_grad=True)
    optimizer = solver([w], lr=1e6)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (w - w.log()).sum()  # NaN below zero
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
    assert w.item() == pytest.approx(1.0, abs=1e-7)


def stack(residual: str | None, bias: bool, grid: str, dtype: torch.dtype) -> nn.Sequential:
    basis = get_basis("bspline", grid_size=4, grid=grid, extrapolation="linear")
    place = {"basis": basis, "residual": residual, "dtype": dtype}
    return nn.Sequential(*[KANLinear(a, b, bias, **place) for a, b in ((3, 4), (4, 5), (5, 2))])


@needs_compiler
@pytest.mark.parametrize("residual", [None, "identity", "silu"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("grid", ["uniform", "adaptive"])
def test_squares_are_those_of_autograd(residual: str | None, bias: bool, grid: str) -> None:
    torch.manual_seed(0)
    net = stack(residual, bias, grid, torch.float64)
    x, y = torch.randn(50, 3).double(), torch.randn(50, 2).double()
    squares = compiled_mse(net, x, y)
    assert squares is not None
    for _ in range(2):  # also after the parameters have changed
        found = squares()
        direct = [p.grad.clone() for p in net.parameters()]
        net.zero_grad()
        loss = nn.functional.mse_loss(net(x), y)
        loss.backward()
        torch.testing.assert_close(found, loss.detach(), rtol=1e-12, atol=1e-14)
        for p, gradient in zip(net.parameters(), direct, strict=True):
            torch.testing.assert_close(gradient, p.grad, rtol=1e-10, atol=1e-12)
        squares = compiled_mse(net, x, y)
        with torch.no_grad():
            for p in net.parameters():
                p.mul_(0.9)


def test_compiled_mse_other_networks_are_left_to_autograd() -> None:
    x, y = torch.randn(20, 3), torch.randn(20, 2)
    pruned = stack("silu", True, "uniform", torch.float32)
    pruned[0].mask_edges(torch.arange(12).view(3, 4) > 2)
    frozen = stack("silu", True, "uniform", torch.float32)
    frozen[0].weight.requires_grad_(False)
    normed = nn.Sequential(KANLinear(3, 4), nn.LayerNorm(4), KANLinear(4, 2))
    waves = nn.Sequential(KANLinear(3, 4, basis="chebyshev"), KANLinear(4, 2))
    for net in (pruned, frozen, normed, waves, nn.Linear(3, 2)):
        assert compiled_mse(net, x, y) is None


@needs_compiler
@pytest.mark.parametrize("residual", [None, "identity", "silu"])
def test_one_node_of_autograd_has_all_derivatives(
    residual: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layer = stack(residual, True, "uniform", torch.float64)[1]
    x = torch.randn(6, 1, 4).double().requires_grad_()
    inputs = (x, layer.weight, layer.bias)

    def run(*values: torch.Tensor) -> torch.Tensor:
        x, weight, bias = values
        return compute(Request("linear", layer.expansion, x, weight, bias, "compiled"))

    assert "Direct" in type(run(*inputs).grad_fn).__name__
    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs)
    y = run(*inputs)
    monkeypatch.setattr(Direct, "can", lambda *_: "the operator is wanted")
    other = run(*inputs)
    assert "Direct" not in type(other.grad_fn).__name__
    torch.testing.assert_close(y, other, rtol=1e-13, atol=1e-13)
    seed = torch.randn_like(y)
    found, known = (torch.autograd.grad(out, inputs, seed) for out in (y, other))
    for a, b in zip(found, known, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)
