"""Every Triton kernel in Triton's interpreter, against float64: run by `test_triton.py`."""

import copy
from collections.abc import Callable, Container, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from kernel_cases import EXTRAPOLATIONS, assert_close, expected, make_case
from pairwise import pairwise
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import kanzoo
from kanzoo import kernels
from kanzoo.benchmark.timing import saved_bytes
from kanzoo.kernels.families.rational import dense_rational
from kanzoo.kernels.gpu import launch, rational
from kanzoo.kernels.gpu.operators import Functions
from kanzoo.layers import (
    KANConv1d,
    KANConv2d,
    KANConv3d,
    KANConvTranspose2d,
    KANLayer,
    KANLinear,
)
from kanzoo.layers.dispatch import choose
from kanzoo.layers.paths.dense import Dense

NAMES = [name for name in kanzoo.list_bases() if kanzoo.get_basis(name)(1).num_functions > 1]
# One of each way to compute functions; the others are slow.
DISTINCT = ("bspline", "chebyshev", "rbf", "fourier", "mexican_hat")
CONVOLVED = [name for name in NAMES if name != "bspline_prelu"]
ACCURACY = 5e-6


@pytest.fixture(autouse=True)
def _many_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums are cut in shares wherever they are longer than a tile."""
    monkeypatch.setattr(launch, "num_processors", lambda device: 40)


def gradients(
    run: Callable[[Tensor], Tensor], layer: KANLayer, x: Tensor, g: Tensor
) -> list[Tensor]:
    y = run(x)
    found = torch.autograd.grad(y, [x, *layer.parameters()], g.to(y.dtype))
    return [y.detach(), *found]


def check(layer: KANLayer, x: Tensor, accuracy: float = ACCURACY) -> None:
    """Output and all gradients against the dense definition in float64."""
    torch.manual_seed(1)
    exact = copy.deepcopy(layer).double()
    layer.backend, exact.backend = "triton", "dense"
    wide = x.detach().double().requires_grad_()
    assert choose(layer.request(x)).name == "triton"
    g = torch.randn_like(exact(wide))
    found = gradients(layer, layer, x, g)
    wanted = gradients(exact, exact, wide, g)
    for one, other in zip(found, wanted, strict=True):
        if other.numel():
            assert_close(one.detach(), other.detach(), accuracy)
        assert one.shape == other.shape


def draw(layer: KANLayer) -> KANLayer:
    """Another bias, and parameters of functions that differ between channels."""
    torch.manual_seed(2)
    nn.init.normal_(layer.bias)
    with torch.no_grad():
        for p in layer.expansion.parameters():
            p.add_(0.1 * torch.rand_like(p))
    return layer


def mostly_slow(names: Sequence[Any], quick: Container[Any]) -> list[Any]:
    """The values, of which all but a few are for slow tests."""

    def slow(value: Any) -> Any:
        values = value if isinstance(value, tuple) else (value,)
        return pytest.param(*values, marks=pytest.mark.slow)

    return [n if n in quick else slow(n) for n in names]


@pytest.mark.parametrize("name", mostly_slow(NAMES, DISTINCT))
def test_linear_layers(name: str) -> None:
    torch.manual_seed(0)
    x = 2 * torch.randn(33, 34)
    check(draw(KANLinear(34, 17, basis=name)), x.requires_grad_())


OPERATORS = {
    "conv1d": lambda **options: KANConv1d(4, 6, 3, stride=2, padding=1, groups=2, **options),
    "conv2d": lambda **options: KANConv2d(4, 6, (2, 3), padding=(0, 1), **options),
    "conv3d": lambda **options: KANConv3d(4, 2, 2, **options),
    "transposed": lambda **options: KANConvTranspose2d(4, 6, 3, stride=2, padding=1, **options),
}
SIZES = {"conv1d": (9,), "conv2d": (5, 4), "conv3d": (3, 2, 3), "transposed": (3, 4)}


@pytest.mark.parametrize("name", mostly_slow(CONVOLVED, CONVOLVED[:4]))
def test_convolutions(name: str) -> None:
    """Operators in turn: they share all of the kernels."""
    operator = list(OPERATORS)[NAMES.index(name) % len(OPERATORS)]
    torch.manual_seed(0)
    layer = draw(OPERATORS[operator](basis=name))
    x = 2 * torch.randn(2, 4, *SIZES[operator])
    if operator == "conv2d":
        x = x.contiguous(memory_format=torch.channels_last)
    check(layer, x.requires_grad_())


EQUAL = list(product((1, 2, 3, 4, 5), EXTRAPOLATIONS))


@pytest.mark.parametrize(("order", "extrapolation"), mostly_slow(EQUAL, EQUAL[6:9]))
def test_splines_on_equal_cells(order: int, extrapolation: str) -> None:
    check_splines(order, extrapolation, "uniform")


@pairwise(
    order=mostly_slow([1, 2, 3, 5], [3]),
    extrapolation=EXTRAPOLATIONS,
    kind=["repeated", "clamped", "empty cell"],
)
def test_splines_on_any_cells(order: int, extrapolation: str, kind: str) -> None:
    check_splines(order, extrapolation, kind)


def check_splines(order: int, extrapolation: str, kind: str) -> None:
    """Against the recursion: ends and knots, outer cells, far away, repeated knots."""
    x, weight, _, knots = make_case(21, 3, 5, 4, order, kind, residual=False)
    inner = [p for p in range(order + 1, order + 4) if kind != "empty cell" or p != order + 1]
    for row, knot in enumerate(inner, 16):
        x[row] = knots[:, knot]
    name = "uniform_spline" if kind == "uniform" else "adaptive_spline"
    functions = Functions(name, knots, [order, EXTRAPOLATIONS.index(extrapolation)])
    variables = [x.requires_grad_(), weight.requires_grad_()]
    y = kernels.fused_linear(x, weight, None, functions, "none", None)
    g = torch.randn_like(y)
    found = [y, *torch.autograd.grad(y, variables, g)]
    wanted = expected(x.detach(), weight.detach(), None, knots, order, extrapolation, g)
    for one, other in zip(found, wanted, strict=True):
        assert_close(one.detach(), other, 2e-5)


BRANCHES = [
    ("none", None, "bspline_prelu"),
    ("layer", "silu", "chebyshev"),
    ("tanh", "identity", "bspline"),
    ("sigmoid", "relu", "chebyshev"),
    ("affine", "gelu", "bspline_prelu"),
    ("tanh", "gelu", "rbf"),
    ("layer", "tanh", "bspline"),
]


@pytest.mark.parametrize(("squash", "residual", "name"), mostly_slow(BRANCHES, BRANCHES[:2]))
def test_squashes_and_residual_branches(squash: str, residual: str | None, name: str) -> None:
    torch.manual_seed(0)
    layer = draw(KANLinear(5, 3, basis=name, squash=squash, residual=residual))
    check(layer, torch.randn(4, 5).requires_grad_())


def test_any_strides_and_sizes() -> None:
    layer = draw(KANLinear(5, 3))
    torch.manual_seed(0)
    check(layer, torch.randn(5, 7).t().requires_grad_())
    check(layer, torch.randn(2, 3, 5)[:, ::2].requires_grad_())
    check(layer, torch.randn(5).requires_grad_())
    check(layer, torch.randn(0, 5).requires_grad_())
    check(KANConv2d(2, 3, 2), torch.randn(0, 2, 4, 4).requires_grad_())
    check(draw(KANLinear(1, 1, basis="rbf")), torch.randn(3, 1).requires_grad_())


def test_nothing_beside_a_weight_is_read() -> None:
    """A view of the first functions, followed by one of NaN."""
    x, stored = torch.randn(3, 2, requires_grad=True), torch.randn(2, 4, 5)
    stored[:, -1] = torch.nan
    functions = Functions("gaussian", torch.ones(2, 3, 1), [])
    y = kernels.fused_linear(x, stored[:, :-1], None, functions, "none", None)
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert y.isfinite().all()
    assert grad.isfinite().all()


@pytest.mark.parametrize("name", ["bspline", "bspline_adaptive", "rbf", "sine", "chebyshev"])
def test_nan_reaches_its_row_alone(name: str) -> None:
    layer = KANLinear(4, 3, basis=name, residual=None, backend="triton")
    x = torch.randn(6, 4)
    x[2, 1] = torch.nan
    y = layer(x)
    assert y[2].isnan().all()
    assert y[[0, 1, 3, 4, 5]].isfinite().all()


@pytest.mark.parametrize("name", ["bspline", "sine"])
def test_autocast_keeps_positions_in_full_precision(name: str) -> None:
    """A float16 position would be wrong by a hundredth of a cell, and values as much."""
    grid = {"grid_size": 40} if name == "bspline" else {}
    torch.manual_seed(0)
    layer = draw(KANLinear(6, 4, basis=kanzoo.get_basis(name, **grid), backend="triton"))
    x = torch.randn(9, 6)
    exact = copy.deepcopy(layer).double()
    exact.backend = "dense"
    for given in (x, x.half()):
        with torch.autocast("cpu", torch.float16):
            y = layer(given.requires_grad_())
        (grad,) = torch.autograd.grad(y.float().sum(), given)
        wide = given.detach().double().requires_grad_()
        wanted = exact(wide)
        (steep,) = torch.autograd.grad(wanted.sum(), wide)
        assert y.dtype == torch.float16
        assert grad.dtype == given.dtype
        assert_close(y.detach(), wanted.detach(), 2e-3)
        assert_close(grad, steep, 4e-3)


@pytest.mark.slow
@pytest.mark.parametrize("make", [KANLinear, lambda *sizes, **o: KANConv1d(*sizes, 2, **o)])
@pytest.mark.parametrize("name", ["bspline", "sine"])
def test_second_derivatives(name: str, make: Callable[..., KANLayer]) -> None:
    layer = draw(make(3, 2, basis=name))
    exact = copy.deepcopy(layer).double()
    layer.backend, exact.backend = "triton", "dense"
    x = torch.randn(*((4, 3) if isinstance(layer, KANLinear) else (2, 3, 5)))
    found = []
    for net, inputs in ((layer, x), (exact, x.double())):
        inputs.requires_grad_()
        tensors = [inputs, *net.parameters()]
        first = torch.autograd.grad(net(inputs).sin().sum(), tensors, create_graph=True)
        total = sum((f.square().sum() for f in first), start=inputs.new_zeros(()))
        found.append(torch.autograd.grad(total, tensors))
    for one, other in zip(*found, strict=True):
        assert_close(one, other, 1e-5)


def test_the_input_alone_is_kept() -> None:
    x = torch.randn(64, 16, requires_grad=True)
    for name in ("bspline", "rbf", "chebyshev"):
        assert saved_bytes(KANLinear(16, 4, basis=name, backend="triton"), x) <= 1.1 * x.nbytes
    images = torch.randn(2, 4, 6, 6, requires_grad=True)
    layer = KANConv2d(4, 3, 3, padding=1, backend="triton")
    assert saved_bytes(layer, images) <= 1.1 * images.nbytes


def test_operators_keep_the_contract_of_pytorch() -> None:
    x, weight = torch.randn(3, 2, requires_grad=True), torch.randn(2, 6, 2, requires_grad=True)
    table = torch.rand(2, 5, 2, requires_grad=True)
    names = ("morlet", [3.0], "tanh", "silu")
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    fused = (x, weight, table, torch.randn(2, requires_grad=True), *names, torch.float32)
    torch.library.opcheck(torch.ops.kanzoo.fused_linear.default, fused, test_utils=tests)
    images, kernel = torch.randn(2, 2, 4, 3, requires_grad=True), torch.randn(4, 1, 6, 2, 2)
    sizes = ([1, 0], [1, 2], [0, 0], [1, 1], False, [0, 0], 2, torch.float32)
    for x in (images, images.detach().contiguous(memory_format=torch.channels_last)):
        conv = (x, kernel.requires_grad_(), table, *names, *sizes)
        torch.library.opcheck(torch.ops.kanzoo.fused_conv.default, conv, test_utils=tests)


TRACED: dict[str, tuple[Callable[[], KANLayer], tuple[int, ...]]] = {
    "linear": (lambda: KANLinear(4, 3), (4,)),
    "trained": (lambda: KANLinear(4, 3, basis="mexican_hat"), (2, 4)),
    "conv1d": (lambda: KANConv1d(4, 2, 3, stride=2, groups=2), (4, 7)),
    "conv2d": (lambda: KANConv2d(4, 2, 3, padding="same", basis="rbf"), (4, 3, 4)),
    "transposed": (lambda: KANConvTranspose2d(4, 2, 2, stride=2, padding=1), (4, 2, 3)),
}


@pytest.mark.parametrize("kind", mostly_slow([*TRACED], ["linear"]))
def test_one_operator_is_compiled_and_exported(kind: str) -> None:
    """Without graph breaks, with the same gradients; exported programs take any batch."""
    make, size = TRACED[kind]
    layer, x = draw(make()), torch.randn(3, *size, requires_grad=True)
    layer.backend = "triton"
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, inputs: Sequence[Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)  # type: ignore[no-any-return]

    compiled = torch.compile(layer, backend=keep, fullgraph=True, dynamic=False)
    g = torch.randn_like(layer(x))
    wanted = gradients(layer, layer, x, g)
    for one, other in zip(gradients(compiled, layer, x, g), wanted, strict=True):
        torch.testing.assert_close(one, other)
    shapes = ({0: torch.export.Dim("batch", min=2)},)
    program = torch.export.export(layer, (x.detach(),), dynamic_shapes=shapes)
    name = "fused_linear" if isinstance(layer, KANLinear) else "fused_conv"
    assert all(name in str(graph.graph) for graph in (*graphs, program))
    more = torch.randn(5, *size)
    torch.testing.assert_close(program.module()(more), layer(more))


def test_transforms_fall_back() -> None:
    for layer, x in (
        (KANLinear(4, 3), torch.randn(5, 4)),
        (KANConv1d(4, 2, 3), torch.randn(2, 4, 5)),
    ):
        layer.backend = "auto"
        torch.testing.assert_close(torch.func.vmap(layer)(x), layer(x))


def test_results_repeat_to_the_bit() -> None:
    layer = draw(KANLinear(40, 5, basis="sine"))
    layer.backend = "triton"
    x, g = torch.randn(40, 40, requires_grad=True), torch.randn(40, 5)
    for one, other in zip(*(gradients(layer, layer, x, g) for _ in range(2)), strict=True):
        assert torch.equal(one, other)


def test_a_kernel_that_fails_is_replaced_and_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> Tensor:
        raise RuntimeError("no such instruction\nand more")

    monkeypatch.setattr(launch, "_failed", {})
    monkeypatch.setattr(launch, "is_interpreted", lambda: False)  # which shows all errors
    monkeypatch.setattr("kanzoo.kernels.gpu.linear.forward", broken)
    layer, x = draw(KANLinear(4, 3)), torch.randn(5, 4, requires_grad=True)
    layer.backend = "triton"
    monkeypatch.setattr("kanzoo.layers.paths.gpu.is_interpreted", lambda: True)
    run = choose(layer.request(x)).run
    wanted = gradients(lambda x: Dense().run(layer.request(x)), layer, x, torch.ones(5, 3))
    for _ in range(2):
        found = gradients(lambda x: run(layer.request(x)), layer, x, torch.ones(5, 3))
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other)
    assert [record.getMessage() for record in caplog.records] == [
        "kernels of uniform_spline are computed by PyTorch: Triton failed: no such instruction"
    ]
    layer.backend = "auto"
    monkeypatch.setattr("kanzoo.layers.paths.gpu.DEVICES", ("cpu",))
    assert "not triton: Triton failed: no such instruction" in layer.explain_backend(x)


@pytest.mark.parametrize("shape", [(40, 70), (3, 6, 5, 7), (0, 4), (5,)])
def test_rational_functions(shape: tuple[int, ...]) -> None:
    """Channels last and first in memory, groups of unequal sizes, kinks of |Q|."""
    torch.manual_seed(0)
    x = torch.randn(shape)
    x = x.movedim(1, -1) if len(shape) > 2 else x
    x[..., :1] = 0.0
    channels = x.shape[-1]
    groups = torch.arange(channels) * 3 // channels
    above, below = torch.randn(6), torch.randn(4, 3)
    tensors = [t.double().requires_grad_() for t in (x, above, below)]
    wanted = dense_rational(*tensors, groups)
    g = torch.randn_like(x)
    found = rational.backward(g, x, above, below, groups, True, True, True)
    y = rational.forward(x, above, below, groups)
    assert y.stride() == torch.empty_like(x).stride()
    steep = torch.autograd.grad(wanted, tensors, g.double())
    for one, other in zip((y, *found), (wanted.detach(), *steep), strict=True):
        assert one.shape == other.shape
        if other.numel():
            assert_close(one, other, ACCURACY)


def test_tanh_of_small_numbers_is_exact_to_a_digit() -> None:
    """Where its quotient of exponentials would cancel, and where the series ends."""
    x = torch.linspace(-0.3, 0.3, 61)[:, None]
    functions = Functions("gaussian", torch.zeros(2, 1, 1), [])
    weight = torch.tensor([0.0, 1.0]).view(1, 2, 1)
    y = kernels.fused_linear(x, weight, None, functions, "none", "tanh")
    torch.testing.assert_close(y.double(), x.double().tanh(), rtol=1e-6, atol=0)


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [KANConv2d(2, 3, 2, basis="rbf"), nn.Flatten(), KANLinear(12, 4, basis="sine")]
    return nn.Sequential(*layers, KANLinear(4, 2))


def _trained(net: nn.Module, images: Tensor, backend: str) -> dict[str, Tensor]:
    """Weights after three steps."""
    for layer in net.modules():
        if isinstance(layer, KANLayer):
            layer.backend = backend
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    for batch in images:
        optimizer.zero_grad()
        net(batch).square().mean().backward()
        optimizer.step()
    return net.state_dict()


def _one_process(rank: int, strategy: str, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    images, net = torch.load(f"{folder}/images.pt")[:, rank::2], _network()
    if strategy == "ddp":
        options = {"static_graph": True, "gradient_as_bucket_view": True}
        state = _trained(nn.parallel.DistributedDataParallel(net, **options), images, "triton")  # type: ignore[arg-type]
        state = {key.removeprefix("module."): value for key, value in state.items()}
    else:
        mesh = init_device_mesh("cpu", (2,))
        for part in (net[0], net[2], net[3], net):
            fully_shard(part, mesh=mesh)
        state = {
            k: v.full_tensor() if isinstance(v, DTensor) else v
            for k, v in _trained(net, images, "triton").items()
        }
    torch.save(state, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_equal_one(strategy: str, tmp_path: Path) -> None:
    """Copies and shards of weights; one process by the definition."""
    torch.manual_seed(1)
    images = torch.randn(3, 6, 2, 3, 3)
    torch.save(images, tmp_path / "images.pt")
    arguments = (strategy, str(tmp_path))
    multiprocessing.start_processes(_one_process, arguments, nprocs=2, start_method="fork")  # type: ignore[no-untyped-call]
    wanted = _trained(_network(), images, "dense")
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5)
