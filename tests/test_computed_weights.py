"""Layers whose weight is computed from other tensors: pruning, norms, parametrizations."""

import copy
from typing import Any

import pytest
import torch
from samples import DOUBLE, points, shaken
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from kanzoo import registry
from kanzoo.bases.base import get_basis
from kanzoo.fit.compiled_mse import compiled_mse
from kanzoo.layers import KANConv2d, KANConvTranspose1d, KANLinear
from kanzoo.layers.constraint import KINDS
from kanzoo.training.optim import param_groups


class Halved(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 2


COMPUTED: dict[str, Any] = {
    "prune": lambda layer: prune.l1_unstructured(layer, "weight", 0.3),
    "prune twice": lambda layer: prune.random_unstructured(
        prune.l1_unstructured(layer, "weight", 0.3), "weight", 0.2
    ),
    "old weight_norm": lambda layer: torch.nn.utils.weight_norm(layer),
    "old spectral_norm": lambda layer: torch.nn.utils.spectral_norm(layer),
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "custom": lambda layer: parametrize.register_parametrization(layer, "weight", Halved()),
}
pytestmark = pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")


def kernel_of(operator: Any) -> tuple[int, ...]:
    return () if operator is KANLinear else (2,)


def make(kind: str, operator: Any = KANLinear, **options: Any) -> tuple[Any, Tensor]:
    """A layer with a computed weight, and inputs."""
    torch.manual_seed(0)
    basis = get_basis("bspline", grid_size=4, extrapolation="linear")
    layer = shaken(operator(3, 4, *kernel_of(operator), basis=basis, **DOUBLE, **options))
    COMPUTED[kind](layer)
    dims = {KANLinear: 0, KANConvTranspose1d: 1, KANConv2d: 2}[operator]
    return layer, points(20, 3, *(5, 4)[:dims])


@pytest.mark.parametrize(
    ("kind", "operator"),
    [
        *((kind, KANLinear) for kind in COMPUTED),
        *(("prune", KANConv2d), ("prune twice", KANConvTranspose1d), ("weight_norm", KANConv2d)),
        ("old weight_norm", KANConvTranspose1d),
    ],
)
def test_layers_compute_learn_and_show_their_edges(kind: str, operator: Any) -> None:
    layer, x = make(kind, operator)
    layer.eval()  # spectral norms then stay as they are
    optimizer = torch.optim.SGD(layer.parameters(), 0.05)
    with torch.no_grad():
        first = float(layer(x).square().mean())
    for _ in range(3):
        optimizer.zero_grad()
        loss = layer(x).square().mean() + 1e-3 * layer.edge_norms(x).sum()
        loss.backward()
        optimizer.step()
        # Before the next forward: edges must not be those before the step.
        norms = layer.edge_norms(x)
        norms.sum().backward()
        with torch.no_grad():
            plain = operator(
                3,
                4,
                *(() if operator is KANLinear else (2,)),
                basis=layer.expansion.factory,
                **DOUBLE,
            )
            layer(x)
            plain.weight.copy_(layer.weight)
            plain.bias.copy_(layer.bias)
            torch.testing.assert_close(norms, plain.edge_norms(x))
            torch.testing.assert_close(layer(x), plain(x))
            torch.testing.assert_close(layer.edge(1, 2, x), plain.edge(1, 2, x))
    assert float(layer(x).square().mean().detach()) < first


CHANGES: dict[str, Any] = {
    "update_grid": lambda layer, x: layer.update_grid(x),
    "refine": lambda layer, x: layer.refine(10, x),
    "coarsen": lambda layer, x: layer.refine(2),
    "constrain_edges": lambda layer, x: layer.constrain_edges(
        torch.full((3, 4), KINDS["increasing"])
    ),
    "share_inputs": lambda layer, x: layer.share_inputs(torch.zeros(3, dtype=torch.long)),
    "reset_parameters": lambda layer, x: layer.reset_parameters(),
}


@pytest.mark.parametrize("kind", ["prune", "old weight_norm", "weight_norm"])
@pytest.mark.parametrize("change", CHANGES)
def test_changes_of_the_weight_are_refused_before_anything_changes(kind: str, change: str) -> None:
    layer, x = make(kind)
    layer.eval()
    before, y = copy.deepcopy(layer.state_dict()), layer(x).detach()
    with pytest.raises(ValueError, match="is computed") as refusal:
        CHANGES[change](layer, x)
    assert "\n" not in str(refusal.value)
    after = layer.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert torch.equal(layer(x), y)
    layer(x).sum().backward()


@pytest.mark.parametrize("kind", COMPUTED)
def test_edges_are_removed_beside_a_computed_weight(kind: str) -> None:
    layer, x = make(kind)
    layer.eval()
    keep = torch.ones(3, 4, dtype=torch.bool)
    keep[1, 2] = False
    layer.mask_edges(keep)
    assert not layer.edge(1, 2, x[:, 1]).any()
    assert layer.edge_norms(x)[1, 2] == 0
    assert (layer.edge_norms(x) > 0).sum() == 11
    layer(x).sum().backward()


def test_after_removal_all_works() -> None:
    layer, x = make("prune")
    zeros = layer.weight == 0
    prune.remove(layer, "weight")
    assert zeros.any()
    assert torch.equal(layer.weight == 0, zeros)
    before = layer(x).detach()
    change = layer.refine(8)
    torch.testing.assert_close(layer(x), before)
    assert change.matrix.shape[1] == layer.weight.shape[1]
    layer.update_grid(x)
    layer.constrain_edges(torch.full((3, 4), KINDS["increasing"]))
    layer.reset_parameters()


def test_states_of_another_grid_are_refused() -> None:
    for kind in ("prune", "old weight_norm", "weight_norm", "custom"):
        layer, x = make(kind)
        y, other = layer(x).detach(), KANLinear(3, 4, basis=get_basis("bspline", grid_size=9))
        COMPUTED[kind](other)
        with pytest.raises(ValueError, match="is computed"):
            layer.load_state_dict(other.state_dict())
        assert torch.equal(layer(x), y)
        fresh, _ = make(kind)
        fresh.load_state_dict(layer.state_dict())
        assert torch.equal(fresh(x), y)


def test_weights_given_for_one_call_are_used_for_that_call() -> None:
    torch.manual_seed(0)
    layer = shaken(KANLinear(3, 4, basis="bspline", **DOUBLE))
    x, other = points(20, 3), (2 * layer.weight.detach()).requires_grad_()
    before = layer(x)
    y = torch.func.functional_call(layer, {"weight": other, "bias": 2 * layer.bias}, (x,))
    torch.testing.assert_close(y, 2 * before)
    (grad,) = torch.autograd.grad(y.sum(), other)
    (expected,) = torch.autograd.grad(before.sum(), layer.weight)
    torch.testing.assert_close(grad, expected)
    assert torch.equal(layer(x), before)


@pytest.mark.parametrize(
    ("operator", "kernel"),
    [(KANLinear, ()), (KANConv2d, (2,)), (KANConvTranspose1d, (3,)), (KANConvTranspose1d, (2, 2))],
)
def test_tensors_of_other_shapes_are_refused_and_of_other_strides_used(
    operator: Any, kernel: tuple[int, ...]
) -> None:
    sizes = {KANLinear: (5,), KANConv2d: (2, 5, 5), KANConvTranspose1d: (2, 5)}[operator]
    for name in registry.names("basis"):
        layer = operator(5, 4, *kernel, basis=name)
        x = torch.randn(sizes if operator is KANLinear else (sizes[0], 5, *sizes[1:]))
        for key in ("weight", "bias"):
            tensor = getattr(layer, key).detach()
            others = [
                tensor[:0],
                tensor[:1],
                tensor[1:],
                tensor.repeat(2, *[1] * (tensor.dim() - 1)),
            ]
            others += [tensor.unsqueeze(0), tensor.flatten()[0], tensor.transpose(0, -1)]
            others += [tensor.long(), tensor.to(torch.complex64)]
            for other in others:
                if other.shape == tensor.shape and other.dtype == tensor.dtype:
                    continue
                with pytest.raises(
                    ValueError, match=rf"^{key} must be .* of floating point, got .*$"
                ):
                    torch.func.functional_call(layer, {key: other}, (x,))
            strided = tensor.expand(2, *tensor.shape).clone().movedim(0, -1)[..., 1]
            torch.testing.assert_close(
                torch.func.functional_call(layer, {key: strided}, (x,)), layer(x)
            )


def test_the_closure_of_a_stack_leaves_computed_weights_to_autograd() -> None:
    layer, x = make("prune")
    assert compiled_mse(nn.Sequential(layer), x, x[:, :1].repeat(1, 4)) is None


@pytest.mark.parametrize("kind", COMPUTED)
def test_weight_decay_finds_what_a_weight_is_computed_from(kind: str) -> None:
    layer, _ = make(kind)
    decayed, rest = (group["params"] for group in param_groups(nn.Sequential(layer), 0.1))
    assert {id(p) for p in decayed + rest} == {id(p) for p in layer.parameters()}
    assert [id(p) for p in rest] == [id(layer.bias)]
