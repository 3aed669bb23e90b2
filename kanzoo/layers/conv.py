"""Convolutions of basis functions, in any number of dimensions.

Axes: B batch, C input channels, O output channels, K functions a channel, S the pixels.
"""

import contextlib
import math
from typing import ClassVar, Never

import torch
import torch.nn.functional as F
from torch import Tensor

from kanzoo.bases.base import Basis, BasisFactory
from kanzoo.checks import check_name, check_whole
from kanzoo.layers.dispatch import compute
from kanzoo.layers.layer import KANLayer
from kanzoo.layers.options import OPTIONS, check_channels, check_sizes, refuse_unknown
from kanzoo.layers.paths.base import ConvOptions, Request

Sizes = int | tuple[int, ...]


class ConvLayer(KANLayer):
    """What convolutions and transposed ones share: sizes, channels first, a weight with taps.

    A subclass says how many dimensions its pixels have.
    """

    dims: ClassVar[int]
    transposed: ClassVar[bool] = False
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
        **unknown: Never,
    ) -> None:
        refuse_unknown(type(self), basis, unknown)
        sizes = {"in_channels": in_channels, "out_channels": out_channels, "groups": groups}
        in_channels, out_channels, groups = check_sizes(**sizes)
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"groups={groups} must divide in_channels={in_channels} and "
                f"out_channels={out_channels}"
            )
        check_name("padding_mode", padding_mode, self.padding_modes)
        self.kernel_size = self._sizes("kernel_size", kernel_size, 1)
        self.stride = self._sizes("stride", stride, 1)
        self.dilation = self._sizes("dilation", dilation, 1)
        self.padding = self._padding(padding)
        if padding == "same" and max(self.stride) > 1:
            raise ValueError(f"padding 'same' needs stride 1, got {stride}")
        self.padding_mode = padding_mode
        self.groups = groups
        self.output_padding = (0,) * self.dims
        super().__init__(
            in_channels,
            out_channels,
            bias=bias,
            basis=basis,
            residual=residual,
            squash=squash,
            init=init,
            device=device,
            dtype=dtype,
        )
        sides = zip(self.kernel_size, self.dilation, self.margins, strict=True)
        self.set_backend(backend, (1, in_channels, *(k * d + sum(m) for k, d, m in sides)))

    @property
    def taps(self) -> int:
        return math.prod(self.kernel_size)

    def _sizes(self, name: str, value: Sizes | str, least: int) -> tuple[int, ...]:
        sizes = value if isinstance(value, tuple | list) else (value,) * self.dims
        with contextlib.suppress(ValueError):
            checked = tuple(check_whole(name, size, least) for size in sizes)
            if len(checked) == self.dims:
                return checked
        allowed = "a whole number" if self.dims == 1 else f"one or {self.dims} whole numbers"
        raise ValueError(f"{name} must be {allowed} from {least}, got {value!r}")

    def _padding(self, padding: Sizes | str) -> tuple[int, ...] | str:
        """Padding as pixels of every dimension, or its name."""
        if not isinstance(padding, str) or not self.named_paddings:
            return self._sizes("padding", padding, 0)
        check_name("padding", padding, self.named_paddings)
        return padding

    def tap_index(self, tap: tuple[int, ...] | None) -> int:
        number = 0
        for index, size in zip(tap or (0,) * self.dims, self.kernel_size, strict=True):
            if not 0 <= index < size:
                raise ValueError(f"tap {tap} is outside a kernel of size {self.kernel_size}")
            number = number * size + index
        return number

    def rows(self, x: Tensor) -> Tensor:
        return super().rows(x.movedim(-1 - self.dims, -1))

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

    def request(self, x: Tensor) -> Request:
        check_channels(x, -1 - self.dims, self.in_features)
        images = x if x.dim() == self.dims + 2 else x.unsqueeze(0)
        padding = self.padding
        if isinstance(padding, str) or self.padding_mode != "zeros":
            before, after = zip(*self.margins, strict=True)
            padding = before
            if self.padding_mode != "zeros" or before != after:
                images, padding = self.padded(images), (0,) * self.dims
        sizes = (self.stride, padding, self.dilation)
        options = ConvOptions(*sizes, self.transposed, self.output_padding, self.groups)
        weight, bias = self.masked_weight(), self.current_bias()
        return Request("conv", self.expansion, images, weight, bias, self.backend, options)

    def forward(self, x: Tensor) -> Tensor:
        y = compute(self.request(x))
        return y if x.dim() == self.dims + 2 else y.squeeze(0)

    def extra_repr(self) -> str:
        mode = "" if self.padding_mode == "zeros" else f", padding_mode={self.padding_mode}"
        return (
            f"{super().extra_repr()}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}{mode}"
        )


class KANConv(ConvLayer):
    __doc__ = f"""Convolution of basis functions; sizes and options as `nn.Conv2d`.

    Shapes: `(B, C, S) -> (B, O, S')`, also unbatched; weight `(O, C / groups, K, *kernel_size)`.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of inputs and outputs; multiples of `groups`.
    kernel_size, stride, padding, dilation : int or tuple of int
        As for `nn.Conv2d`; `padding` also "valid" or "same". Padding is pixels that go through the
        basis as every other, and so phi(0), not zero.
    groups : int, default 1
        Blocks of channels that are convolved apart.
    bias : bool, default True
        Whether a trained number is added to every output channel.
    padding_mode : str, default "zeros"
        Where the pixels of the padding come from: "zeros", "reflect", "replicate" or "circular".
    {OPTIONS}

    Raises
    ------
    ValueError
        For sizes, names or combinations that cannot be, with what is allowed.
    """

    function_dim = 2
    named_paddings = ("valid", "same")
    padding_modes = ("zeros", "reflect", "replicate", "circular")

    def weight_shape(self, functions: int) -> tuple[int, ...]:
        return (self.out_features, self.in_features // self.groups, functions, *self.kernel_size)

    def rows(self, x: Tensor) -> Tensor:
        return super().rows(self.padded(x))

    def map_functions(self, tensor: Tensor, matrix: Tensor) -> Tensor:
        matrix = matrix.to(tensor.device).unflatten(0, (self.groups, -1))
        grouped = tensor.to(matrix.dtype).unflatten(0, (self.groups, -1))
        mapped = torch.einsum("gclk,gock...->gocl...", matrix, grouped)
        return mapped.flatten(0, 1).to(tensor.dtype)


class KANConv1d(KANConv):
    __doc__ = f"Over sequences, `(B, C, L) -> (B, O, L')`. {KANConv.__doc__}"

    dims = 1


class KANConv2d(KANConv):
    __doc__ = f"Over images, `(B, C, H, W) -> (B, O, H', W')`. {KANConv.__doc__}"

    dims = 2


class KANConv3d(KANConv):
    __doc__ = f"Over volumes, `(B, C, D, H, W) -> (B, O, D', H', W')`. {KANConv.__doc__}"

    dims = 3
