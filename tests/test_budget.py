"""Counted costs equal the formulas, and matched twins cost the same."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from zoo import BASES, MODELS, ROTATED, SHAPES, cls_of, inputs, main_kind, roles_of, roomy
from zoo import plan as plan_of

import kanzoo
from kanzoo import registry
from kanzoo.bases.base import get_basis
from kanzoo.layers.kan import KANConv2d, KANLinear
from kanzoo.layers.parameters import count_params
from kanzoo.models.budget import count_flops, match_budget
from kanzoo.models.build import ModelPlan, build_layers, build_plan


def own_params(basis: str, features: int) -> int:
    """Trainable parameters that a basis itself has for so many features."""
    return sum(p.numel() for p in get_basis(basis)(features).parameters())


def plan(model: str, basis: str, match: str, layers: str = "kan", **options: Any) -> ModelPlan:
    node = {**registry.options("model", model), **options}
    factory = build_layers(registry.options("layers", layers), basis)
    return build_plan(node, factory, SHAPES[main_kind(model)], 10, match, model)


@pytest.mark.parametrize("basis", BASES)
def test_linear_layer(basis: str) -> None:
    layer = KANLinear(7, 5, basis=basis, squash="none")
    functions = layer.expansion.num_functions
    assert count_params(layer) == 7 * functions * 5 + 5 + own_params(basis, 7)
    assert count_flops(layer, (7,)) == 7 * layer.expansion.flops + 2 * 7 * functions * 5
    assert count_flops(layer, (3, 7)) == 3 * count_flops(layer, (7,))


def test_published_formula_of_a_spline_layer() -> None:
    """K = G + k splines and one residual function per edge, one bias per output (2404.19756)."""
    layer = KANLinear(784, 64, basis="bspline")
    assert count_params(layer) == 784 * 64 * (5 + 3 + 1) + 64


@pytest.mark.parametrize("basis", BASES)
def test_convolution(basis: str) -> None:
    layer = KANConv2d(4, 6, 3, stride=2, padding=1, groups=2, basis=basis, squash="none")
    functions = layer.expansion.num_functions
    weights = 6 * (4 // 2) * functions * 9
    assert count_params(layer) == weights + 6 + own_params(basis, 4)
    # 4 x 4 outputs of 8 x 8 inputs; the basis is evaluated on the padded image, once a pixel.
    flops = count_flops(layer, (4, 8, 8))
    products = 2 * weights * 16
    expansions = layer.expansion.flops * 4
    assert products + 8 * 8 * expansions <= flops <= products + 10 * 10 * expansions


def test_fixed_activation_costs_what_an_ordinary_layer_costs() -> None:
    layer = KANLinear(20, 30, basis="relu", residual=None)
    plain = nn.Linear(20, 30)
    assert count_params(layer) == count_params(plain)
    assert count_flops(layer, (20,)) - 20 * layer.expansion.flops == count_flops(plain, (20,))


def test_mlp_by_hand() -> None:
    twin = plan("mlp", "bspline", "none", layers="mlp", width=32, depth=2)
    norms = 2 * (2 * 32)
    assert twin.params == (64 * 32 + 32) + (32 * 32 + 32) + (32 * 10 + 10) + norms
    kan = plan("mlp", "bspline", "none", width=32, depth=2)
    assert kan.params == 9 * (64 * 32 + 32 * 32 + 32 * 10) + 32 + 32 + 10 + norms
    assert kan.twin_params == twin.params
    assert kan.options["width"] == 32
    products = 2 * (64 * 32 + 32 * 32 + 32 * 10)
    factory = build_layers(registry.options("layers", "kan"), "bspline")
    each = factory.linear("head", 4, 4).expansion.flops
    assert kan.flops == 9 * products + each * (64 + 32 + 32)


@pytest.mark.parametrize(
    ("model", "kind"), [(model, kind) for model in MODELS for kind in cls_of(model).kinds]
)
def test_flops_are_those_of_the_computed_network(model: str, kind: str) -> None:
    """The twin of activations without cost: PyTorch's own counter on real tensors agrees."""
    factory = build_layers(
        {**registry.options("layers", "mlp"), "activation": "identity"}, "bspline"
    )
    twin = build_plan(registry.options("model", model), factory, SHAPES[kind], 10, "none", model)
    net = twin.build(0).eval()
    # PyTorch's counter does not know the fused attention kernel of the CPU.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        net(inputs(kind, 3))
    assert 3 * twin.flops == counter.get_total_flops()
    assert twin.params == count_params(net)


@pytest.mark.parametrize("cell", ["elman", "gru", "lstm"])
def test_every_step_of_a_recurrent_network_is_counted(cell: str) -> None:
    net = kanzoo.create_model("rnn", cell=cell, width=12, depth=2, in_shape=(5, 3), num_outputs=4)
    total = 0

    def count(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal total
        assert isinstance(layer, KANLinear)
        products = 2 * layer.expansion.num_functions * layer.out_features
        total += inputs[0].numel() * (layer.expansion.flops + products)

    for module in net.modules():
        if isinstance(module, KANLinear):
            module.register_forward_pre_hook(count)
    net(torch.zeros(1, 5, 3))
    assert total == count_flops(net, (5, 3))
    assert count_flops(net, (50, 3)) > 9 * total


@pytest.mark.parametrize(("model", "basis"), ROTATED)
def test_parameters_match_within_two_percent(model: str, basis: str) -> None:
    matched = plan(model, basis, "params", **roomy(model))
    assert matched.params / matched.twin_params == pytest.approx(1.0, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "basis"), ROTATED)
def test_flops_match_within_two_percent(model: str, basis: str) -> None:
    matched = plan(model, basis, "flops", **roomy(model))
    assert matched.flops / matched.twin_flops == pytest.approx(1.0, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("match", ["params", "flops"])
@pytest.mark.parametrize(
    ("model", "kind"), [(model, kind) for model in MODELS for kind in cls_of(model).kinds]
)
def test_roles_match_within_two_percent(model: str, kind: str, match: str) -> None:
    for role in roles_of(model, kind):
        for basis in ("bspline", "rational", "chebyshev", "none"):
            matched = plan_of(model, (role,), kind, basis, match, **roomy(model))
            ratios = {
                "params": matched.params / matched.twin_params,
                "flops": matched.flops / matched.twin_flops,
            }
            assert ratios[match] == pytest.approx(1.0, abs=0.02), (role, basis)


@pytest.mark.parametrize("model", MODELS)
def test_a_plan_promises_what_is_built(model: str) -> None:
    matched = plan(model, "bspline", "params")
    net = matched.build(0)
    assert count_params(net) == matched.params
    assert count_flops(net, SHAPES[main_kind(model)]) == matched.flops
    assert next(net.parameters()).device.type == "cpu"
    twin = plan(model, "bspline", "params", layers="mlp")
    assert twin.options["width"] == registry.options("model", model)["width"]  # never resized
    assert (twin.params, twin.flops) == (matched.twin_params, matched.twin_flops)


def test_the_solver_finds_the_best_of_all_sizes() -> None:
    """Against exhaustive search over the coarse option, for costs with and without a fine one."""
    for target in (10, 97, 1000, 12345):
        match = match_budget(lambda o: o["width"] ** 2 + 3, target, {"width": 64}, coarse="width")
        best = min((w**2 + 3 for w in range(1, 200)), key=lambda c: max(c / target, target / c))
        assert match.options["width"] ** 2 + 3 == best
        assert match.ratio == best / target
    fine = match_budget(
        lambda o: o["width"] * round(1000 * o["ratio"]),
        123_456,
        {"width": 8, "ratio": 1.0},
        coarse="width",
        step=4,
        fine="ratio",
    )
    assert fine.options["width"] % 4 == 0
    assert fine.ratio == pytest.approx(1.0, abs=1e-3)


def test_a_budget_out_of_reach_is_refused() -> None:
    with pytest.raises(ValueError, match="width"):
        match_budget(lambda o: 5, 1000, {"width": 8}, coarse="width")
