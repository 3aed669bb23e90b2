"""Loaders of a data set on the trainer's device and rank."""

from typing import Any

from lightning.pytorch import LightningDataModule

from kanzoo.data import Dataset, Loader, Loaders


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
