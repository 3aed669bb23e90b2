"""What a KAN layer asks for, and the contract of a path that computes it.

Axes: B batch, C input channels, O output channels, K functions a channel (the residual branch
last), S the pixels in any dimensions.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from kanzoo import kernels

if TYPE_CHECKING:
    from kanzoo.layers.expansion import Expansion

SMALL = 3 * 2**14  # features of a batch below which recomputing costs more than it saves


class ConvOptions(NamedTuple):
    """Options of a convolution, a number a dimension, in the order of `aten.convolution`."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    groups: int


@dataclass(slots=True, eq=False)
class Request:
    """What is to be computed of which tensors.

    Operators: "linear", x `(..., C)` and weight `(C, K, O)`; "conv", x `(B, C, *S)` and weight
    `(O, C / groups, K, *kernel)`, or `(C, K, O / groups, *kernel)` if transposed; and "values", the
    functions of the basis alone, x `(..., C)`, where a family has tables for them.
    """

    operator: str
    expansion: "Expansion"
    x: Tensor
    weight: Tensor
    bias: Tensor | None
    backend: str = "auto"
    options: ConvOptions | None = None

    def features_of(self) -> "partial[Tensor]":
        """A function of pixels: see `channel_features`."""
        assert self.options is not None
        return partial(
            channel_features, self.expansion, self.weight.dtype, groups=self.options.groups
        )

    def margins(self) -> tuple[Sequence[int] | None, ConvOptions]:
        """Zeros around the pixels that must go through the functions, and the other options.

        None where the operator's own padding is phi(0), as it should.
        """
        options = self.options
        assert options is not None
        padding = options.padding
        if options.transposed or self.expansion.zero_at_zero or not any(padding):
            return None, options
        return padding, options._replace(padding=(0,) * len(padding))

    def trained(self) -> list[Tensor]:
        """Parameters of the functions that want gradients."""
        return [p for p in self.expansion.parameters() if p.requires_grad]

    def as_dense(self, y: Tensor) -> Tensor:
        """The output in the dtype that the dense path has: autocast's, or else the weight's."""
        return y.to(kernels.product_dtype(self.weight))


class Path(ABC):
    """One way to compute some operators; the first that can, by rank, does.

    `backends` are the values of a layer's `backend` that stand for it beside "auto"; all if empty.
    """

    name: ClassVar[str]
    rank: ClassVar[int]
    operators: ClassVar[tuple[str, ...]]
    backends: ClassVar[tuple[str, ...]] = ()
    uses_values: ClassVar[bool] = False  # whether functions are evaluated by `Expansion.forward`

    @abstractmethod
    def can(self, request: Request) -> str | None:
        """None if it can compute the request, and under "auto" should; else why not."""

    @abstractmethod
    def run(self, request: Request) -> Tensor:
        """The output."""


def channel_features(
    expansion: "Expansion", dtype: torch.dtype, pixels: Tensor, groups: int = 1
) -> Tensor:
    """Functions of all pixels as channels: `(B, C, *S) -> (B, K C, *S)`.

    Functions come before the channels of a group: what is copied are rows of channels.
    """
    single = expansion.num_functions == 1  # keeps the order in memory: no copies
    last = pixels.movedim(1, -1)
    values: Tensor = expansion(last if single else last.contiguous())  # (K, B, *S, C)
    grouped = values.to(dtype).unflatten(-1, (groups, -1)).movedim(0, -2)  # (B, *S, G, K, C / G)
    return grouped.flatten(-3).movedim(-1, 1)


def not_recomputed(request: Request) -> str | None:
    """Why features should not be computed again in the backward, if "auto" has the choice."""
    if request.backend != "auto":
        return None
    x, weight = request.x, request.weight
    if not x.is_cpu:
        return None
    if is_small(request):
        return "few features"
    if not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)):
        return "no gradients"
    return None


def is_small(request: Request) -> bool:
    """Whether a batch has so few features that nothing is gained by not keeping them."""
    return request.x.numel() * request.expansion.num_functions < SMALL


def is_traced() -> bool:
    """Whether torch.compile or torch.export reads the program: sizes must not be asked for."""
    return torch.compiler.is_compiling() or torch.compiler.is_exporting()


def is_transformed() -> bool:
    """Whether torch.func transforms or forward-mode gradients are at work."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def missing(library: str, order: int | None, real: str) -> str | None:
    """Why a compiled library cannot be had, None if it can; builds it at the first call."""
    reason = kernels.unavailable_reason(library, order, real)
    return None if reason is None else reason.splitlines()[0]


# What torch.compiler.assume_constant_result does, without importing the compiler at every start.
missing._dynamo_marked_constant = True  # type: ignore[attr-defined]
