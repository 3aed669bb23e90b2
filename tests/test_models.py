"""Every architecture of conf/model, as MLP twin, as KAN, and with each of its roles alone KAN."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from zoo import (
    MODELS,
    ON_IMAGES,
    SHAPES,
    check_batch_mates,
    check_causality,
    check_gradients,
    choices_of_roles,
    cls_of,
    inputs,
    is_kan,
    layers_of,
    make,
    out_shape,
    plan,
    roles_of,
)

import kanzoo
from kanzoo import registry
from kanzoo.data.base import KINDS
from kanzoo.layers import KANLayer
from kanzoo.layers.factory import LayerFactory
from kanzoo.models.build import build_layers, build_plan
from kanzoo.training.optim import param_groups

KIND_CASES = [
    (name, kind, roles)
    for name in MODELS
    for kind in cls_of(name).kinds
    for roles in choices_of_roles(name, kind)
]
CASES = [(name, roles) for name in MODELS for roles in ((), "all")]


@pytest.mark.parametrize(("name", "kind", "roles"), KIND_CASES)
def test_every_parameter_learns(name: str, kind: str, roles: Any) -> None:
    net = make(name, roles, kind)
    assert net.takes_tokens == (kind == "tokens")
    out = net(inputs(kind))
    assert out.shape == out_shape(kind)
    check_gradients(net, out)


@pytest.mark.parametrize(("name", "kind", "roles"), [c for c in KIND_CASES if c[2] in ((), "all")])
def test_a_sample_does_not_depend_on_its_batch_mates(name: str, kind: str, roles: Any) -> None:
    net = make(name, roles, kind)
    check_batch_mates(net, inputs(kind))
    if hasattr(net, "every_position"):
        check_causality(net, inputs(kind))


def test_every_kind_of_data_has_a_model() -> None:
    assert {kind for name in MODELS for kind in cls_of(name).kinds} == set(KINDS) == set(SHAPES)


@pytest.mark.parametrize("name", MODELS)
def test_declared_roles_are_those_asked_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: set[str] = set()
    for method in ("linear", "conv"):
        plain = getattr(LayerFactory, method)

        def recorded(self: Any, role: str, *args: Any, _plain: Any = plain, **kw: Any) -> Any:
            asked.add(role)
            return _plain(self, role, *args, **kw)

        monkeypatch.setattr(LayerFactory, method, recorded)
    make(name, "all")
    assert asked == set(cls_of(name).roles)
    assert len(cls_of(name).roles) == len(asked)


@pytest.mark.parametrize("name", MODELS)
def test_a_role_alone_changes_its_layers_alone(name: str) -> None:
    twin = layers_of(make(name, ()))
    whole = layers_of(make(name, "all"))
    assert not any(is_kan(layer) for layer in twin.values())
    assert all(is_kan(layer) for layer in whole.values())
    assert list(twin) == list(whole)
    found = [
        {key for key, layer in layers_of(make(name, (role,))).items() if is_kan(layer)}
        for role in cls_of(name).roles
    ]
    assert all(found)  # every role has a layer, every layer one role
    assert sum(len(keys) for keys in found) == len(set().union(*found)) == len(twin)


@pytest.mark.parametrize("name", MODELS)
def test_twins_differ_in_their_layers_alone(name: str) -> None:
    twin, kan = make(name, ()), make(name, "all")
    inside = tuple(f"{key}." for key in layers_of(kan))

    def rest(net: nn.Module) -> list[tuple[str, str]]:
        return [
            (key, repr(m))
            for key, m in net.named_modules()
            if not key.startswith(inside) and not list(m.children()) and not isinstance(m, KANLayer)
        ]

    assert rest(twin) == rest(kan)
    sides = [
        (layer.in_features, layer.out_features, layer.bias is None)
        for layer in layers_of(twin).values()
    ]
    assert sides == [
        (layer.in_features, layer.out_features, layer.bias is None)
        for layer in layers_of(kan).values()
    ]
    # Both draw their layers by the same scheme.
    assert {layer.init for layer in layers_of(twin).values()} == {
        layer.init for layer in layers_of(kan).values()
    }


@pytest.mark.parametrize(("name", "roles"), CASES)
def test_weights_depend_on_the_seed_alone(name: str, roles: Any) -> None:
    torch.manual_seed(3)
    first = make(name, roles, seed=0)
    before = torch.get_rng_state()
    torch.manual_seed(4)
    torch.rand(5)
    state = torch.get_rng_state()
    again = make(name, roles, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(3)
    assert torch.equal(torch.get_rng_state(), before)
    other = make(name, roles, seed=1)
    for (key, p), q, r in zip(
        first.named_parameters(), again.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(p, q), key
        if key.endswith("weight") and p.dim() > 1:
            assert not torch.equal(p, r), key


def test_without_a_seed_the_global_generator_decides() -> None:
    torch.manual_seed(0)
    first = make("mlp", "all", seed=None)
    second = make("mlp", "all", seed=None)
    assert not torch.equal(first.head.weight, second.head.weight)


@pytest.mark.parametrize("basis", ["bspline", "rbf", "chebyshev", "rational"])
@pytest.mark.parametrize("name", ON_IMAGES)
def test_built_models_keep_the_scale_of_their_inputs(name: str, basis: str) -> None:
    """Every layer of a network at its real size, on normalised inputs, is near unit variance."""
    net = kanzoo.create_model(name, basis=basis, in_shape=(1, 16, 16), num_outputs=64, seed=0)
    seen: dict[str, tuple[float, float]] = {}

    def watch(key: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            # Of a layer that is called at every step, the last.
            seen[key] = (float(inputs[0].square().mean()), float(output.var()))

        return hook

    for key, layer in layers_of(net).items():
        layer.register_forward_hook(watch(key))
    with torch.no_grad():
        net(torch.randn(32, 1, 16, 16, generator=torch.Generator().manual_seed(0)))
    assert len(seen) == len(layers_of(net))
    for key, (moment, variance) in seen.items():
        if 0.8 < moment < 1.2:  # what the initialisation assumes of the input
            assert 0.4 < variance < 2.0, (key, variance)
        assert 1e-3 < variance < 20.0, (key, variance)
    assert sum(0.8 < moment < 1.2 for moment, _ in seen.values()) >= min(2, len(seen))


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name in MODELS for kind in cls_of(name).kinds]
)
def test_the_weights_of_layers_alone_decay(name: str, kind: str) -> None:
    """Not embeddings, positions, norms, biases and what a basis trains."""
    net = make(name, "all", kind, basis="rational")
    decayed, rest = param_groups(net, 0.3)
    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.3, 0.0)
    weights = {id(layer.weight) for layer in layers_of(net).values()}
    assert {id(p) for p in decayed["params"]} == weights
    assert {id(p) for p in rest["params"]} == {id(p) for p in net.parameters()} - weights


def test_unknown_names_and_options_are_refused_with_the_nearest() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"name": "vti"}, "'vit'"),
        ({"name": "mlp", "widht": 3}, "'width'"),
        ({"name": "mlp", "basis": "bsplin"}, "'bspline'"),
        ({"name": "mlp", "layers": "kan_fn"}, "'kan_ffn'"),
        ({"name": "mlp", "kan_roles": "haed"}, "'head'"),
        ({"name": "mlp", "kan_roles": ["ffn"]}, "stem, hidden, head"),
        ({"name": "mlp", "match": "parms"}, "'params'"),
        ({"name": "rnn", "cell": "ltsm"}, "'lstm'"),
        ({"name": "gpt", "positions": "rotory"}, "'rotary'"),
        ({"name": "gpt", "in_shape": (8,), "kan_roles": ["stem"]}, "attn, ffn, head"),
    ]
    for options, hint in cases:
        with pytest.raises(ValueError, match="unknown") as refusal:
            kanzoo.create_model(**options)
        assert hint in str(refusal.value)


def test_impossible_sizes_are_refused() -> None:
    for name, options, word in [
        ("mlp", {"width": 0}, "width"),
        ("mlp", {"depth": -1}, "depth"),
        ("resnet", {"depth": 10}, "nearest"),
        ("resnet", {"in_shape": (5,)}, "images"),
        ("vit", {"heads": 3}, "heads"),
        ("vit", {"in_shape": (5,)}, "images"),
        ("vit", {"in_shape": (1, 30, 28)}, "patch_size"),
        ("mixer", {"in_shape": (1, 30, 28)}, "patch_size"),
        ("mixer", {"in_shape": (5,)}, "images"),
        ("mixer", {"token_ratio": 0.0}, "token_ratio"),
        ("mixer", {"norm": "batch"}, "norm of mixer"),
        ("convnet", {"in_shape": (5,)}, "images"),
        ("convnet", {"taper": 0.001}, "taper"),
        ("unet", {"in_shape": (1, 30, 28)}, "30 x 28"),
        ("unet", {"expansion": -1.0}, "expansion"),
        ("gpt", {"heads": 64}, "even"),
        ("gpt", {"norm": "batch"}, "norm of gpt"),
        ("gpt", {"in_shape": (1, 2, 3, 4)}, "tokens"),
        ("rnn", {"in_shape": (1, 2, 3, 4)}, "tokens"),
        ("rnn", {"stem_ratio": 0.0}, "stem_ratio"),
    ]:
        with pytest.raises(ValueError, match=word):
            kanzoo.create_model(name, **options)


@pytest.mark.parametrize(("name", "kind"), sorted({(n, k) for n, k, _ in KIND_CASES}))
def test_layers_ask_for_the_roles_that_the_architecture_declares(
    name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: set[str] = set()
    options = LayerFactory._options

    def record(self: LayerFactory, role: str, activate: bool) -> dict[str, Any]:
        asked.add(role)
        return options(self, role, activate)

    monkeypatch.setattr(LayerFactory, "_options", record)
    plan(name, "all", kind).build()
    assert asked == set(roles_of(name, kind))


def test_the_twin_has_no_kan_roles() -> None:
    twin = LayerFactory().twin()
    assert not twin.is_kan
    assert twin == dataclasses.replace(twin, kan_roles=())


def test_lists_are_the_folders() -> None:
    assert kanzoo.list_models() == MODELS
    assert "bspline" in kanzoo.list_bases()
    assert set(kanzoo.__all__) <= set(dir(kanzoo)) | set(kanzoo._HOMES)


def test_a_plan_of_another_class_is_refused() -> None:
    factory = build_layers(registry.options("layers", "kan"), "bspline")
    with pytest.raises(ValueError, match="Architecture"):
        build_plan({"_target_": "torch.nn.Linear"}, factory, (1, 8, 8), 10)
    with pytest.raises(ValueError, match="Basis"):
        build_layers(registry.options("layers", "kan"), {"_target_": "torch.nn.Linear"})
