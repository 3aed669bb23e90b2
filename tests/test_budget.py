"""Counted costs equal the formulas, and matched twins cost the same."""

import dataclasses
import math
from itertools import product
from typing import Any

import pytest
import torch
from samples import KINDS
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from zoo import BASES, MODELS, ROTATED, SHAPES, SIZED, cls_of, inputs, main_kind, roles_of, roomy
from zoo import plan as plan_of

import kanzoo
from kanzoo import registry
from kanzoo.bases.base import get_basis
from kanzoo.layers import KANConv2d, KANLinear
from kanzoo.layers.factory import LayerFactory
from kanzoo.layers.parameters import count_params
from kanzoo.layers.transformer import SwiGLU
from kanzoo.models.budget import CLOSE, match_budget
from kanzoo.models.build import ModelPlan, build_layers, build_plan
from kanzoo.models.cost import count_cost, count_flops
from kanzoo.models.quadratic import Quadratic
from kanzoo.models.solve import Budget


def own_params(basis: str, features: int) -> int:
    """Trainable parameters that a basis itself has for so many features."""
    return sum(p.numel() for p in get_basis(basis)(features).parameters())


def plan(
    model: str,
    basis: str,
    match: str,
    layers: str = "kan",
    scope: str = "network",
    shape: tuple[int, ...] | None = None,
    **options: Any,
) -> ModelPlan:
    node = {**registry.options("model", model), **options}
    factory = build_layers(registry.options("layers", layers), basis)
    shape = shape or SHAPES[main_kind(model)]
    return build_plan(node, factory, shape, 10, Budget(match, scope), model)


@pytest.mark.parametrize("basis", KINDS)
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


@pytest.mark.parametrize("basis", KINDS)
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
    twin = build_plan(registry.options("model", model), factory, SHAPES[kind], 10, name=model)
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
    ("model", "kind"), [(model, kind) for model in SIZED for kind in cls_of(model).kinds]
)
def test_roles_match_within_two_percent(model: str, kind: str, match: str) -> None:
    for role in roles_of(model, kind):
        for basis in ("bspline", "rational", "chebyshev", "none"):
            matched = plan_of(model, (role,), kind, basis, match, "network", **roomy(model))
            ratios = {
                "params": matched.params / matched.twin_params,
                "flops": matched.flops / matched.twin_flops,
            }
            assert ratios[match] == pytest.approx(1.0, abs=0.02), (role, basis)


CASES = [(model, kind) for model in MODELS for kind in cls_of(model).kinds]


@pytest.mark.parametrize(("model", "kind"), CASES)
def test_a_plan_promises_what_is_built(model: str, kind: str) -> None:
    """Layers are not built for planning: the costs are those of the network that is."""
    known = registry.options("model", model)
    for basis, roles in product(("bspline", "rational", "chebyshev"), ("all", ())):
        if basis != "bspline" and not roles:
            continue  # the twin again: without KAN roles there is no basis
        for width in (24, 40) if "width" in known else (None,):
            options = {} if width is None else {"width": width}
            made = plan_of(model, roles, kind, basis, **options)
            assert made.cost == count_cost(made.build(0), SHAPES[kind]), (basis, roles, width)


@pytest.mark.parametrize("model", ["mlp", "convnet", "mixer"])
def test_a_plan_counts_layers_that_normalise_their_inputs(model: str) -> None:
    factory = dataclasses.replace(
        build_layers(registry.options("layers", "kan_activated"), "rbf"), squash="layer"
    )
    shape = SHAPES[main_kind(model)]
    made = build_plan(registry.options("model", model), factory, shape, 10, name=model)
    assert made.cost == count_cost(made.build(0), shape)


@pytest.mark.parametrize("basis", BASES)
def test_sparse_flops_leave_out_products_with_zeros(basis: str) -> None:
    x = torch.linspace(-4, 4, 501).unsqueeze(-1).expand(-1, 7)
    for layer, shape in (
        (KANLinear(7, 5, basis=basis), (7,)),
        (KANConv2d(7, 5, 3, basis=basis), (7, 8, 8)),
    ):
        with torch.no_grad():
            used = (layer.expansion.basis(x) != 0).sum(0).max()
        cost = count_cost(layer, shape)
        functions = layer.expansion.basis.num_functions
        places = 36 * 9 if len(shape) > 1 else 1
        assert cost.flops - cost.flops_sparse <= 2 * places * 7 * 5 * (functions - used)
        if basis in ("bspline", "piecewise_linear", "bspline_prelu"):
            assert cost.flops - cost.flops_sparse == 2 * places * 7 * 5 * (functions - used)


@pytest.mark.parametrize("layers", ["kan", "kan_activated"])
@pytest.mark.parametrize("model", SIZED)
def test_sizes_inside_the_roles_are_solved_and_the_trunk_is_kept(model: str, layers: str) -> None:
    cls = cls_of(model)
    made = plan(model, "bspline", "params", layers, "roles")
    inner = cls.inner_sizes(made.kan_roles, made.twin.options)
    changed = {name for name, value in made.options.items() if made.twin.options[name] != value}
    if inner is None or made.solved.trunk_changed:
        network = plan(model, "bspline", "params", layers, "network")
        assert made.options == network.options
        assert (inner is None) != bool(made.solved.trunk_changed)
        return
    assert changed <= set(inner)
    assert cls.coarse not in changed
    # Nothing nearer lies beside it.
    error = abs(math.log(made.params / made.twin_params))
    for name in inner:
        size = made.options[name]
        step = cls.step_of(name, made.options) if isinstance(size, int) else 1e-3
        for value in (size - step, size + step):
            beside = {**made.options, name: value} if value > 0 else made.options
            cost = made.shape.cost(made.layers, beside)
            assert error <= max(CLOSE, abs(math.log(cost.params / made.twin_params))) + 1e-9


def test_widths_that_are_listed_are_shown() -> None:
    assert plan("mlp", "bspline", "none", widths=[12, 13]).sizes == "widths 12 13"


@pytest.mark.parametrize("model", SIZED)
def test_at_equal_width_and_by_grid_all_sizes_are_kept(model: str) -> None:
    wide = plan_of(model, "all", match="width")
    assert wide.options == wide.twin.options
    assert wide.params > wide.twin_params
    basis = get_basis("bspline", grid_size=20)
    roles = cls_of(model).activated
    made = plan_of(model, roles, basis=basis, match="params", by="grid")
    assert made.options == made.twin.options
    least = plan_of(model, roles, basis=get_basis("bspline", grid_size=1))
    assert made.params == least.params >= made.twin_params  # what is nearest to the budget


def test_the_number_of_functions_is_what_a_budget_allows() -> None:
    node = registry.options("model", "mlp")
    factory = build_layers(registry.options("layers", "kan"), get_basis("chebyshev", degree=9))

    def made(amount: int) -> ModelPlan:
        return build_plan(node, factory, (1, 8, 8), 10, Budget("params", by="grid", amount=amount))

    found = made(400_000)
    degree = dict(found.layers.basis.options)["degree"]
    assert found.sizes.endswith(f"degree 9 -> {degree}")
    assert found.params <= 400_000 < made(500_000).params
    assert made(10**7).params > made(500_000).params


def test_the_trunk_of_transformers_stays() -> None:
    made = plan("vit", "bspline", "params", scope="roles", depth=2)
    net: Any = made.build(0)
    assert (net.stem.out_features, net.blocks[0].attn.heads) == (64, 4)
    assert made.sizes == "width 64 -> 64, heads 4, attn 64 -> 8, ffn 256 -> 21"
    ffn = plan("vit", "bspline", "params", "kan_ffn", "roles", depth=2)
    assert ffn.sizes == "width 64 -> 64, heads 4, ffn 256 -> 29"
    assert ffn.layers == plan("vit", "bspline", "params", "kan_activated", "roles").layers
    assert ffn.params / ffn.twin_params == pytest.approx(1, abs=0.01)


def test_an_mlp_with_activated_roles_keeps_an_ordinary_stem() -> None:
    made = plan("mlp", "bspline", "params", "kan_activated", "roles", shape=(1, 28, 28))
    net: Any = made.build(0)
    twin: Any = plan("mlp", "bspline", "params", "mlp", shape=(1, 28, 28)).build(0)
    assert net.stem.weight.shape == twin.stem.weight.shape
    assert made.kan_roles == ("hidden", "head")
    assert made.params / made.twin_params == pytest.approx(1, abs=0.01)
    assert count_params(net) == made.params


def test_activated_roles_are_those_with_an_activation(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, set[bool]] = {}

    def recorded(self: Any, role: str, activate: bool) -> dict[str, Any]:
        asked.setdefault(role, set()).add(activate)
        return plain(self, role, activate)

    plain = LayerFactory._options
    monkeypatch.setattr(LayerFactory, "_options", recorded)
    for model in MODELS:
        asked.clear()
        plan_of(model, ()).build()
        declared = set(cls_of(model).activated)
        assert {role for role, kinds in asked.items() if True in kinds} <= declared <= set(asked)
        assert bool(declared) == bool(cls_of(model).coarse)  # all but the linear models
    with pytest.raises(ValueError, match="no activated roles"):
        plan_of("linear", "activated")


def test_a_quadratic_is_any_cost_of_products_of_two_sizes() -> None:
    def cost(sizes: dict[str, int]) -> int:
        a, b, c = sizes.values()
        return 3 + 5 * a + 2 * a * b + 7 * b * c + 4 * c * c + c + a * a

    guess = Quadratic(cost, ("a", "b", "c"), (4, 1, 2))
    for sizes in ({"a": 4, "b": 1, "c": 2}, {"a": 400, "b": 77, "c": 6}):
        assert guess(sizes) == cost(sizes)


def test_swiglu_has_the_weights_of_a_feed_forward_part() -> None:
    for model, kind in (("vit", "image"), ("gpt", "tokens")):
        plain, gated = (plan_of(model, (), kind, ffn=ffn) for ffn in ("plain", "swiglu"))
        assert gated.params == pytest.approx(plain.params, rel=0.01)
    block = SwiGLU("ffn", 6, 12, LayerFactory(kan_roles=()))
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    gate, value = (
        x @ w + b
        for w, b in zip(block.fc1.weight[:, 0].chunk(2, -1), block.fc1.bias.chunk(2), strict=True)
    )
    expected = (gate * gate.sigmoid() * value) @ block.fc2.weight[:, 0] + block.fc2.bias
    torch.testing.assert_close(block(x), expected)


def test_budgets_that_cannot_be_are_refused() -> None:
    for options, hint in (
        ({"match": "widht"}, "'width'"),
        ({"scope": "role"}, "'roles'"),
        ({"by": "grids"}, "'grid'"),
        ({"match": "params", "amount": 0}, "budget"),
        ({"amount": 5}, "match=none"),
    ):
        with pytest.raises(ValueError, match=r"\w") as refusal:
            Budget(**options)
        assert hint in str(refusal.value)
    with pytest.raises(ValueError, match="no size to solve"):
        plan_of("linear", "all", match="params")


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
