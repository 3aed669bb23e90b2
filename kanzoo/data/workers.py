"""A loader for images too many for memory: worker processes decode, crop and resize them.

Axes: B samples, C channels, H height, W width.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from kanzoo.data.loader import Batch, EpochSampler, Loader
from kanzoo.data.seeding import keyed_seed
from kanzoo.data.transform import ImageTransform

Sample = tuple[str, int]  # path, class


class DecodedImages(TorchDataset[Batch | str]):
    """A worker's job: indices in, uint8 images `(B, 3, H, W)` and classes `(B,)` out."""

    def __init__(self, samples: list[Sample], *, size: int, augment: bool, seed: int) -> None:
        from torchvision.transforms import v2

        self.samples = samples
        self.seed = seed
        self.transform = v2.Compose(
            [v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()]
            if augment
            else [v2.Resize(size * 8 // 7, antialias=True), v2.CenterCrop(size)]
        )

    def __getitem__(self, key: tuple[int, list[int]]) -> Batch | str:
        """Return the batch, or what is wrong with a file: an exception would carry a traceback."""
        epoch, indices = key
        images = []
        with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
            for index in indices:
                path = self.samples[index][0]
                torch.default_generator.manual_seed(keyed_seed("image", self.seed, epoch, index))
                try:
                    images.append(self.transform(decode(path)))
                except (OSError, SyntaxError, ValueError) as error:
                    reason = " ".join(str(error).split())
                    return f"{path} is corrupt ({reason}); replace or remove it"
        return torch.stack(images), torch.tensor([self.samples[index][1] for index in indices])


def decode(path: str) -> Tensor:
    """Return the image as uint8 `(3, H, W)`."""
    from PIL import Image
    from torchvision.transforms.v2.functional import pil_to_tensor

    with Image.open(path) as image:
        pixels: Tensor = pil_to_tensor(image.convert("RGB"))
    return pixels


def unchanged(batch: Any) -> Any:
    """Return a worker's batch as it is."""
    return batch


class WorkerLoader(Loader):
    """Batches decoded by worker processes, normalised on the device."""

    def __init__(
        self,
        samples: list[Sample],
        transform: ImageTransform,
        sampler: EpochSampler,
        *,
        size: int,
        augment: bool,
        num_workers: int,
        device: torch.device,
        **options: Any,
    ) -> None:
        super().__init__(sampler, **options)
        self.transform = transform
        self.device = device
        self.keys: list[tuple[int, list[int]]] = []
        self.images = DecodedImages(samples, size=size, augment=augment, seed=sampler.seed)
        self.workers: DataLoader[Batch | str] = DataLoader(
            self.images,
            batch_size=None,
            sampler=self.keys,  # an index of the images is a whole batch
            num_workers=num_workers,
            collate_fn=unchanged,
            pin_memory=device.type == "cuda",
            # A forked child that meets OpenMP hangs.
            multiprocessing_context="spawn" if num_workers else None,
            persistent_workers=num_workers > 0,
            generator=torch.Generator(),  # otherwise every iteration advances the global one
        )

    def relabel(self, targets: Tensor) -> None:
        """Take other classes for the images; before the workers start."""
        paths = (path for path, _ in self.images.samples)
        self.images.samples = list(zip(paths, targets.tolist(), strict=True))

    def fetch(self, order: Tensor, bounds: list[tuple[int, int]]) -> Iterator[Batch]:
        """Yield the batches in order; raise `ValueError` on a file that cannot be decoded."""
        epoch = self.sampler.epoch
        self.keys[:] = [(epoch, self.share(order, bound).tolist()) for bound in bounds]
        for batch in self.workers:
            if isinstance(batch, str):
                raise ValueError(batch)
            x, y = (tensor.to(self.device, non_blocking=True) for tensor in batch)
            yield self.transform(x, y, None)
