"""KAN layers under everything PyTorch does with modules, and given bad input."""

import copy
from typing import Any

import pytest
import torch
from samples import DOUBLE, KINDS, points, shaken
from torch import Tensor, nn

from kanzoo.bases.base import get_basis
from kanzoo.layers import KANConv2d, KANConv3d, KANConvTranspose2d, KANLinear
from kanzoo.layers.expansion import Expansion


def linear(name: str = "bspline", **options: Any) -> Any:
    return shaken(KANLinear(3, 4, basis=name, **{**DOUBLE, **options}))


def conv(name: str = "bspline", *args: Any, **options: Any) -> Any:
    args = args or (4, 6, 3)
    return shaken(KANConv2d(*args, basis=name, **{**DOUBLE, **options}))


@pytest.mark.parametrize("name", KINDS)
def test_state_dict_and_deepcopy(name: str, tmp_path: Any) -> None:
    for layer, fresh, x in (
        (linear(name), KANLinear(3, 4, basis=name, **DOUBLE), points(5, 3)),
        (conv(name), KANConv2d(4, 6, 3, basis=name, **DOUBLE), points(2, 4, 5, 5)),
    ):
        torch.save(layer.state_dict(), tmp_path / "state.pt")
        fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        assert torch.equal(layer(x), fresh(x))
        twin = copy.deepcopy(layer)
        assert torch.equal(layer(x), twin(x))
        with torch.no_grad():
            twin.weight.add_(1)
        assert not torch.equal(layer(x), twin(x))


@pytest.mark.parametrize("name", ["bspline", "rbf"])
@pytest.mark.parametrize("operator", ["linear", "conv"])
def test_compile_gives_the_same_values_and_gradients(name: str, operator: str) -> None:
    layer = linear(name) if operator == "linear" else conv(name)
    x = points(5, 3) if operator == "linear" else points(2, 4, 5, 5)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    y, expected = compiled(x), layer(x)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad(y.square().sum(), layer.weight)
    (wanted,) = torch.autograd.grad(expected.square().sum(), layer.weight)
    torch.testing.assert_close(gradient, wanted, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", KINDS)
def test_export(name: str) -> None:
    layer = linear(name).eval()
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(layer, (points(4, 3),), dynamic_shapes=({0: batch},))
    x = points(9, 3)
    torch.testing.assert_close(program.module()(x), layer(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["bspline", "rbf", "rational"])
@pytest.mark.parametrize("backend", ["auto", "dense", "blocked"])
def test_outputs_are_no_views(name: str, backend: str) -> None:
    """Operations in place on a view would undo what FSDP2 and hooks attach to it."""
    for rows in (4, 600):
        assert not KANLinear(16, 8, basis=name, backend=backend)(torch.randn(rows, 16))._is_view()


@pytest.mark.parametrize("name", KINDS)
def test_functional_transforms(name: str) -> None:
    layer = linear(name)
    x = points(5, 3)
    torch.testing.assert_close(torch.func.vmap(layer)(x), layer(x))
    parameters: dict[str, Tensor] = dict(layer.named_parameters())

    def loss(values: dict[str, Tensor], row: Tensor) -> Any:
        return torch.func.functional_call(layer, values, (row,)).square().sum()

    per_sample = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    layer(x).square().sum().backward()
    for key, p in parameters.items():
        assert p.grad is not None
        torch.testing.assert_close(per_sample[key].sum(0), p.grad)


@pytest.mark.parametrize("name", KINDS)
def test_autocast_trains_in_bfloat16(name: str) -> None:
    torch.manual_seed(0)
    for layer, x in (
        (KANLinear(16, 8, basis=name), torch.randn(32, 16)),
        (KANConv2d(4, 8, 3, basis=name), torch.randn(4, 4, 6, 6)),
    ):
        expected = layer(x)
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            y = layer(x)
        assert y.dtype == torch.bfloat16
        error = (y.float() - expected).norm() / expected.norm()
        assert error < 0.02
        y.float().square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("name", ["bspline", "rbf", "bspline_prelu"])
@pytest.mark.parametrize("backend", ["auto", "dense", "blocked"])
def test_autocast_gives_the_dtypes_of_ordinary_layers(name: str, backend: str) -> None:
    cases: list[tuple[Any, tuple[int, ...], Any, tuple[int, ...]]] = [
        (KANLinear, (), nn.Linear, ()),
        (KANConv2d, (3,), nn.Conv2d, (20, 20)),
        (KANConv3d, (3,), nn.Conv3d, (9, 9, 9)),
        (KANConvTranspose2d, (3,), nn.ConvTranspose2d, (20, 20)),
    ]
    for operator, kernel, plain, pixels in cases:
        for dtype in (torch.float32, torch.float64):
            x = torch.randn(8 if kernel else 1500, 8, *pixels, dtype=dtype, requires_grad=True)
            layer = operator(8, 4, *kernel, basis=name, backend=backend, dtype=dtype)
            with torch.autocast(x.device.type, dtype=torch.bfloat16):
                assert layer(x).dtype == plain(8, 4, *kernel, dtype=dtype)(x).dtype


def test_bfloat16_module() -> None:
    layer = KANLinear(3, 4, dtype=torch.bfloat16)
    assert layer(points(5, 3).bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("name", KINDS)
def test_builds_on_the_meta_device_with_the_same_counts(name: str) -> None:
    layer = KANLinear(5, 7, basis=name, device="meta")
    assert all(t.is_meta for t in layer.state_dict().values())
    assert layer.num_params == KANLinear(5, 7, basis=name).num_params


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_empty_batches_keep_their_shape(name: str) -> None:
    assert linear(name)(points(0, 3)).shape == (0, 4)
    assert linear(name)(points(2, 0, 3)).shape == (2, 0, 4)
    assert conv(name)(points(0, 4, 5, 5)).shape == (0, 6, 3, 3)


def test_wrong_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected 3 features.*\(5, 2\)"):
        linear()(points(5, 2))
    with pytest.raises(ValueError, match="expected 3 features"):
        linear()(torch.tensor(1.0))
    with pytest.raises(ValueError, match="floating point"):
        linear()(torch.zeros(5, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="expected 4 features"):
        conv()(points(2, 3, 5, 5))
    for shape in ((4, 5), (2, 2, 4, 5, 5)):
        with pytest.raises(ValueError, match=r"expected an input of 3 or 4 dimensions, got one of"):
            conv()(points(*shape))
    with pytest.raises(ValueError, match="floating point"):
        conv()(torch.zeros(2, 4, 5, 5, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 3}, "groups=3"),
        ({"groups": 0}, "groups"),
        ({"kernel_size": 0}, "kernel_size"),
        ({"kernel_size": (1, 2, 3)}, "kernel_size"),
        ({"kernel_size": 1.5}, "kernel_size"),
        ({"stride": 0}, "stride"),
        ({"padding": -1}, "padding"),
        ({"dilation": 0}, "dilation"),
        ({"in_channels": 0}, "in_channels"),
        ({"out_channels": 2.5}, "out_channels"),
        ({"basis": "bspine"}, "did you mean 'bspline'"),
        ({"residual": "sillu"}, "did you mean 'silu'"),
        ({"squash": "layer", "in_channels": 1, "out_channels": 1}, "at least 2 features"),
        ({"squash": "than"}, "did you mean 'tanh'"),
        ({"init": "varience"}, "did you mean 'variance'"),
        ({"basis": "none", "residual": None}, "residual"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    defaults: dict[str, Any] = {"in_channels": 4, "out_channels": 6, "kernel_size": 3}
    with pytest.raises(ValueError, match=message):
        KANConv2d(**{**defaults, **options})


def test_sizes_of_linear_layers_are_checked() -> None:
    for sizes in ((0, 4), (3, 0), (3, -1), (2.5, 4)):
        with pytest.raises(ValueError, match="features"):
            KANLinear(*sizes)


def test_expansion_names_what_it_holds() -> None:
    text = repr(Expansion(3, get_basis("bspline")))
    assert "num_functions=9" in text
    assert "residual='silu'" in text
