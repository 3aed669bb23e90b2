"""Data sets with fixed splits, and loaders whose batches depend on the seed and epoch only."""

from kanzoo.data.base import Dataset, DataSpec, Loaders, Split
from kanzoo.data.loader import Loader
from kanzoo.data.memory import MemoryDataset

__all__ = ["DataSpec", "Dataset", "Loader", "Loaders", "MemoryDataset", "Split"]
