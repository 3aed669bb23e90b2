"""What brings inputs into the reach of a basis: squashing functions and normalisations.

Axes: C features, last. Every class has `flops` per value, `at_start` (what it does to standard
normal inputs before training) and `univariate`, the function of one value that edges show.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Squash(nn.Module):
    """Leaves its input alone, and is the contract of the others: `(..., C) -> (..., C)`.

    `options` are device and dtype of parameters.
    """

    flops: ClassVar[int] = 0

    def __init__(self, in_features: int, **options: Any) -> None:
        super().__init__()

    @staticmethod
    def at_start(x: Tensor) -> Tensor:
        """The initial function, for standard normal inputs."""
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.univariate(x)

    def univariate(self, x: Tensor) -> Tensor:
        """The same without looking at other features or rows, and without side effects."""
        return self.at_start(x)


class Tanh(Squash):
    """tanh(x), into (-1, 1)."""

    flops = 1

    @staticmethod
    def at_start(x: Tensor) -> Tensor:
        return torch.tanh(x)


class Sigmoid(Squash):
    """1 / (1 + exp(-x)), into (0, 1)."""

    flops = 1

    @staticmethod
    def at_start(x: Tensor) -> Tensor:
        return torch.sigmoid(x)


class Affine(Squash):
    """scale_c x + shift_c with one trained pair per feature; the identity at the start."""

    flops = 2

    def __init__(self, in_features: int, **options: Any) -> None:
        super().__init__(in_features)
        self.scale = nn.Parameter(torch.ones(in_features, **options))
        self.shift = nn.Parameter(torch.zeros(in_features, **options))

    def univariate(self, x: Tensor) -> Tensor:
        return x * self.scale.to(x.dtype) + self.shift.to(x.dtype)


class LayerSquash(Affine):
    """Layer normalisation over the features of a row or pixel, then scale and shift (1607.06450).

    An edge function is one of the normalised input, since the normalisation needs all features.
    """

    flops = 7

    def __init__(self, in_features: int, **options: Any) -> None:
        if in_features < 2:
            raise ValueError("squash 'layer' needs at least 2 features: it turns a single one to 0")
        super().__init__(in_features, **options)

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = self.scale.to(x.dtype), self.shift.to(x.dtype)
        return F.layer_norm(x, scale.shape, scale, shift)


class BatchSquash(Squash):
    """Batch normalisation of every feature, as `nn.BatchNorm1d` over all rows or pixels.

    In a convolution the padding counts as pixels. Edge functions use the running statistics.
    """

    flops = 4

    def __init__(self, in_features: int, **options: Any) -> None:
        super().__init__(in_features)
        self.norm = nn.BatchNorm1d(in_features, **options)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).to(self.norm.weight.dtype)
        normalised: Tensor = self.norm(rows)
        return normalised.view(x.shape).to(x.dtype)

    def univariate(self, x: Tensor) -> Tensor:
        norm = self.norm
        mean, variance = norm.running_mean, norm.running_var
        if mean is None or variance is None:
            raise ValueError("edges of a layer with squash 'batch' need running statistics")
        inverse = torch.rsqrt(variance.to(x.dtype) + norm.eps) * norm.weight.to(x.dtype)
        return (x - mean.to(x.dtype)) * inverse + norm.bias.to(x.dtype)


SQUASHES: dict[str, type[Squash]] = {
    "none": Squash,
    "tanh": Tanh,
    "sigmoid": Sigmoid,
    "affine": Affine,
    "layer": LayerSquash,
    "batch": BatchSquash,
}
