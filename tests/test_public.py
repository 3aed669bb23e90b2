"""What users see of the package: names, documentation, representations, messages."""

import inspect
import pydoc
import re
from collections.abc import Callable

import pytest
from samples import points
from torch import nn

import kanzoo
from kanzoo import interpret, registry
from kanzoo.bases.activation import ACTIVATIONS
from kanzoo.bases.spline import BSpline
from kanzoo.data.sequence import SequentialDigits
from kanzoo.estimators.dynamics import KANDynamics
from kanzoo.layers.dispatch import BACKENDS
from kanzoo.layers.expansion import INITS
from kanzoo.layers.squash import SQUASHES
from kanzoo.models.mlp import MLP
from kanzoo.training.objective import Classification

LAYERS = [
    kanzoo.KANLinear,
    kanzoo.KANConv1d,
    kanzoo.KANConv2d,
    kanzoo.KANConv3d,
    kanzoo.KANConvTranspose1d,
    kanzoo.KANConvTranspose2d,
]
DOCUMENTED = [
    kanzoo.KANLinear,
    kanzoo.KANConv2d,
    kanzoo.create_model,
    kanzoo.KANRegressor,
    kanzoo.KANClassifier,
]


def test_the_public_names_are_listed_and_there() -> None:
    assert dir(kanzoo) == sorted(kanzoo.__all__)
    for name in kanzoo.__all__:
        assert getattr(kanzoo, name) is not None
    for room in ("layers", "models", "data", "interpret"):
        module = __import__(f"kanzoo.{room}", fromlist=[room])
        assert module.__all__ == sorted(module.__all__, key=str)
        assert all(hasattr(module, name) for name in module.__all__)


@pytest.mark.parametrize("public", DOCUMENTED, ids=lambda public: public.__name__)
def test_every_parameter_is_documented(public: object) -> None:
    text = pydoc.render_doc(public)
    assert "Parameters\n" in text.replace("\x08", "")
    document = inspect.getdoc(public) or ""
    section = document.split("Parameters\n----------")[1]
    described = set(re.findall(r"\w+", " ".join(re.findall(r"^[\w*, ]+ :", section, re.M))))
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    parameters = inspect.signature(public).parameters.values()  # type: ignore[arg-type]
    assert {p.name for p in parameters if p.kind not in kinds} <= described


def test_help_of_layers_names_the_allowed_values() -> None:
    for layer in (kanzoo.KANLinear, kanzoo.KANConv2d):
        text = inspect.getdoc(layer) or ""
        for names in (ACTIVATIONS, SQUASHES, INITS, BACKENDS):
            assert all(f'"{name}"' in text for name in names)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.__name__)
def test_options_of_a_basis_are_pointed_to_the_basis(layer: type[nn.Module]) -> None:
    sizes = (8, 4) if layer is kanzoo.KANLinear else (8, 4, 3)
    with pytest.raises(ValueError, match=r"basis=kanzoo.get_basis\('bspline', grid_size=10\)"):
        layer(*sizes, grid_size=10)
    with pytest.raises(ValueError, match=r"basis=kanzoo.get_basis\('bspline', grid_size=10\)"):
        layer(*sizes, gridsize=10)
    with pytest.raises(ValueError, match="did you mean 'backend'"):
        layer(*sizes, backnd="auto")


def test_misspelt_options_of_replacements_change_nothing() -> None:
    net = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(ValueError, match=r"get_basis\('rbf', grid_size=10\)"):
        kanzoo.kanify(net, "*", basis="rbf", gridsize=10)
    with pytest.raises(ValueError, match="did you mean 'exclude'"):
        kanzoo.kanify(net, "*", exclud="0")
    assert type(net[0]) is nn.Linear


MISSPELT: list[tuple[Callable[[], object], str]] = [
    (lambda: kanzoo.LayerFactory(kan_role="all"), "kan_roles"),
    (lambda: kanzoo.KANRegressor(hiden=3), "hidden"),
    (lambda: kanzoo.KANClassifier(class_weigth="balanced"), "class_weight"),
    (lambda: KANDynamics(methode="weak"), "method"),
    (lambda: kanzoo.create_model("mlp", widht=3), "width"),
    (lambda: kanzoo.create_model("mlp", kan_role="all"), "kan_roles"),
    (lambda: kanzoo.load("network", devise="cpu"), "device"),
    (lambda: BSpline(3, gridsize=5), "grid_size"),
    (lambda: MLP((3,), 1, kanzoo.LayerFactory(), widht=3), "width"),
    (lambda: SequentialDigits(step="rows"), "steps"),  # of the class,
    (lambda: SequentialDigits(batchsize=3), "batch_size"),  # and of what it is made of
    (lambda: Classification(label_smoothin=0.1), "label_smoothing"),
    (lambda: interpret.prune(nn.Linear(2, 1), points(3, 2), treshold=0.1), "threshold"),
]


@pytest.mark.parametrize(("call", "name"), MISSPELT)
def test_misspelt_options_name_the_nearest(call: Callable[[], object], name: str) -> None:
    with pytest.raises(ValueError, match=f"unknown option of .*did you mean '{name}'") as refusal:
        call()
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", registry.names("basis"))
def test_a_representation_shows_the_options_of_the_basis(name: str) -> None:
    basis = kanzoo.get_basis(name)
    text = repr(kanzoo.KANLinear(3, 2, basis=basis))
    assert f"basis={name!r}" in text
    assert all(f"{key}={value!r}" in text for key, value in basis.options)
