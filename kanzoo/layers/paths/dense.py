"""All features at once, then their product; autograd keeps what it needs."""

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from kanzoo import kernels
from kanzoo.layers.paths.base import ConvOptions, Path, Request
from kanzoo.layers.paths.gpu import TritonRational

CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED: dict[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d}


class Dense(Path):
    """The definition."""

    name = "dense"
    rank = 90
    operators: ClassVar[tuple[str, ...]] = ("linear", "conv", "values")
    backends: ClassVar[tuple[str, ...]] = ("dense", "blocked")
    uses_values = True

    def can(self, request: Request) -> str | None:
        return None

    def run(self, request: Request) -> Tensor:
        if request.operator == "linear":
            multiply = products if request.x.is_cpu else product
            return multiply(request.expansion(request.x), request.weight, request.bias)
        if request.operator == "values":
            values: Tensor = request.expansion.basis(request.x)
            return values
        margins, options = request.margins()
        pixels = request.x if margins is None else kernels.pad(request.x, margins)
        return convolve(request, request.features_of()(pixels), request.bias, options)


class Plain(Dense):
    """The definition of what is an ordinary layer, or has no numbers: whatever the backend.

    Autograd keeps the input and the values of its function; of a trained function without a kernel
    it would keep much more.
    """

    name = "plain"
    rank = 0
    operators = ("linear", "conv")
    backends = ()

    def can(self, request: Request) -> str | None:
        expansion, x = request.expansion, request.x
        named = request.backend not in ("auto", "blocked")
        if expansion.num_functions > 1 and not (x.is_meta and named):
            return "several functions a channel"
        if request.backend == "blocked":
            return "keeps more than the input"
        if named or x.is_cpu or next(expansion.parameters(), None) is None:
            return None
        values = expansion.values_request(x)
        has_kernel = values is not None and TritonRational().can(values) is None
        return None if has_kernel else "keeps more than the input, of a trained function"

    def run(self, request: Request) -> Tensor:
        expansion = request.expansion
        margins = None if request.options is None else request.margins()[0]
        if margins is None or expansion.num_functions > 1 or not expansion.keeps_zero:
            return super().run(request)
        # f(x) - f(0) is zero where the operator pads, and f(0) makes a bias.
        assert request.options is not None
        groups, features = request.options.groups, request.features_of()
        zero = features(request.x.new_zeros(1, request.x.shape[1], *[1] * len(margins)))
        each = zero.view(groups, 1, -1)
        sums = request.weight.flatten(2).sum(-1).unflatten(0, (groups, -1))  # (.., O / groups, C)
        bias = (sums * each).sum(-1).flatten()
        bias = bias if request.bias is None else request.bias + bias
        return convolve(request, features(request.x) - zero, bias, request.options)


def products(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """One product a function, which copies neither side: `(K, ..., C), (C, K, O) -> (..., O)`."""
    values = values.to(weight.dtype)
    if weight.shape[1] == 1:  # views, as in an ordinary layer: no gradient is copied
        return F.linear(values.squeeze(0), weight.squeeze(1).t(), bias)
    first, *others = zip(values.unbind(), weight.unbind(1), strict=True)
    y = F.linear(first[0], first[1].t(), bias)
    for value, matrix in others:
        y = y + F.linear(value, matrix.t())
    return y


def product(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """One product over contiguous features: `(K, ..., C), (C, K, O) -> (..., O)`."""
    if weight.shape[1] == 1:
        return products(values, weight, bias)
    last = values.to(weight.dtype).movedim(0, -1).flatten(-2)  # (..., C K)
    return F.linear(last, weight.flatten(0, 1).t(), bias)


def convolve(
    request: Request, features: Tensor, bias: Tensor | None, options: ConvOptions
) -> Tensor:
    """The ordinary convolution of features `(B, C K, *S)`."""
    stride, padding, dilation, transposed, output_padding, groups = options
    weight, dims = kernels.flat_weight(request.weight, options), len(stride)
    if torch.compiler.is_compiling():  # views whose sizes are symbols have no order that is known
        features = features.contiguous()
    if not transposed:
        return CONVOLUTIONS[dims](features, weight, bias, stride, padding, dilation, groups)
    extra = (output_padding, groups, dilation)
    return TRANSPOSED[dims](features, weight, bias, stride, padding, *extra)
