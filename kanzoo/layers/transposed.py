"""Transposed convolutions of basis functions.

Axes: B batch, C input channels, O output channels, K functions a channel, S the pixels.
"""

import math
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

    def request(self, x: Tensor) -> Request:
        if not self.tiles:
            return super().request(x)
        check_channels(x, -1 - self.dims, self.in_features)
        last = x.movedim(x.dim() - self.dims - 1, -1)
        # A linear map of every pixel to its tile: the same at the speed of linear layers.
        weight = self.masked_weight().flatten(2)
        return Request("linear", self.expansion, last, weight, None, self.backend)

    def forward(self, x: Tensor) -> Tensor:
        return self._joined(compute(self.request(x)), x) if self.tiles else super().forward(x)

    def _joined(self, y: Tensor, x: Tensor) -> Tensor:
        """The output from the tiles of all pixels: `(.., *S, O taps) -> (.., O, *S')`."""
        dims, lead = self.dims, x.dim() - self.dims - 1
        y = y.unflatten(-1, (self.out_features, *self.kernel_size))  # (.., S, O, taps)
        pairs = [axis for i in range(lead, lead + dims) for axis in (i, i + dims + 1)]
        y = y.permute(*range(lead), lead + dims, *pairs)  # (.., O, pixels and taps in turn)
        sides = [n * k for n, k in zip(x.shape[lead + 1 :], self.kernel_size, strict=True)]
        y = y.reshape(*x.shape[:lead], self.out_features, *sides)
        return y if self.bias is None else y + self.bias.view(-1, *[1] * dims)


class KANConvTranspose1d(KANConvTranspose):
    """`KANConvTranspose` over sequences: `(B, C, L) -> (B, O, L')`."""

    dims = 1


class KANConvTranspose2d(KANConvTranspose):
    """`KANConvTranspose` over images: `(B, C, H, W) -> (B, O, H', W')`."""

    dims = 2
