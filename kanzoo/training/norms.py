"""Errors of functions relative to their norms, over a split."""

import torch
from torch import Tensor
from torchmetrics import Metric


class RelativeNorm(Metric):
    """sqrt(sum of squared errors / sum of squares) over the first columns of outputs `(B, 4)`.

    One column is the L2 norm of u, three are the H1 norm. Targets have the same columns behind one
    that marks the border.
    """

    error: Tensor
    size: Tensor

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.columns = columns
        for name in ("error", "size"):
            zero = torch.zeros((), dtype=torch.float64)
            self.add_state(name, default=zero, dist_reduce_fx="sum")

    def update(self, output: Tensor, target: Tensor) -> None:
        known = target[:, 1 : 1 + self.columns].double()
        self.error += (output[:, : self.columns].double() - known).square().sum()
        self.size += known.square().sum()

    def compute(self) -> Tensor:
        return (self.error / self.size).sqrt()
