"""Architectures, how they are built at a budget, and networks on disk."""

from kanzoo.layers.parameters import count_params
from kanzoo.models.base import Architecture
from kanzoo.models.build import ModelPlan, create_model, list_bases, list_models
from kanzoo.models.cost import count_flops
from kanzoo.models.weights import load, save

__all__ = [
    "Architecture",
    "ModelPlan",
    "count_flops",
    "count_params",
    "create_model",
    "list_bases",
    "list_models",
    "load",
    "save",
]
