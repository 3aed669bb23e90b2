"""Kolmogorov-Arnold networks and their MLP twins, built once and compared fairly."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kanzoo import zoo
    from kanzoo.bases.base import get_basis
    from kanzoo.estimators.classifier import KANClassifier
    from kanzoo.estimators.regressor import KANRegressor
    from kanzoo.layers import (
        KANConv1d,
        KANConv2d,
        KANConv3d,
        KANConvTranspose1d,
        KANConvTranspose2d,
        KANLinear,
    )
    from kanzoo.layers.factory import LayerFactory
    from kanzoo.layers.kanify import kanify
    from kanzoo.layers.kanify_report import kanify_report
    from kanzoo.models.build import create_model, list_bases, list_models
    from kanzoo.models.weights import load, save

try:
    __version__ = version("kanzoo")
except PackageNotFoundError:  # imported from a checkout that is not installed
    __version__ = "0.0.0"

# Imported at first use, so that the command line can refuse a typo before PyTorch is loaded.
_HOMES = {
    "KANClassifier": "kanzoo.estimators.classifier",
    "KANConv1d": "kanzoo.layers",
    "KANConv2d": "kanzoo.layers",
    "KANConv3d": "kanzoo.layers",
    "KANConvTranspose1d": "kanzoo.layers",
    "KANConvTranspose2d": "kanzoo.layers",
    "KANLinear": "kanzoo.layers",
    "KANRegressor": "kanzoo.estimators.regressor",
    "LayerFactory": "kanzoo.layers.factory",
    "create_model": "kanzoo.models.build",
    "get_basis": "kanzoo.bases.base",
    "kanify": "kanzoo.layers.kanify",
    "kanify_report": "kanzoo.layers.kanify_report",
    "list_bases": "kanzoo.models.build",
    "list_models": "kanzoo.models.build",
    "load": "kanzoo.models.weights",
    "save": "kanzoo.models.weights",
}

__all__ = [
    "KANClassifier",
    "KANConv1d",
    "KANConv2d",
    "KANConv3d",
    "KANConvTranspose1d",
    "KANConvTranspose2d",
    "KANLinear",
    "KANRegressor",
    "LayerFactory",
    "__version__",
    "create_model",
    "get_basis",
    "kanify",
    "kanify_report",
    "list_bases",
    "list_models",
    "load",
    "save",
    "zoo",
]


def __getattr__(name: str) -> Any:
    if name == "zoo":
        return import_module("kanzoo.zoo")
    if name not in _HOMES:
        raise AttributeError(f"module 'kanzoo' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
