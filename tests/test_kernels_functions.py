"""The kernel of functions other than B-splines equals their definition, and so do gradients."""

from typing import Any

import pytest
import torch
from kernel_cases import needs_compiler
from pairwise import pairwise
from torch import Tensor, nn

import kanzoo
from kanzoo import kernels
from kanzoo.kernels.families import conv as functions_conv
from kanzoo.kernels.families import linear as functions
from kanzoo.kernels.native import enumerations
from kanzoo.layers.paths import base as paths

pytestmark = needs_compiler

FAMILIES = {name: kanzoo.get_basis(name)(16).family() for name in kanzoo.list_bases()}
NAMES = [name for name, family in FAMILIES.items() if family and family.name != "rational"]
# One basis of a family: others differ in their numbers.
DISTINCT = list({FAMILIES[name].name: name for name in NAMES}.values())
SHAPES = [(40, 21), (1, 16), (3, 5, 37), (0, 16), (103, 3), (2, 1)]
CONVOLUTIONS: list[tuple[type[nn.Module], dict[str, Any], tuple[int, ...]]] = [
    (kanzoo.KANConv2d, {"padding": (1, 2), "stride": (2, 1)}, (7, 6)),
    (kanzoo.KANConv2d, {"padding": 1, "groups": 2}, (5, 6)),
    (kanzoo.KANConv2d, {"padding": 2, "groups": 16, "dilation": 2}, (5, 6)),
    (kanzoo.KANConv1d, {"padding": 1}, (13,)),
    (kanzoo.KANConv3d, {"padding": (1, 0, 2)}, (3, 4, 3)),
    (kanzoo.KANConvTranspose2d, {"padding": 1, "stride": 2, "output_padding": 1}, (4, 3)),
    (kanzoo.KANConvTranspose1d, {"groups": 4, "stride": 2}, (6,)),
]


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the kernel for the small tensors of these tests, in several blocks."""
    monkeypatch.setattr(paths, "SMALL", 1)
    monkeypatch.setattr(functions, "BLOCK_BYTES", 2**13)
    monkeypatch.setattr(functions_conv, "BLOCK_BYTES", 2**15)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels that were called."""
    made: list[str] = []
    for module in (functions, functions_conv):
        real = module.Functions

        def note(*arguments: Any, real: type = real, **options: Any) -> Any:
            made.append("functions")
            return real(*arguments, **options)

        monkeypatch.setattr(module, "Functions", note)
    return made


def gradients(layer: nn.Module, x: Tensor, chosen: str) -> list[Tensor]:
    layer.backend = chosen
    variables = [x, *(p for p in layer.parameters() if p.requires_grad)]
    y = layer(x)
    torch.manual_seed(1)
    found = torch.autograd.grad(y, variables, torch.randn(y.shape, dtype=y.dtype))
    return [y.detach(), *found]


def check(layer: nn.Module, x: Tensor, rtol: float = 1e-10) -> None:
    want = gradients(layer, x, "dense")
    for got, expected in zip(gradients(layer, x, "auto"), want, strict=True):
        scale = float(expected.abs().max()) if expected.numel() else 0.0
        torch.testing.assert_close(got, expected, rtol=rtol, atol=rtol * scale)


def test_all_families_are_exercised() -> None:
    assert {FAMILIES[name].name for name in NAMES} == set(enumerations.FAMILIES)


@pytest.mark.parametrize(
    ("name", "shape"),
    [*((name, SHAPES[0]) for name in NAMES), *((name, s) for name in DISTINCT for s in SHAPES[1:])],
)
def test_linear_equals_the_definition(name: str, shape: tuple[int, ...], calls: list[str]) -> None:
    torch.manual_seed(0)
    layer = kanzoo.KANLinear(shape[-1], 5, basis=name, dtype=torch.float64)
    for p in layer.parameters():
        p.data.add_(0.1 * torch.randn_like(p))
    x = (2 * torch.randn(shape, dtype=torch.float64)).requires_grad_()
    check(layer, x)
    assert bool(calls) == (x.numel() > 0)


@pairwise(name=DISTINCT, squash=enumerations.SQUASHES, residual=enumerations.RESIDUALS)
def test_squash_and_residual_in_single_precision(
    name: str, squash: str, residual: str | None, calls: list[str]
) -> None:
    torch.manual_seed(0)
    layer = kanzoo.KANLinear(19, 5, basis=name, squash=squash, residual=residual)
    x = (1.5 * torch.randn(33, 19)).requires_grad_()
    check(layer, x, rtol=2e-5)
    assert calls


@pairwise(
    name=["legendre", "morlet", "sine"],
    case=CONVOLUTIONS,
    batch=[functions_conv.FEW_IMAGES - 1, functions_conv.FEW_IMAGES + 2],
)
def test_convolutions_equal_the_definition(
    name: str, case: Any, batch: int, calls: list[str]
) -> None:
    check_convolution(name, case, batch, calls)


@pytest.mark.parametrize("name", NAMES)
def test_every_basis_is_convolved(name: str, calls: list[str]) -> None:
    case = CONVOLUTIONS[NAMES.index(name) % len(CONVOLUTIONS)]
    check_convolution(name, case, functions_conv.FEW_IMAGES + 2, calls)


def check_convolution(name: str, case: Any, batch: int, calls: list[str]) -> None:
    torch.manual_seed(0)
    cls, options, sides = case
    layer = cls(16, 16, 3, basis=name, dtype=torch.float64, **options)
    for p in layer.parameters():
        p.data.add_(0.1 * torch.randn_like(p))
    x = torch.randn(batch, 16, *sides, dtype=torch.float64).requires_grad_()
    check(layer, x)
    assert calls


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (3, 1), (17, 1), (32, 1), (34, 2)])
@pytest.mark.parametrize("name", ["legendre", "dog"])
def test_channels_of_any_number_and_order_in_memory(name: str, channels: int, groups: int) -> None:
    torch.manual_seed(0)
    layer = kanzoo.KANConv2d(channels, 4, 3, padding=1, basis=name, groups=groups)
    x = torch.randn(9, channels, 6, 5).contiguous(memory_format=torch.channels_last)
    check(layer, x.requires_grad_(), rtol=2e-5)
    check(layer, x.detach()[:, :, ::2, 1:].requires_grad_(), rtol=2e-5)


@pytest.mark.parametrize("name", ["chebyshev", "morlet", "sine"])
def test_second_derivatives(name: str) -> None:
    torch.manual_seed(0)
    for layer, shape in (
        (kanzoo.KANLinear(8, 2, basis=name, dtype=torch.float64), (3, 8)),
        (kanzoo.KANConv1d(8, 2, 2, padding=1, basis=name, dtype=torch.float64), (8, 8, 2)),
    ):
        x = torch.randn(shape, dtype=torch.float64).requires_grad_()
        assert torch.autograd.gradgradcheck(layer, x)


@pytest.mark.parametrize("name", NAMES)
def test_not_a_number_stays_in_its_row(name: str) -> None:
    layer = kanzoo.KANLinear(18, 4, basis=name)
    x = torch.randn(20, 18)
    clean = layer(x)
    x[3, 17] = torch.nan
    y = layer(x)
    rows = torch.arange(20) != 3
    assert y[3].isnan().all()
    torch.testing.assert_close(y[rows], clean[rows], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["fourier", "sine", "random"])
def test_waves_of_large_inputs(name: str) -> None:
    """Ranges beyond what the polynomials reduce go through the C library."""
    torch.manual_seed(0)
    layer = kanzoo.KANLinear(16, 4, basis=name, residual=None)
    x = 2.0 ** torch.arange(-4, 28).float().unsqueeze(-1).expand(-1, 16)
    layer.backend = "dense"
    want = layer(x)
    layer.backend = "auto"
    rounding = torch.finfo(torch.float32).eps * 16 * x[:, :1] + 1e-5  # of the arguments
    assert ((layer(x) - want).abs() <= 4 * rounding)[x[:, 0] < 2**18].all()
    assert layer(x).isfinite().all()
    assert layer(x).abs().max() < 10 * want.abs().max()


def test_frozen_parameters_and_inputs_get_no_gradient() -> None:
    layer = kanzoo.KANLinear(16, 4, basis="dog")
    layer.expansion.basis.shift.requires_grad_(False)
    x = torch.randn(30, 16)
    layer(x).sum().backward()
    assert layer.expansion.basis.shift.grad is None
    assert layer.expansion.basis.inverse_scale.grad is not None
    layer.expansion.requires_grad_(False)
    layer.weight.requires_grad_(False)
    x.requires_grad_()
    layer(x).sum().backward()
    assert x.grad is not None


def test_without_a_compiler_the_definition_is_used(
    monkeypatch: pytest.MonkeyPatch, calls: list[str]
) -> None:
    monkeypatch.setattr(kernels, "unavailable_reason", lambda *_: "no compiler")
    layer = kanzoo.KANLinear(16, 4, basis="rbf")
    check(layer, torch.randn(30, 16).requires_grad_(), rtol=1e-5)
    assert not calls
    assert "not families: no compiler" in layer.explain_backend(torch.randn(30, 16))
