"""Seeded loaders: the batches of epoch e depend on (seed, e) only, on however many ranks."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from kanzoo.data.seeding import keyed_generator

Batch = tuple[Tensor, Tensor]
Sample = tuple[Tensor, Tensor, Tensor | None]  # with the random numbers of a batch


class Transform(Protocol):
    """What happens to a batch on the device: normalisation, and in training augmentation."""

    noise: int
    """How many uniform numbers in [0, 1) a training sample gets."""

    def __call__(self, x: Tensor, y: Tensor, noise: Tensor | None) -> Batch:
        """Return the batch to compute with; `noise` is `(B, self.noise)`, None in evaluation."""
        ...


class Identity:
    """Leave a batch as it is."""

    noise = 0

    def __call__(self, x: Tensor, y: Tensor, noise: Tensor | None) -> Batch:
        """Return `x` and `y`."""
        return x, y


class EpochSampler:
    """The order and the random numbers of an epoch, computed from `(seed, epoch)` alone."""

    def __init__(self, size: int, *, seed: int, shuffle: bool) -> None:
        self.size = size
        self.seed = seed
        self.shuffle = shuffle
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration shows; Lightning calls this by itself."""
        self.epoch = epoch

    def order(self) -> Tensor:
        """Return the sample indices in the order of this epoch, `(N,)`."""
        if not self.shuffle:
            return torch.arange(self.size)
        return torch.randperm(self.size, generator=keyed_generator("order", self.seed, self.epoch))

    def noise(self, columns: int) -> Tensor:
        """Return uniform numbers in [0, 1), `(N, columns)`; row j belongs to sample j."""
        generator = keyed_generator("noise", self.seed, self.epoch)
        return torch.rand(self.size, columns, generator=generator)


def batch_bounds(
    size: int, batch_size: int, world_size: int, *, training: bool
) -> list[tuple[int, int]]:
    """Return where each global batch starts and stops in the order of an epoch.

    Training batches are all equally large for all ranks: the incomplete last one is dropped, unless
    it is the only one, which then loses at most `world_size - 1` samples. Evaluation covers every
    sample once; a remainder too small to give every rank a sample joins the batch before it, so
    that all ranks take the same number of steps.
    """
    if size < world_size:
        raise ValueError(
            f"{size} samples cannot be shared by {world_size} processes; use at most {size}"
        )
    if training:
        step = min(batch_size, size - size % world_size)
        return [(start, start + step) for start in range(0, size - step + 1, step)]
    starts = list(range(0, size, batch_size))
    if size - starts[-1] < world_size:
        starts.pop()
    return list(zip(starts, [*starts[1:], size], strict=True))


class Loader(ABC):
    """An iterable of the `(x, y)` batches of one split that belong to one rank.

    `batch_size` counts the samples of a batch over all ranks; rank r takes the positions r,
    r + world_size, ... of every global batch. `state_dict` and `load_state_dict` let an interrupted
    epoch go on at the next batch.
    """

    # Lightning looks for it on everything that has a `sampler`.
    batch_sampler = None

    def __init__(
        self,
        sampler: EpochSampler,
        *,
        batch_size: int,
        training: bool,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.sampler = sampler
        self.training = training
        self.rank = rank
        self.world_size = world_size
        self.bounds = batch_bounds(sampler.size, batch_size, world_size, training=training)
        self._position = (0, 0)  # epoch, batches handed out
        self._resume: tuple[int, int] | None = None

    @property
    def num_samples(self) -> int:
        """The number of samples of the split, over all ranks."""
        return self.sampler.size

    def __len__(self) -> int:
        return len(self.bounds)

    def __iter__(self) -> Iterator[Batch]:
        epoch = self.sampler.epoch
        first = self._resume[1] if self._resume is not None and self._resume[0] == epoch else 0
        self._resume = None
        order = self.sampler.order()
        for done, batch in enumerate(self.fetch(order, self.bounds[first:]), start=first + 1):
            self._position = (epoch, done)
            yield batch

    @abstractmethod
    def fetch(self, order: Tensor, bounds: list[tuple[int, int]]) -> Iterator[Batch]:
        """Yield this rank's part of the global batches that `bounds` cuts out of `order`."""

    def relabel(self, targets: Tensor) -> None:
        """Take other targets for the samples of the split."""
        raise ValueError(f"training_set.label_noise is not possible with {type(self).__name__}")

    def share(self, order: Tensor, bound: tuple[int, int]) -> Tensor:
        """Return the sample indices of this rank in one global batch."""
        return order[bound[0] + self.rank : bound[1] : self.world_size]

    def state_dict(self) -> dict[str, Any]:
        """Return the position inside the epoch as plain values."""
        return {"epoch": self._position[0], "batch": self._position[1]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next iteration begin after the stored batch, if it shows the stored epoch."""
        self._resume = (int(state["epoch"]), int(state["batch"]))
        self._position = self._resume


class MemoryLoader(Loader):
    """Batches of tensors, transformed on the device.

    Samples that lie on the device are indexed there. Others are indexed where they are, and every
    batch is sent while the device computes with the one before it.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        transform: Transform,
        sampler: EpochSampler,
        *,
        device: torch.device | None = None,
        **options: Any,
    ) -> None:
        super().__init__(sampler, **options)
        self.x = x
        self.y = y
        self.transform = transform
        self.sending = None if device is None or device == x.device else Sending(device)

    def relabel(self, targets: Tensor) -> None:
        """Take other targets for the samples of the split."""
        self.y = targets.to(self.y)

    def fetch(self, order: Tensor, bounds: list[tuple[int, int]]) -> Iterator[Batch]:
        """Yield transformed batches; order and noise of the epoch move to the device once."""
        order = order.to(self.x.device)
        noise = None
        if self.training and self.transform.noise:
            noise = self.sampler.noise(self.transform.noise).to(self.x.device)
        shares = (self.share(order, bound) for bound in bounds)
        samples = (
            (self.x[index], self.y[index], None if noise is None else noise[index])
            for index in shares
        )
        for sample in samples if self.sending is None else self.sending.ahead(samples):
            yield self.transform(*sample)


class Sending:
    """Sends tensors from the host to a device, one batch ahead of what is asked for."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.Stream(device) if device.type in ("cuda", "xpu") else None

    def ahead(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        """Yield what was sent, in order."""
        last: tuple[Sample, torch.Event | None] | None = None
        for sample in samples:
            sent = self._send(sample)
            if last is not None:
                yield self._receive(*last)
            last = sent
        if last is not None:
            yield self._receive(*last)

    def _send(self, sample: Sample) -> tuple[Sample, torch.Event | None]:
        if self.stream is None:
            x, y, noise = (None if t is None else t.to(self.device) for t in sample)
            return cast(Sample, (x, y, noise)), None
        with self.stream:
            x, y, noise = (
                None if t is None else t.pin_memory().to(self.device, non_blocking=True)
                for t in sample
            )
            return cast(Sample, (x, y, noise)), self.stream.record_event()

    def _receive(self, sample: Sample, sent: torch.Event | None) -> Sample:
        if sent is not None:
            stream = torch.accelerator.current_stream(self.device)
            stream.wait_event(sent)
            for tensor in sample:
                if tensor is not None:  # its memory is not to be used again before it was read
                    tensor.record_stream(stream)
        return sample
