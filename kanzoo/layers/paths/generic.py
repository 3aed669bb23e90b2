"""Any basis in PyTorch's operations, computed again in the backward: only inputs are kept."""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from kanzoo import kernels
from kanzoo.layers.paths.base import Path, Request, is_traced, is_transformed, not_recomputed
from kanzoo.layers.paths.dense import Dense


class Generic(Path):
    """What linear layers and convolutions share."""

    name = "generic"
    rank = 60
    backends = ("blocked",)

    def can(self, request: Request) -> str | None:
        if is_transformed():
            return "a transform of torch.func"
        if is_traced():
            return "traced by torch.compile or torch.export"
        return not_recomputed(request)


class GenericLinear(Generic):
    """A block of features at a time."""

    operators = ("linear",)

    def can(self, request: Request) -> str | None:
        if not request.expansion.squash_is_elementwise:
            return "the squash looks at other features or rows"
        return super().can(request) or (None if request.x.is_cpu else "not on the CPU")

    def run(self, request: Request) -> Tensor:
        expansion, x = request.expansion, request.expansion.wide(request.x)
        trained = request.trained()
        y = kernels.blocked_linear(expansion.on_features, x, request.weight, trained)
        return request.as_dense(y if request.bias is None else y + request.bias)


class ProductLinear(Generic):
    """One product over contiguous features."""

    name = "one product"
    rank = 62
    operators = ("linear",)
    uses_values = True

    def can(self, request: Request) -> str | None:
        if request.expansion.squash == "batch":
            return "statistics over the batch would be updated again"
        return super().can(request) or ("on the CPU" if request.x.is_cpu else None)

    def run(self, request: Request) -> Tensor:
        arguments = (request.expansion, request.x, request.weight, request.trained())
        y = kernels.product_linear(*arguments)
        return y if request.bias is None else y + request.bias.to(y.dtype)


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
        features = request.features_of()

        def padded(x: Tensor) -> Tensor:
            return features(x if margins is None else kernels.pad(x, margins))

        y = kernels.recomputed_conv(
            padded,
            request.x,
            request.weight,
            request.trained(),
            **options._asdict(),
        )
        bias = request.bias
        y = y if bias is None else y + bias.to(y.dtype).view(-1, *[1] * len(options.stride))
        return request.as_dense(y)


class Traced(Dense):
    """The definition in compiled programs, which compute it again in their backward."""

    name = "traced"
    rank = 64
    operators = ("linear", "conv")
    backends = ("blocked",)

    def can(self, request: Request) -> str | None:
        if not torch.compiler.is_compiling() or torch.compiler.is_exporting():
            return "not traced by torch.compile"
        if request.expansion.squash == "batch":
            return "statistics over the batch would be updated again"
        if not torch.is_grad_enabled():
            return "no gradients"
        faster = request.backend == "auto" and request.x.is_cpu
        return "on the CPU features are kept, which is faster" if faster else None

    def run(self, request: Request) -> Tensor:
        y: Tensor = checkpoint(super().run, request, use_reentrant=False)
        return y
