"""Transposed convolutions of basis functions.

Axes: B batch, C input channels, O output channels, K functions a channel, S the pixels.
"""

import math
from collections.abc import Sequence
from typing import Unpack

from torch import Tensor

from kanzoo.layers.conv import ConvLayer, Sizes
from kanzoo.layers.dispatch import compute
from kanzoo.layers.options import LayerOptions, check_channels
from kanzoo.layers.paths.base import Request


class KANConvTranspose(ConvLayer):
    """Transposed convolution of basis functions; options as `nn.ConvTranspose2d`.

    Shapes: `(B, C, S) -> (B, O, S')`, also unbatched; weight `(C, K, O / groups, *kernel_size)`.
    Every pixel adds its edge functions to its surroundings. The gaps that a stride opens are no
    pixels and add nothing; `padding` cuts the rim of the output. The other parameters are those of
    `KANConv2d`.
    """

    function_dim = 1
    transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes = 0,
        output_padding: Sizes = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Sizes = 1,
        padding_mode: str = "zeros",
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            **options,
        )
        self.output_padding = self._sizes("output_padding", output_padding, 0)
        for extra, stride_, dilation_ in zip(
            self.output_padding, self.stride, self.dilation, strict=True
        ):
            if extra >= max(stride_, dilation_):
                raise ValueError(
                    f"output_padding must be smaller than stride or dilation, got {output_padding}"
                )

    def weight_shape(self, functions: int) -> tuple[int, ...]:
        return (self.in_features, functions, self.edges_out, *self.kernel_size)

    @property
    def fan_in(self) -> float:
        return super().fan_in / math.prod(self.stride)  # an output is reached by so many taps

    @property
    def tiles(self) -> bool:
        """Whether every pixel has a tile of the output of its own, where nothing is added up."""
        plain = not any((*self.padding, *self.output_padding)) and self.groups == 1
        return plain and self.stride == self.kernel_size and max(self.dilation) == 1

    def request(self, x: Tensor, output_size: Sequence[int] | None = None) -> Request:
        check_channels(x, -1 - self.dims, self.in_features)
        extra = self.output_padding
        if output_size is not None:
            extra = self._padding_for(x, output_size)
        if not self.tiles or any(extra):
            request = super().request(x)
            assert request.options is not None
            request.options = request.options._replace(output_padding=extra)
            return request
        last = x.movedim(x.dim() - self.dims - 1, -1)
        # A linear map of every pixel to its tile: the same at the speed of linear layers.
        weight = self.masked_weight().flatten(2)
        return Request("linear", self.expansion, last, weight, None, self.backend)

    def _padding_for(self, x: Tensor, output_size: Sequence[int]) -> tuple[int, ...]:
        """The output padding that gives a size, of pixels alone or of all dimensions."""
        sizes = list(output_size)
        sizes = sizes[-self.dims :] if len(sizes) == x.dim() else sizes
        options = zip(self.stride, self._sizes("padding", self.padding, 0), strict=True)
        edges = zip(self.dilation, self.kernel_size, strict=True)
        least = [
            (n - 1) * s - 2 * p + d * (k - 1) + 1
            for n, (s, p), (d, k) in zip(x.shape[-self.dims :], options, edges, strict=True)
        ]
        extra = tuple(size - low for size, low in zip(sizes, least, strict=False))
        if len(sizes) != self.dims or any(
            not 0 <= e < s for e, s in zip(extra, self.stride, strict=True)
        ):
            most = [low + s - 1 for low, s in zip(least, self.stride, strict=True)]
            raise ValueError(f"output_size must be from {least} to {most}, got {[*output_size]}")
        return extra

    def forward(self, x: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """The output; `output_size`, with or without channels, as `nn.ConvTranspose2d` takes it."""
        request = self.request(x, output_size)
        y = compute(request)
        if request.operator == "linear":
            return self._joined(y, x)
        return y if x.dim() == self.dims + 2 else y.squeeze(0)

    def _joined(self, y: Tensor, x: Tensor) -> Tensor:
        """The output from the tiles of all pixels: `(.., *S, O taps) -> (.., O, *S')`."""
        dims, lead = self.dims, x.dim() - self.dims - 1
        y = y.unflatten(-1, (self.out_features, *self.kernel_size))  # (.., S, O, taps)
        pairs = [axis for i in range(lead, lead + dims) for axis in (i, i + dims + 1)]
        y = y.permute(*range(lead), lead + dims, *pairs)  # (.., O, pixels and taps in turn)
        sides = [n * k for n, k in zip(x.shape[lead + 1 :], self.kernel_size, strict=True)]
        y = y.reshape(*x.shape[:lead], self.out_features, *sides)
        bias = self.current_bias()
        return y if bias is None else y + bias.view(-1, *[1] * dims)


class KANConvTranspose1d(KANConvTranspose):
    """`KANConvTranspose` over sequences: `(B, C, L) -> (B, O, L')`."""

    dims = 1


class KANConvTranspose2d(KANConvTranspose):
    """`KANConvTranspose` over images: `(B, C, H, W) -> (B, O, H', W')`."""

    dims = 2
