"""Families of functions by a compiled kernel, a block at a time, computed again in the backward."""

import torch
from torch import Tensor

from kanzoo import kernels
from kanzoo.kernels.families.linear import Plan
from kanzoo.kernels.native.call import REALS
from kanzoo.kernels.native.enumerations import FAMILIES, RESIDUALS, SQUASHES
from kanzoo.layers.paths.base import Path, Request, is_small, is_traced, is_transformed, missing


class Families(Path):
    """What linear layers and convolutions of function families share."""

    name = "families"
    rank = 30
    backends = ("compiled",)

    def can(self, request: Request) -> str | None:
        expansion = request.expansion
        if is_traced() or is_transformed():
            return "traced by torch.compile or torch.export, or a transform of torch.func"
        if request.backend == "auto" and is_small(request):
            return "few features"
        if expansion.squash not in SQUASHES or expansion.residual not in RESIDUALS:
            return "no compiled code for the squash or the residual branch"
        if expansion.basis.num_functions < 2:
            return "a single function"
        x = expansion.wide(request.x)
        if not x.is_cpu or x.dtype not in REALS or x.dtype != request.weight.dtype:
            return "not tensors of one dtype, float32 or float64, on the CPU"
        family = expansion.basis.family()
        if family is None or family.name not in FAMILIES:
            return "no family of functions that compiled code knows"
        return missing("functions", None, REALS[x.dtype])


class FamiliesLinear(Families):
    """Blocks of rows and columns."""

    operators = ("linear",)

    def run(self, request: Request) -> Tensor:
        expansion, x = request.expansion, request.expansion.wide(request.x)
        arguments = (x, request.weight, request.bias, request.trained())
        return request.as_dense(
            kernels.function_linear(plan_of(request), expansion.on_features, *arguments)
        )


class FamiliesConv(Families):
    """Blocks of images."""

    operators = ("conv",)

    def can(self, request: Request) -> str | None:
        return "autocast" if torch.is_autocast_enabled("cpu") else super().can(request)

    def run(self, request: Request) -> Tensor:
        margins, options = request.margins()
        return kernels.function_conv(
            plan_of(request),
            request.features_of(),
            request.expansion.wide(request.x),
            request.weight,
            request.bias,
            request.trained(),
            margins or (0,) * len(options.stride),
            options,
        )


def plan_of(request: Request) -> Plan:
    """What the kernel needs to know."""
    expansion = request.expansion
    return Plan(expansion.basis.family, expansion.squash, expansion.residual)
