"""Networks that no memory holds are refused in one line, before anything is allocated."""

from typing import Any

import pytest
from conftest import compose

from kanzoo.bases.base import get_basis
from kanzoo.layers import KANConv2d, KANLinear
from kanzoo.layers.memory import available_memory, check_memory
from kanzoo.models.build import create_model
from kanzoo.run.prepare import prepare


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mlp", {"width": 99999999999}),
        ("mlp", {"width": 10**7, "match": "params"}),
        ("mlp", {"taper": 1e7}),
        ("mlp", {"depth": 10**9}),
        ("vit", {"depth": 10**9}),
        ("resnet", {"width": 10**11, "layers": "mlp"}),
    ],
)
def test_sizes_that_do_not_fit(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"memory") as refusal:
        create_model(name, **options)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["bspline", "chebyshev", "rbf", "fourier"])
def test_bases_of_too_many_functions(name: str) -> None:
    key = "degree" if name == "chebyshev" else "grid_size"
    with pytest.raises(ValueError, match=rf"{key}=1000000000 is above 10000"):
        get_basis(name, **{key: 10**9})


def test_training_needs_more_than_weights() -> None:
    params = available_memory() // 8  # twice as many would not fit
    check_memory(params)
    with pytest.raises(ValueError, match="gradients and two moments"):
        check_memory(params, training=True)
    with pytest.raises(ValueError, match=r"GiB are free"):
        prepare(compose("train", ["model=mlp", "model.taper=1e7"]))


def test_layers_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"weights \(10000000, 9, 10000000\) need .* GiB .* free"):
        KANLinear(10**7, 10**7)
    with pytest.raises(ValueError, match="GiB are free"):
        KANConv2d(10**6, 10**6, 3)
    assert KANLinear(10**7, 10**7, device="meta").weight.is_meta
