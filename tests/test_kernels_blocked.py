"""Any basis a block of features at a time, computed again in the backward."""

import pytest
import torch
from kernel_cases import EXTRAPOLATIONS, assert_close
from torch import Tensor

import kanzoo
from kanzoo import kernels
from kanzoo.kernels.generic import linear as blocked
from kanzoo.kernels.native import scratch
from kanzoo.layers.paths import base as paths


def test_blocked_any_basis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocked, "BLOCK_BYTES", 700)  # several blocks
    torch.manual_seed(0)
    x = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 3, 4, dtype=torch.float64, requires_grad=True)
    rate = torch.rand(7, dtype=torch.float64, requires_grad=True)

    def features(x: Tensor, block: slice) -> list[Tensor]:
        return [torch.ones_like(x), (x * rate[block]).sin(), x.square()]

    def function(x: Tensor, weight: Tensor, rate: Tensor) -> Tensor:
        return kernels.blocked_linear(features, x, weight, [rate])

    want = torch.einsum("kni,iko->no", torch.stack(features(x, slice(0, 7))), weight)
    torch.testing.assert_close(function(x, weight, rate), want)
    assert torch.autograd.gradcheck(function, (x, weight, rate))
    assert torch.autograd.gradgradcheck(function, (x, weight, rate))


def test_second_derivative_where_input_depends_on_the_parameter() -> None:
    torch.manual_seed(0)
    rate = torch.rand(4, dtype=torch.float64, requires_grad=True)
    x = torch.randn(5, 4, dtype=torch.float64)
    weight = torch.randn(4, 2, 4, dtype=torch.float64, requires_grad=True)

    def features(x: Tensor, block: slice) -> list[Tensor]:
        return [(x * rate[block]).sin(), x.square()]

    def layer(x: Tensor) -> Tensor:
        return kernels.blocked_linear(features, x, weight, [rate])

    def plain(x: Tensor) -> Tensor:
        return torch.einsum("kni,iko->no", torch.stack(features(x, slice(0, 4))), weight)

    results = []
    for used in (layer, plain):  # one layer used twice, as in a recurrent network
        y = used(used(x * rate))
        first = torch.autograd.grad(y.square().sum(), (weight, rate), create_graph=True)
        total = sum((g.sin().sum() for g in first), start=y.new_zeros(()))
        results.append([*first, *torch.autograd.grad(total, (weight, rate))])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("extrapolation", EXTRAPOLATIONS)
@pytest.mark.parametrize(("adaptive", "groups"), [(False, 1), (False, 2), (True, 1)])
@pytest.mark.parametrize("cells", [3, 20])
def test_convolutions_of_splines_equal_dense(
    monkeypatch: pytest.MonkeyPatch, cells: int, adaptive: bool, groups: int, extrapolation: str
) -> None:
    monkeypatch.setattr(paths, "SMALL", 0)
    torch.manual_seed(0)
    basis = kanzoo.get_basis(
        "bspline_adaptive" if adaptive else "bspline", grid_size=cells, extrapolation=extrapolation
    )
    layer = kanzoo.KANConv2d(4, 6, 3, padding=1, groups=groups, basis=basis, dtype=torch.float64)
    x = 2 * torch.randn(9, 4, 6, 5, dtype=torch.float64)
    x[0] *= 5  # outside
    if adaptive:
        layer.update_grid(x)
    results = []
    for chosen in ("blocked", "dense"):
        layer.backend = chosen
        layer.zero_grad()
        pixels = x.clone().requires_grad_()
        y = layer(pixels)
        y.square().sum().backward()
        results.append([y.detach(), pixels.grad, *(p.grad for p in layer.parameters())])
    for found, want in zip(*results, strict=True):
        assert_close(found, want, 1e-10)


@pytest.mark.parametrize("cells", [5, 20])
@pytest.mark.parametrize("chosen", ["auto", "blocked"])
def test_training_after_inference_mode(chosen: str, cells: int) -> None:
    """Lightning validates once before it trains: memory that is kept must serve both."""
    scratch._thread.__dict__.clear()
    basis = kanzoo.get_basis("bspline", grid_size=cells)
    torch.manual_seed(0)
    for layer, x in (
        (kanzoo.KANLinear(64, 8, basis=basis, backend=chosen), torch.randn(256, 64)),
        (kanzoo.KANConv2d(4, 8, 3, basis=basis, backend=chosen), torch.randn(16, 4, 20, 20)),
        (kanzoo.KANLinear(64, 8, basis="rbf", backend=chosen), torch.randn(256, 64)),
        (kanzoo.KANConv2d(4, 8, 3, basis="dog", backend=chosen), torch.randn(16, 4, 20, 20)),
    ):
        with torch.inference_mode():
            want = layer(x)
        y = layer(x.requires_grad_())
        torch.testing.assert_close(y, want.clone(), rtol=1e-5, atol=1e-5)
        y.sum().backward()
        with torch.inference_mode():
            layer(x)
