"""Any basis in PyTorch's operations, computed again in the backward: only inputs are kept."""

import torch
from torch import Tensor

from kanzoo import kernels
from kanzoo.bases.activation import ACTIVATIONS
from kanzoo.kernels.native.call import REALS
from kanzoo.layers.paths.base import Path, Request, is_traced, is_transformed, not_recomputed
from kanzoo.layers.paths.families import function_conv
from kanzoo.layers.paths.native import rational_tables, spline_inputs, spline_options

SMALL_VALUES = 2**14  # numbers below which PyTorch's own graph is faster than a block


class Generic(Path):
    """What linear layers and convolutions share."""

    name = "generic"
    rank = 60
    backends = ("blocked",)

    def can(self, request: Request) -> str | None:
        if is_transformed():
            return "a transform of torch.func"
        return not_recomputed(request)


class GenericLinear(Generic):
    """A block of features at a time."""

    operators = ("linear",)

    def can(self, request: Request) -> str | None:
        if not request.expansion.squash_is_elementwise:
            return "the squash looks at other features or rows"
        return super().can(request)

    def run(self, request: Request) -> Tensor:
        expansion, x = request.expansion, request.expansion.wide(request.x)
        trained = request.trained()
        y = kernels.blocked_linear(expansion.on_features, x, request.weight, trained)
        return request.as_dense(y if request.bias is None else y + request.bias)


class GenericConv(Generic):
    """All images at once."""

    operators = ("conv",)
    uses_values = True

    def can(self, request: Request) -> str | None:
        if request.expansion.squash == "batch":
            return "statistics over the batch would be updated again"
        return super().can(request)

    def run(self, request: Request) -> Tensor:
        margins, options = request.margins()
        pixels = request.x if margins is None else kernels.pad(request.x, margins)
        y = kernels.recomputed_conv(
            request.features_of(),
            pixels,
            request.flat_weight(),
            request.trained(),
            **options._asdict(),
        )
        bias = request.bias
        y = y if bias is None else y + bias.view(-1, *[1] * len(options.stride))
        return request.as_dense(y)


class BlockedSplineLinear(GenericLinear):
    """The non-zero B-splines of a block of features, scattered."""

    name = "generic splines"
    rank = 50

    def can(self, request: Request) -> str | None:
        expansion = request.expansion
        splines = expansion.basis.splines()
        if splines is None or (splines.beside is not None and expansion.residual is not None):
            return "not B-splines and one more function"
        return super().can(request)

    def run(self, request: Request) -> Tensor:
        x, weight = request.expansion.wide(request.x), request.weight
        inputs, beside = spline_inputs(request, x)
        options = spline_options(request, x)
        y = kernels.blocked_spline_linear(inputs, weight.to(x.dtype), beside, *options)
        return request.as_dense(y if request.bias is None else y + request.bias)


class BlockedSplineConv(GenericConv):
    """B-splines of a block of images."""

    name = "generic splines"
    rank = 50

    def can(self, request: Request) -> str | None:
        expansion, options = request.expansion, request.options
        splines = expansion.basis.splines()
        assert options is not None
        if splines is None or splines.beside is not None or not expansion.squash_is_elementwise:
            return "not B-splines and a residual branch"
        if options.groups > 1 and splines.knots.dim() > 1:
            return "groups of channels with knots of their own"
        x = expansion.wide(request.x)
        if x.dtype != request.weight.dtype or torch.is_autocast_enabled("cpu"):
            return "autocast, or a weight of another dtype"
        return super().can(request) or ("no pixels" if x.numel() == 0 else None)

    def run(self, request: Request) -> Tensor:
        expansion, x = request.expansion, request.expansion.wide(request.x)
        squash = None if expansion.squash == "none" else expansion.squasher
        residual = None if expansion.residual is None else ACTIVATIONS[expansion.residual]
        options = spline_options(request, x)
        return function_conv(request, kernels.SplinePlan.of(*options, squash, residual))


class BlockedRational(Path):
    """Rational functions, a block at a time."""

    name = "generic"
    rank = 60
    operators = ("values",)

    def can(self, request: Request) -> str | None:
        x, family = request.x, request.expansion.basis.family()
        if family is None or family.name != "rational":
            return "no rational functions"
        if not x.is_cpu or x.dtype not in REALS:
            return "not float32 or float64 on the CPU"
        if is_traced() or is_transformed():
            return "traced by torch.compile or torch.export, or a transform of torch.func"
        return "few values" if x.numel() < SMALL_VALUES or x.dim() < 2 else None

    def run(self, request: Request) -> Tensor:
        return kernels.blocked_rational(request.x, *rational_tables(request)).unsqueeze(0)
