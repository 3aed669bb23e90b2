"""Means over a split: of losses, and of nats over all positions for language models.

torchmetrics' own perplexity takes the logarithm of a softmax, which is infinite where a
probability underflows.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from kanzoo.data.base import IGNORE


class MeanLoss(Metric):
    """The weighted mean of losses, without a look at their values: that would wait for a GPU."""

    full_state_update = False
    total: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("weight", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, loss: Tensor, weight: Tensor | int) -> None:
        """Add the mean loss of a batch, and how much it weighs."""
        self.total += (loss * weight).to(self.total)
        self.weight += weight

    def compute(self) -> Tensor:
        """Return the mean."""
        return self.total / self.weight


class MeanNats(Metric):
    """Cross-entropy in nats of logits `(B, T, V)` and symbols `(B, T)`; `IGNORE` does not count."""

    full_state_update = False
    nats: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("nats", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, output: Tensor, target: Tensor) -> None:
        """Add the positions of a batch."""
        logits = output.flatten(0, 1).float()
        self.nats += F.cross_entropy(logits, target.flatten(), reduction="sum")
        self.count += (target != IGNORE).sum()

    def compute(self) -> Tensor:
        """Return the mean."""
        return self.nats / self.count


class BitsPerCharacter(MeanNats):
    """The mean in bits."""

    def compute(self) -> Tensor:
        """Return the mean."""
        return super().compute() / math.log(2)


class Perplexity(MeanNats):
    """The exponential of the mean."""

    def compute(self) -> Tensor:
        """Return the exponential."""
        return super().compute().exp()
