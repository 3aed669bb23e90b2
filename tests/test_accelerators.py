"""What accelerators run of PyTorch's own operations, by force on the CPU and on meta tensors."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import kanzoo
from kanzoo.benchmark.timing import saved_bytes
from kanzoo.kernels.generic import product
from kanzoo.layers import (
    KANConv1d,
    KANConv2d,
    KANConv3d,
    KANConvTranspose1d,
    KANConvTranspose2d,
    KANLayer,
    KANLinear,
)
from kanzoo.layers.dispatch import choose
from kanzoo.layers.paths.dense import Dense
from kanzoo.layers.paths.generic import GenericConv, ProductLinear

NAMES = kanzoo.list_bases()
OPERATORS: dict[str, tuple[type[KANLayer], tuple[int, ...], dict[str, int]]] = {
    "linear": (KANLinear, (7, 3), {}),
    "conv1d": (KANConv1d, (9,), {"stride": 2, "padding": 1, "groups": 2}),
    "conv2d": (KANConv2d, (6, 5), {"padding": 1}),
    "conv3d": (KANConv3d, (4, 5, 4), {"dilation": 2, "padding": 1}),
    "transposed1d": (KANConvTranspose1d, (5,), {"stride": 2, "padding": 1, "groups": 2}),
    "transposed2d": (KANConvTranspose2d, (4, 3), {"padding": 1}),
}


def make(name: str, operator: str, device: str = "cpu", **options: str) -> tuple[KANLayer, Tensor]:
    """A layer of four channels with drawn parameters, and inputs beyond the grid too."""
    torch.manual_seed(0)
    cls, size, sizes = OPERATORS[operator]
    kernel = () if cls is KANLinear else (3,)
    layer = cls(4, 6, *kernel, basis=name, dtype=torch.float64, **sizes, **options)
    nn.init.normal_(layer.bias)
    x = 2 * torch.randn(*((*size, 4) if cls is KANLinear else (2, 4, *size)), dtype=torch.float64)
    return layer.to(device), x.to(device).requires_grad_()


def recomputing(layer: KANLayer) -> ProductLinear | GenericConv:
    return ProductLinear() if isinstance(layer, KANLinear) else GenericConv()


def everything(path: object, layer: KANLayer, x: Tensor) -> list[Tensor]:
    """Output, first gradients and those of a function of these."""
    layer.zero_grad()
    y = path.run(layer.request(x))
    tensors = [x, *layer.parameters()]
    first = torch.autograd.grad(y.sin().sum(), tensors, create_graph=True, materialize_grads=True)
    total = sum((g.square().sum() for g in first if g.requires_grad), start=y.sum())
    second = torch.autograd.grad(total, tensors, materialize_grads=True)
    plain = torch.autograd.grad(path.run(layer.request(x)).sin().sum(), tensors, allow_unused=True)
    return [y, *first, *second, *(g for g in plain if g is not None)]


@pytest.mark.parametrize("name", NAMES)
def test_recomputing_equals_the_definition(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(product, "BLOCK_BYTES", 5 * 4 * 4 * 8)  # a few rows a block
    for operator in OPERATORS:
        layer, x = make(name, operator)
        found = everything(recomputing(layer), layer, x)
        for one, wanted in zip(found, everything(Dense(), layer, x), strict=True):
            torch.testing.assert_close(one, wanted)


@pytest.mark.parametrize("name", NAMES)
def test_accelerators_keep_the_input_alone(name: str) -> None:
    """Fixed activations make ordinary layers, which keep their values too unless "blocked"."""
    for operator in OPERATORS:
        layer, x = make(name, operator, "meta")
        fixed = layer.expansion.num_functions == 1 and not [*layer.expansion.parameters()]
        expected = "one product" if operator == "linear" else "generic"
        assert choose(layer.request(x)).name == ("plain" if fixed else expected)
        y = layer(x)
        dense = Dense().run(layer.request(x))
        assert (y.shape, y.dtype, y.device) == (dense.shape, dense.dtype, x.device)
        grads = torch.autograd.grad(y.sum(), [x, *layer.parameters()])
        assert [g.shape for g in grads] == [t.shape for t in (x, *layer.parameters())]
        if not fixed:
            assert saved_bytes(layer, x) <= 1.1 * x.nbytes
        for device in ("meta", "cpu"):
            forced, numbers = make(name, operator, device, backend="blocked")
            assert choose(forced.request(numbers)).name in ("one product", "generic")
            assert saved_bytes(forced, numbers) <= 1.1 * numbers.nbytes


@pytest.mark.parametrize(("name", "operator"), [("rbf", "linear"), ("chebyshev", "conv2d")])
def test_compiled_programs_keep_the_input_alone(name: str, operator: str) -> None:
    """As accelerators do; on the CPU by "blocked"."""
    graphs: list[str] = []

    def keep(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        graphs.append(str(graph.graph))
        return graph.forward

    for device, backend in (("cpu", "blocked"), ("meta", "auto")):
        layer, x = make(name, operator, device, backend=backend)
        compiled = torch.compile(layer, backend=keep, fullgraph=True, dynamic=False)
        assert saved_bytes(compiled, x) <= 1.1 * x.nbytes
        found, expected = (
            torch.autograd.grad(run(x).sin().sum(), [x, *layer.parameters()])
            for run in (compiled, lambda x, layer=layer: Dense().run(layer.request(x)))
        )
        for one, wanted in zip(found, expected, strict=True):
            torch.testing.assert_close(one, wanted)
        assert "checkpoint" in graphs[-1]


@pytest.mark.slow
def test_inductor_compiles_convolutions_of_any_batch() -> None:
    """Dense, of sizes that are symbols, whose views Inductor cannot put in order."""
    layer = KANConv2d(2, 3, 2, padding=1, basis="chebyshev", backend="dense")
    compiled = torch.compile(layer, dynamic=True, fullgraph=True)
    for count in (3, 5):
        x = torch.randn(count, 2, 4, 3, requires_grad=True)
        torch.testing.assert_close(compiled(x), layer(x))


@pytest.mark.parametrize("operator", ["linear", "conv2d"])
def test_autocast_lowers_products_and_not_functions(operator: str) -> None:
    layer, x = make("bspline", operator)
    layer, x = layer.float(), x.detach().float().bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = recomputing(layer).run(layer.request(x))
        dense = Dense().run(layer.request(x))
    assert y.dtype == dense.dtype == torch.bfloat16
    torch.testing.assert_close(y, dense, rtol=2e-2, atol=2e-2)
    (grad,) = torch.autograd.grad(y.sum(), x)
    (wanted,) = torch.autograd.grad(dense.sum(), x)
    torch.testing.assert_close(grad, wanted, rtol=5e-2, atol=5e-2)
