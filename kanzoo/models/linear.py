"""Linear models: what a network has to beat on tables and series.

Axes: B batch, T input steps, H forecast steps, C channels.
"""

import math
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from kanzoo.layers.factory import LayerFactory
from kanzoo.layers.options import check_sizes
from kanzoo.models.base import Architecture


class Linear(Architecture):
    """One layer on flattened inputs; ordinary and with weight decay, ridge or softmax regression.

    Shapes: `(B, *in_shape) -> (B, num_outputs)`. As KAN it is [in, out]; without the `bias`, what
    local functions learn in one region leaves all others alone.
    """

    kinds: ClassVar[tuple[str, ...]] = ("image", "sequence", "table")
    roles: ClassVar[tuple[str, ...]] = ("head",)
    activated: ClassVar[tuple[str, ...]] = ()
    coarse: ClassVar[str | None] = None

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_outputs: int,
        layers: LayerFactory,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        features = math.prod(in_shape)
        self.head = layers.linear("head", features, num_outputs, activate=False, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1))


class SeriesModel(Architecture):
    """Forecasts every channel from its own past, with the same weights for all channels.

    Shapes: `(B, T, C) -> (B, H C)`, step by step.
    """

    kinds: ClassVar[tuple[str, ...]] = ("sequence",)
    roles: ClassVar[tuple[str, ...]] = ("head",)
    activated: ClassVar[tuple[str, ...]] = ()
    coarse: ClassVar[str | None] = None

    def __init__(self, in_shape: tuple[int, ...], num_outputs: int) -> None:
        super().__init__()
        name = type(self).__name__.lower()
        if len(in_shape) != 2:
            raise ValueError(f"{name} needs series (T, C), got inputs of shape {in_shape}")
        self.steps, channels = in_shape
        if num_outputs % channels:
            raise ValueError(
                f"{name} forecasts all {channels} channels: {num_outputs} outputs are no whole "
                "number of steps"
            )
        self.horizon = num_outputs // channels


class NLinear(SeriesModel):
    """A linear forecast of the differences to the last step (2205.13504)."""

    def __init__(self, in_shape: tuple[int, ...], num_outputs: int, layers: LayerFactory) -> None:
        super().__init__(in_shape, num_outputs)
        self.head = layers.linear("head", self.steps, self.horizon, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        last = x[:, -1:]  # (B, 1, C)
        y = self.head((x - last).mT).mT + last  # (B, H, C)
        return y.flatten(1)


class DLinear(SeriesModel):
    """The sum of linear forecasts of a trend and of what is left (2205.13504).

    The trend is the mean over `kernel` steps, the first and the last step being repeated.
    """

    def __init__(
        self, in_shape: tuple[int, ...], num_outputs: int, layers: LayerFactory, *, kernel: int = 25
    ) -> None:
        super().__init__(in_shape, num_outputs)
        check_sizes(kernel=kernel)
        self.kernel = kernel
        self.trend = layers.linear("head", self.steps, self.horizon, activate=False)
        self.rest = layers.linear("head", self.steps, self.horizon, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.mT  # (B, C, T)
        before = (self.kernel - 1) // 2
        padded = F.pad(x, (before, self.kernel - 1 - before), "replicate")
        trend = F.avg_pool1d(padded, self.kernel, 1)
        return (self.trend(trend) + self.rest(x - trend)).mT.flatten(1)  # (B, H C)
