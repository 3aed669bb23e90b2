"""What becomes of a training split: a share of it, wrong labels, classes one after another.

The same for every data set and every arm; validation and test data are never touched.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from kanzoo.checks import PositiveShare, Share, check_value, check_whole
from kanzoo.data.loader import EpochSampler
from kanzoo.data.seeding import keyed_generator, split_order


@dataclass(frozen=True)
class TrainingSet:
    """Options on the training split.

    `fraction` keeps a stratified share of it; a smaller share is part of every larger one. Epochs
    are as long as without it, so that the number of steps does not change with the share.
    `label_noise` gives that share of the kept labels another class, drawn uniformly by the seed of
    the run, so that all arms see the same wrong labels. `phases` splits the samples by class, in
    order, into groups that are shown one after another for `epochs_per_phase` epochs each.
    """

    fraction: float = 1.0
    label_noise: float = 0.0
    phases: int = 1
    epochs_per_phase: int = 1

    def check(self) -> None:
        """Raise a `ValueError` of one line where an option is wrong."""
        check_value("training_set.fraction", self.fraction, PositiveShare)
        check_value("training_set.label_noise", self.label_noise, Share)
        check_whole("training_set.phases", self.phases, 1)
        check_whole("training_set.epochs_per_phase", self.epochs_per_phase, 1)

    def size(self, total: int) -> int:
        """How many of `total` samples are kept: at least one."""
        return max(1, round(self.fraction * total))

    def indices(self, targets: Tensor, split_seed: int) -> Tensor:
        """Indices of the samples that stay, in their order, `(n,)`."""
        order = split_order(targets, "fraction", split_seed)
        return order[: self.size(len(targets))].sort().values

    def labels(self, targets: Tensor, indices: Tensor, num_classes: int, seed: int) -> Tensor:
        """The targets with the share of wrong ones among the kept samples, `(N,)`."""
        generator = keyed_generator("label noise", seed)
        order = torch.randperm(len(indices), generator=generator)
        shift = torch.randint(1, num_classes, (len(indices),), generator=generator)
        chosen = order[: round(self.label_noise * len(indices))]
        wrong = targets.clone()
        index = indices[chosen].to(targets.device)
        wrong[index] = (targets[index] + shift[chosen].to(targets)) % num_classes
        return wrong


def phase_classes(num_classes: int, phases: int) -> list[range]:
    """The classes of every phase: consecutive, in groups that differ by at most one class."""
    if not 1 <= phases <= num_classes:
        raise ValueError(f"training_set.phases must be from 1 to {num_classes}, not {phases}")
    ends = [round(num_classes * phase / phases) for phase in range(phases + 1)]
    return [range(a, b) for a, b in pairwise(ends)]


class PartSampler(EpochSampler):
    """The order of an epoch over some samples of a split, or over one group of them at a time.

    `groups` are the indices of the samples of every phase. An epoch has `size` samples, or as many
    as the smallest group, so that all epochs are equally long: a group with fewer comes several
    times, one with more in other parts in every epoch.
    """

    def __init__(
        self,
        groups: Iterable[Tensor],
        *,
        seed: int,
        size: int | None = None,
        epochs_per_phase: int = 1,
    ) -> None:
        self.groups = list(groups)
        super().__init__(size or min(map(len, self.groups)), seed=seed, shuffle=True)
        self.epochs_per_phase = epochs_per_phase
        self.span = 1 + max(int(group.max()) for group in self.groups)

    def order(self) -> Tensor:
        """Return the sample indices in the order of this epoch, `(N,)`."""
        phase = min(self.epoch // self.epochs_per_phase, len(self.groups) - 1)
        group = self.groups[phase]
        generator = keyed_generator("order", self.seed, self.epoch)
        rounds = [
            torch.randperm(len(group), generator=generator)
            for _ in range(math.ceil(self.size / len(group)))
        ]
        return group[torch.cat(rounds)][: self.size]

    def noise(self, columns: int) -> Tensor:
        """Return uniform numbers in [0, 1), a row for every index that may occur."""
        generator = keyed_generator("noise", self.seed, self.epoch)
        return torch.rand(self.span, columns, generator=generator)
