"""Convolutions of basis functions, in any number of dimensions.

Axes: B batch, C input channels, O output channels, K functions a channel, S the pixels.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from kanzoo import kernels, registry
from kanzoo.bases.base import Basis, BasisFactory, as_factory
from kanzoo.layers.dispatch import (
    aten_options,
    check_backend,
    choose,
    conv2d,
    function_plan,
    spline_plan,
)
from kanzoo.layers.expansion import Expansion
from kanzoo.layers.layer import KANLayer, check_channels, check_sizes, weighted_sum

Sizes = int | tuple[int, ...]

CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED: dict[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d}


class ConvLayer(KANLayer):
    """What convolutions and transposed ones share: sizes, channels first, a weight with taps.

    A subclass says how many dimensions its pixels have.
    """

    dims: ClassVar[int]
    named_paddings: ClassVar[tuple[str, ...]] = ()
    padding_modes: ClassVar[tuple[str, ...]] = ("zeros",)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        basis: str | BasisFactory | type[Basis] = "bspline",
        residual: str | None = "auto",
        squash: str = "auto",
        init: str = "variance",
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_sizes(in_channels=in_channels, out_channels=out_channels, groups=groups)
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"groups={groups} must divide in_channels={in_channels} and "
                f"out_channels={out_channels}"
            )
        kernel = self._sizes("kernel_size", kernel_size, 1)
        strides = self._sizes("stride", stride, 1)
        registry.check_name("padding_mode", padding_mode, self.padding_modes)
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        expansion = Expansion(
            in_channels, as_factory(basis), residual=residual, squash=squash, **place
        )
        self._stride = strides  # the initialisation of transposed convolutions depends on it
        super().__init__(
            in_channels,
            out_channels,
            self.weight_shape(in_channels, out_channels, groups, expansion.num_functions, kernel),
            bias=bias,
            expansion=expansion,
            init=init,
            **place,
        )
        self.kernel_size = kernel
        self.stride = strides
        self.dilation = self._sizes("dilation", dilation, 1)
        self.padding = self._padding(padding)
        self.padding_mode = padding_mode
        if padding == "same" and max(strides) > 1:
            raise ValueError(f"padding 'same' needs stride 1, got {stride}")
        self.groups = groups
        check_backend(backend, expansion, type(self).__name__)
        self.backend = backend

    @staticmethod
    def weight_shape(
        channels: int, outputs: int, groups: int, functions: int, kernel: tuple[int, ...]
    ) -> tuple[int, ...]:
        """Shape of the weight."""
        raise TypeError("a convolution must say how its weight is laid out")

    @property
    def taps(self) -> int:
        return math.prod(self.weight.shape[3:])

    def _sizes(self, name: str, value: Sizes | str, least: int) -> tuple[int, ...]:
        sizes = (value,) * self.dims if isinstance(value, int) else value
        if (
            not isinstance(sizes, (tuple, list))
            or not all(isinstance(size, int) for size in sizes)
            or len(sizes) != self.dims
            or min(sizes) < least
        ):
            allowed = "a whole number" if self.dims == 1 else f"one or {self.dims} whole numbers"
            raise ValueError(f"{name} must be {allowed} from {least}, got {value!r}")
        return tuple(sizes)

    def _padding(self, padding: Sizes | str) -> tuple[int, ...] | str:
        """Padding as pixels of every dimension, or its name."""
        if not isinstance(padding, str) or not self.named_paddings:
            return self._sizes("padding", padding, 0)
        registry.check_name("padding", padding, self.named_paddings)
        return padding

    def _tap(self, tap: tuple[int, ...] | None) -> int:
        place = 0
        for index, size in zip(tap or (0,) * self.dims, self.kernel_size, strict=True):
            if not 0 <= index < size:
                raise ValueError(f"tap {tap} is outside a kernel of size {self.kernel_size}")
            place = place * size + index
        return place

    def rows(self, x: Tensor) -> Tensor:
        return super().rows(x.movedim(-1 - self.dims, -1))

    def features(self, pixels: Tensor) -> Tensor:
        """Functions of all pixels as channels, functions fastest: `(B, C, S) -> (B, C K, S)`."""
        channel = -1 - self.dims
        single = self.expansion.num_functions == 1  # keeps the order in memory: no copies
        last = pixels.movedim(channel, -1)
        values: Tensor = self.expansion(last if single else last.contiguous())
        return values.movedim(0, -1).flatten(-2).movedim(-1, channel).to(self.weight.dtype)

    def operate(
        self,
        pixels: Tensor,
        weight: Tensor,
        operator: Callable[..., Tensor],
        margins: Sequence[int] | None = None,
        **options: Any,
    ) -> Tensor:
        """The plain operator on the features of all pixels, `options` as it takes them.

        `margins` are zeros around the pixels that go through the functions as these do.
        """
        batched = pixels.dim() == self.dims + 2
        images = pixels if batched else pixels.unsqueeze(0)
        none, transposed = (0,) * self.dims, operator is TRANSPOSED.get(self.dims)
        full = {"padding": none, "output_padding": none, "transposed": transposed, **options}
        groups, weighs = options["groups"], not torch.is_autocast_enabled("cpu")
        plan: kernels.Plan | kernels.SplinePlan | None = None
        if weighs:
            plan = function_plan(self.expansion, weight, images, self.backend)
        chosen = choose(self.expansion, self.weight, images, self.backend, type(self).__name__)
        if weighs and chosen == "blocked" and plan is None:
            plan = spline_plan(self.expansion, weight, images, groups)
        parameters = [p for p in self.expansion.parameters() if p.requires_grad]
        if plan is not None:
            y = kernels.function_conv(
                plan,
                self.features,
                self.expansion.wide(images),
                weight,
                self.bias,
                parameters,
                margins or none,
                aten_options(full),
            )
            return y if batched else y.squeeze(0)
        if margins is not None:
            pixels, images = kernels.pad(pixels, margins), kernels.pad(images, margins)
        # Statistics over the batch would be updated again when the features are.
        if chosen == "dense" or self.expansion.squash == "batch":
            return operator(self.features(pixels), weight, self.bias, **options)
        y = kernels.recomputed_conv(self.features, images, weight, parameters, **full)
        y = y if self.bias is None else y + self.bias.view(-1, *[1] * self.dims)
        return y if batched else y.squeeze(0)

    def extra_repr(self) -> str:
        mode = "" if self.padding_mode == "zeros" else f", padding_mode={self.padding_mode}"
        return (
            f"{super().extra_repr()}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}{mode}"
        )


class KANConv(ConvLayer):
    """Convolution of basis functions; options as `nn.Conv2d`.

    Shapes: `(B, C, S) -> (B, O, S')`, also unbatched; weight `(O, C / groups, K, *kernel_size)`.
    Padding is pixels that go through the basis as every other: of value zero, and so phi(0) and not
    zero, unless `padding_mode` takes them from the input ("reflect", "replicate", "circular").
    """

    function_dim = 2
    named_paddings = ("valid", "same")
    padding_modes = ("zeros", "reflect", "replicate", "circular")

    @staticmethod
    def weight_shape(
        channels: int, outputs: int, groups: int, functions: int, kernel: tuple[int, ...]
    ) -> tuple[int, ...]:
        return (outputs, channels // groups, functions, *kernel)

    def rows(self, x: Tensor) -> Tensor:
        return super().rows(self.padded(x))

    @property
    def margins(self) -> tuple[tuple[int, int], ...]:
        """Pixels of padding before and after, for every dimension."""
        if not isinstance(self.padding, str):
            return tuple((size, size) for size in self.padding)
        if self.padding == "valid":
            return ((0, 0),) * self.dims
        totals = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)

    def padded(self, x: Tensor) -> Tensor:
        """The input with its padding as pixels."""
        sides = [size for pair in reversed(self.margins) for size in pair]
        if self.padding_mode == "zeros":
            return F.pad(x, sides)
        images = x if x.dim() == self.dims + 2 else x.unsqueeze(0)
        images = F.pad(images, sides, self.padding_mode)
        return images if x.dim() == self.dims + 2 else images.squeeze(0)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, -1 - self.dims, self.in_features)
        padding = tuple(before for before, _ in self.margins)
        if self.padding_mode != "zeros" or any(b != a for b, a in self.margins):
            x, padding = self.padded(x), (0,) * self.dims
        options = {"stride": self.stride, "dilation": self.dilation, "groups": self.groups}
        operator, weight = type(self).__name__, self.masked_weight()
        if choose(self.expansion, self.weight, x, self.backend, operator) == "compiled":
            if self.expansion.keeps_zero:  # the kernel knows padding
                padded = {"padding": padding, **options}
                return conv2d(self.expansion, weight, self.bias, x, padded)
            return conv2d(self.expansion, weight, self.bias, kernels.pad(x, padding), options)
        margins = padding if any(padding) else None
        if self.expansion.zero_at_zero:  # the operator's own padding is phi(0), as it should
            margins, options["padding"] = None, padding
        elif margins and self.expansion.num_functions == 1 and self.expansion.keeps_zero:
            return self._around_zero(x, weight, {"padding": padding, **options})
        return self.operate(x, weight.flatten(1, 2), CONVOLUTIONS[self.dims], margins, **options)

    def _around_zero(self, x: Tensor, weight: Tensor, options: dict[str, Any]) -> Tensor:
        """One function f: f(x) - f(0) is zero where the operator pads, and f(0) makes a bias."""
        zero = self.features(x.new_zeros(self.in_features, *[1] * self.dims))
        each = zero.view(self.groups, 1, -1)
        sums = weight.flatten(2).sum(-1).unflatten(0, (self.groups, -1))  # (groups, O / groups, C)
        bias = (sums * each).sum(-1).flatten()
        bias = bias if self.bias is None else self.bias + bias
        operator = CONVOLUTIONS[self.dims]
        return operator(self.features(x) - zero, weight.flatten(1, 2), bias, **options)

    def map_functions(self, tensor: Tensor, matrix: Tensor) -> Tensor:
        matrix = matrix.to(tensor.device).unflatten(0, (self.groups, -1))
        grouped = tensor.to(matrix.dtype).unflatten(0, (self.groups, -1))
        mapped = torch.einsum("gclk,gock...->gocl...", matrix, grouped)
        return mapped.flatten(0, 1).to(tensor.dtype)

    def edge(self, i: int, o: int, x: Tensor, tap: tuple[int, ...] | None = None) -> Tensor:
        """Value at x of the function on the edge i -> o at one tap of the kernel, else the first.

        With groups, i counts within the group of o.
        """
        channel = i + (o * self.groups // self.out_features) * (self.in_features // self.groups)
        inputs = x.new_zeros((*x.shape, self.in_features))
        inputs[..., channel] = x
        values = self.expansion.univariate(inputs)[..., channel]
        taps = self.masked_weight()[o, i].flatten(1)  # (K, taps)
        return weighted_sum(taps[:, self._tap(tap)], values)


class KANConv1d(KANConv):
    """`KANConv` over sequences: `(B, C, L) -> (B, O, L')`."""

    dims = 1


class KANConv2d(KANConv):
    """`KANConv` over images: `(B, C, H, W) -> (B, O, H', W')`."""

    dims = 2


class KANConv3d(KANConv):
    """`KANConv` over volumes: `(B, C, D, H, W) -> (B, O, D', H', W')`."""

    dims = 3
