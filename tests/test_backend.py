"""All backends compute the same layer, and autograd keeps little for it."""

import pytest
import torch
import torch.nn.functional as F
from kernel_cases import needs_compiler
from samples import KINDS
from torch import Tensor, nn

import kanzoo
from kanzoo import kernels
from kanzoo.benchmark.timing import saved_bytes
from kanzoo.kernels.generic import linear as blocked
from kanzoo.layers import KANConv2d, KANLinear
from kanzoo.layers.dispatch import BACKENDS, choose
from kanzoo.layers.paths.base import SMALL

NAMES = kanzoo.list_bases()
EXPANDING = [name for name in NAMES if kanzoo.get_basis(name)(1).num_functions > 1]


def outputs_and_gradients(layer: nn.Module, x: Tensor, backend: str) -> list[Tensor]:
    layer.backend = backend
    layer.zero_grad()
    x = x.clone().requires_grad_()
    y = layer(x)
    y.square().sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in layer.parameters())]


@pytest.mark.parametrize(
    ("name", "backend"), [*((n, "auto") for n in NAMES), *((n, "blocked") for n in KINDS)]
)
def test_backends_agree_with_the_dense_definition(
    name: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocked, "BLOCK_BYTES", 4 * 130 * 9 * 7)  # about seven inputs a block
    torch.manual_seed(0)
    layer = KANLinear(45, 33, basis=name)
    x = 1.5 * torch.randn(130, 45)
    dense = outputs_and_gradients(layer, x, "dense")
    for expected, actual in zip(dense, outputs_and_gradients(layer, x, backend), strict=True):
        torch.testing.assert_close(actual, expected, rtol=2e-5, atol=2e-6 * expected.abs().max())


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(EXPANDING) - {"none"}))
def test_single_functions_with_a_residual_know_their_block(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocked, "BLOCK_BYTES", 4 * 130 * 2 * 7)
    torch.manual_seed(0)
    layer = KANLinear(45, 33, basis=name, residual="silu")
    x = torch.randn(130, 45)
    dense = outputs_and_gradients(layer, x, "dense")
    for expected, actual in zip(dense, outputs_and_gradients(layer, x, "blocked"), strict=True):
        torch.testing.assert_close(actual, expected, rtol=2e-5, atol=2e-6 * expected.abs().max())


@pytest.mark.parametrize("squash", ["tanh", "sigmoid", "layer"])
def test_a_function_beside_splines_sees_what_these_see(squash: str) -> None:
    options = {"basis": "bspline_prelu", "squash": squash}
    for layer, shape in (
        (KANLinear(9, 7, **options), (30, 9)),
        (KANConv2d(4, 6, 3, padding=1, groups=2, **options), (5, 4, 8, 7)),
    ):
        nn.init.uniform_(layer.expansion.basis.prelu.slope)
        x = 1.5 * torch.randn(shape)
        if kernels.is_available():
            assert choose(layer.request(x)).name == "native"
        dense = outputs_and_gradients(layer, x, "dense")
        for expected, actual in zip(dense, outputs_and_gradients(layer, x, "auto"), strict=True):
            torch.testing.assert_close(
                actual, expected, rtol=2e-5, atol=4e-6 * expected.abs().max()
            )


@pytest.mark.parametrize("name", KINDS)
def test_what_is_zero_at_zero(name: str) -> None:
    """A convolution may leave the padding to the operator if, and only if, phi(0) is zero."""
    expansion = KANLinear(5, 3, basis=name).expansion
    if expansion.zero_at_zero:
        assert not expansion(torch.zeros(2, 5)).any()
    layer = KANConv2d(5, 3, 3, padding=1, basis=name)
    x = torch.randn(2, 5, 4, 4)
    unpadded = KANConv2d(5, 3, 3, basis=name)
    unpadded.load_state_dict(layer.state_dict())
    if expansion.squash != "batch":
        torch.testing.assert_close(layer(x), unpadded(F.pad(x, (1, 1, 1, 1))))


@pytest.mark.parametrize("name", NAMES)
def test_convolution_backends_agree(name: str) -> None:
    """Plain and with all options in turn."""
    options = {"stride": 2, "padding": 1, "groups": 2} if NAMES.index(name) % 2 else {}
    torch.manual_seed(0)
    layer = KANConv2d(4, 6, 3, basis=name, **options)
    x = 1.5 * torch.randn(5, 4, 12, 13)
    dense = outputs_and_gradients(layer, x, "dense")
    for backend in ("blocked", "auto"):
        found = outputs_and_gradients(layer, x, backend)
        for expected, actual in zip(dense, found, strict=True):
            torch.testing.assert_close(
                actual, expected, rtol=5e-5, atol=5e-6 * expected.abs().max()
            )


@needs_compiler
def test_training_is_the_same_on_every_backend() -> None:
    curves = {}
    for backend in ("dense", "blocked", "compiled"):
        torch.manual_seed(0)
        net = nn.Sequential(
            KANLinear(32, 64, backend=backend), nn.LayerNorm(64), KANLinear(64, 8, backend=backend)
        )
        optimizer = torch.optim.SGD(net.parameters(), lr=0.02)
        x = torch.randn(128, 32)
        target = torch.sin(x[:, :8] * x[:, 8:16])
        losses = []
        for _ in range(200):
            optimizer.zero_grad()
            loss = F.mse_loss(net(x), target)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        curves[backend] = torch.stack(losses)
    assert curves["dense"][-1] < 0.5 * curves["dense"][0]
    for backend in ("blocked", "compiled"):
        torch.testing.assert_close(curves[backend], curves["dense"], rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("name", EXPANDING)
def test_saved_bytes_do_not_grow_with_the_functions(name: str) -> None:
    layer = KANLinear(128, 32, basis=name)
    x = torch.randn(512, 128, requires_grad=True)
    plain = saved_bytes(nn.Linear(128, 32), x)
    assert plain == x.nbytes
    # The basis' own tensors, cut to the block at hand, are no activations of the batch.
    assert saved_bytes(layer, x) <= 2 * x.nbytes + plain


@pytest.mark.parametrize("name", [name for name in EXPANDING if name in KINDS])
def test_saved_bytes_of_a_convolution_do_not_grow_with_the_functions(name: str) -> None:
    layer = KANConv2d(16, 8, 3, padding=1, basis=name)
    x = torch.randn(16, 16, 14, 14, requires_grad=True)
    plain = saved_bytes(nn.Conv2d(16, 8, 3, padding=1), x)
    pixels = 16 * 16 * 16 * 16 * 4  # padded
    assert saved_bytes(layer, x) <= 2 * pixels + plain


@pytest.mark.parametrize("basis", ["bspline", "rbf"])
def test_saved_bytes_do_not_grow_with_the_grid(basis: str) -> None:
    kept = []
    for grid_size in (5, 20, 50):
        factory = kanzoo.get_basis(basis, grid_size=grid_size)
        linear = KANLinear(64, 32, basis=factory)
        conv = KANConv2d(4, 8, 3, basis=factory)
        images = torch.randn(16, 4, 12, 12, requires_grad=True)
        numbers = torch.randn(512, 64, requires_grad=True)
        kept.append((saved_bytes(linear, numbers), saved_bytes(conv, images)))
    assert kept[0] == kept[1]
    assert kept[2] <= kept[1]


def test_backends_are_named_and_checked() -> None:
    assert BACKENDS == ["auto", "dense", "blocked", "compiled", "triton"]
    with pytest.raises(ValueError, match="did you mean 'compiled'"):
        KANLinear(2, 2, backend="compile")
    with pytest.raises(ValueError, match="no compiled code for the squash or the residual"):
        KANLinear(2, 2, basis="rbf", residual="gelu", backend="compiled")
    with pytest.raises(ValueError, match="native: not a convolution of images"):
        kanzoo.KANConv1d(2, 2, 3, backend="compiled")


def test_compiled_without_a_compiler_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "unavailable_reason", lambda *_: "no C++")
    with pytest.raises(ValueError, match="native: no C\\+\\+"):
        KANLinear(2, 2, backend="compiled")


def test_auto_chooses_by_basis_and_size() -> None:
    large = torch.randn(SMALL, 8, requires_grad=True)
    small = torch.randn(2, 8, requires_grad=True)
    mixed = KANLinear(8, 8, basis="rbf", residual="gelu")  # without compiled code
    assert choose(mixed.request(large)).name == "generic"
    assert choose(mixed.request(small)).name == "dense"
    with torch.no_grad():
        assert choose(mixed.request(large)).name == "dense"
    assert choose(KANLinear(8, 8, basis="gelu").request(large)).name == "plain"
    spline = KANLinear(8, 8)
    if kernels.is_available():
        assert choose(spline.request(small)).name == "direct"
    assert choose(spline.request(large.to("meta"))).name == "one product"
