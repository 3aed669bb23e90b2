"""The toy of forgetting of the KAN paper (2404.19756, section 3.4): five peaks on a line."""

from typing import Any

import torch
from torch import Tensor

from kanzoo.data.base import DataSpec, Split
from kanzoo.data.memory import MemoryDataset

SHARPNESS = 300.0


def peaks(x: Tensor) -> Tensor:
    """Sum of five Gaussian peaks of height 1 at -0.8, -0.4, 0, 0.4 and 0.8."""
    centres = torch.linspace(-0.8, 0.8, 5, dtype=x.dtype)
    return (-SHARPNESS * (x[..., None] - centres).square()).exp().sum(-1)


class FivePeaks(MemoryDataset):
    """Regression of five Gaussian peaks over [-1, 1], `(1,) -> (1,)`.

    Samples lie on an even grid, those of the test set between those of training. With
    `training_set.phases=5` each phase shows the surroundings of one peak, from left to right.
    """

    num_train, num_test = 1000, 250
    domain = "functions"

    def __init__(self, *, val_size: float = 0.2, **options: Any) -> None:
        super().__init__(val_size=val_size, **options)

    @property
    def spec(self) -> DataSpec:
        """One number in, one out."""
        return DataSpec((1,), 1, "regression", (), "table")

    def read(self) -> tuple[Split, Split]:
        """Compute both parts."""
        parts = []
        for number in (self.num_train, self.num_test):
            x = (torch.arange(number, dtype=torch.float64) + 0.5) / number * 2 - 1
            parts.append(Split(x[:, None].float(), peaks(x)[:, None].float()))
        return parts[0], parts[1]

    def check_phases(self, phases: int) -> None:
        """There are as many phases as peaks."""
        if phases not in (1, 5):
            raise ValueError(f"training_set.phases of {self.name} must be 1 or 5, not {phases}")

    def groups(self, part: str, phases: int) -> list[Tensor]:
        """Return the indices of the samples nearest to each peak, from left to right."""
        peak_of = ((self.loaded[part].x[:, 0] + 1) * 2.5).long().clamp(0, 4)
        return [(peak_of == peak).nonzero()[:, 0] for peak in range(phases)]
