"""Loaders of a data set on the trainer's device and rank."""

from collections.abc import Iterator, Sequence
from typing import Any

from lightning.pytorch import LightningDataModule
from torch import Tensor

from kanzoo.data import Dataset, Loader, Loaders

Batches = list[tuple[Tensor, Tensor]]  # one a seed


class DataModule(LightningDataModule):
    """Gives the trainer the loaders of a data set; `seed` decides the order of training batches."""

    def __init__(self, dataset: Dataset, seed: int) -> None:
        super().__init__()
        self.dataset = dataset
        self.seed = seed
        self._loaders: Loaders | None = None

    def setup(self, stage: str) -> None:
        if self._loaders is None:
            assert self.trainer is not None
            self._loaders = self.dataset.loaders(
                seed=self.seed,
                device=self.trainer.strategy.root_device,
                rank=self.trainer.global_rank,
                world_size=self.trainer.world_size,
            )

    def train_dataloader(self) -> Loader:
        return self._get().train

    def val_dataloader(self) -> Loader:
        return self._get().val

    def test_dataloader(self) -> Loader:
        return self._get().test

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        # Loaders deliver on the device; nothing is left to move.
        return batch

    def _get(self) -> Loaders:
        assert self._loaders is not None
        return self._loaders


class SeedsLoader:
    """The batches of several loaders of equal length side by side, a list of one a seed."""

    batch_sampler = None

    def __init__(self, loaders: Sequence[Loader]) -> None:
        self.loaders = loaders
        self.sampler = self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of all loaders; Lightning calls this by itself."""
        for loader in self.loaders:
            loader.sampler.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """The position inside the epoch of every loader."""
        return {"loaders": [loader.state_dict() for loader in self.loaders]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next iteration of every loader begin after the stored batch."""
        for loader, position in zip(self.loaders, state["loaders"], strict=True):
            loader.load_state_dict(position)

    def __len__(self) -> int:
        return len(self.loaders[0])

    def __iter__(self) -> Iterator[Batches]:
        return map(list, zip(*self.loaders, strict=True))


class SeedsData(LightningDataModule):
    """Gives the trainer the training and validation batches of several data modules."""

    def __init__(self, modules: Sequence[DataModule]) -> None:
        super().__init__()
        self.modules = modules

    def setup(self, stage: str) -> None:
        for module in self.modules:
            module.trainer = self.trainer
            module.setup(stage)

    def train_dataloader(self) -> SeedsLoader:
        return SeedsLoader([module.train_dataloader() for module in self.modules])

    def val_dataloader(self) -> SeedsLoader:
        return SeedsLoader([module.val_dataloader() for module in self.modules])

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        return batch
