"""Forecasting of many-channel time series.

Axes: B windows, L input steps (`input_length`), H forecast steps (`horizon`), C channels, of which
the first K are forecast.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from kanzoo.checks import check_name, check_whole
from kanzoo.data.base import PARTS, Counts, DataSpec, Split
from kanzoo.data.files import File
from kanzoo.data.loader import Batch, Identity, Transform
from kanzoo.data.memory import InMemory
from kanzoo.data.remote import DownloadedFile


class RelativeToLast:
    """Inputs and targets minus the last input value of their channel, targets the first channels.

    A forecast of the differences has the same error as one of the values, so scores compare.
    """

    noise = 0

    def __init__(self, horizon: int) -> None:
        self.horizon = horizon

    def __call__(self, x: Tensor, y: Tensor, noise: Tensor | None) -> Batch:
        """Return differences of the same shapes, `(B, L, C)` and `(B, H K)`."""
        last = x[:, -1:]  # (B, 1, C)
        steps = y.unflatten(1, (self.horizon, -1))  # (B, H, K)
        return x - last, (steps - last[:, :, : steps.shape[2]]).flatten(1)


class Series(InMemory):
    """A forecast of the next `horizon` steps of all channels from the last `input_length` steps.

    Rows are cut at `borders` into training, validation and test, in time; values are standardised
    with each channel's mean and deviation in the training rows, so that errors are in these units.
    A sample is every window whose forecast lies inside its part; its input may reach back into the
    part before. Targets are flattened, `(horizon * channels)`, step by step. With `relative` set to
    "last", a network sees and predicts differences to the last input value (the subtraction of
    NLinear, 2205.13504); the scores are the same quantity either way.
    """

    num_channels: ClassVar[int]
    borders: ClassVar[tuple[int, int, int]]
    """The rows at which training, validation and test end."""
    reference_name = "last value"
    domain = "series"
    is_ordered = True

    def __init__(
        self, *, input_length: int = 96, horizon: int = 24, relative: str = "last", **options: Any
    ) -> None:
        super().__init__(**options)
        self.input_length = input_length
        self.horizon = horizon
        self.relative = relative

    @property
    def num_targets(self) -> int:
        """Channels that are forecast, the first ones."""
        return self.num_channels

    @property
    def spec(self) -> DataSpec:
        """Steps and channels of the input; a value for every step and target of the forecast."""
        shape = (self.input_length, self.num_channels)
        return DataSpec(shape, self.horizon * self.num_targets, "forecast", kind="sequence")

    @abstractmethod
    def read(self) -> Tensor:
        """Return the rows `(T, C)`, float64; raise `ValueError` on a corrupt file."""

    def check(self, *, world_size: int = 1) -> None:
        """Check the options."""
        check_name("relative", self.relative, ("last", "none"))
        super().check(world_size=world_size)

    def counts(self) -> Counts:
        """Return how many windows each split holds."""
        train, val, test = self.borders
        check_whole("horizon", self.horizon, 1, min(val - train, test - val))
        check_whole("input_length", self.input_length, 1, train - self.horizon)
        return self.limited_counts(*self.num_windows(self.borders))

    def cut(self) -> dict[str, Split]:
        """Read and standardise the series; the windows are views of it."""
        rows = self.read()[: self.borders[-1]]
        train = rows[: self.borders[0]]
        values = ((rows - train.mean(0)) / train.std(0, correction=0)).float()
        return self.cut_at(self.borders, values, self.counts())

    def num_windows(self, borders: tuple[int, int, int]) -> Counts:
        """Return how many windows there are in each part of rows that end at borders."""
        train, val, test = borders
        forecasts = (train - self.input_length, val - train, test - val)
        return Counts(*(rows - self.horizon + 1 for rows in forecasts))

    def cut_at(
        self, borders: tuple[int, int, int], values: Tensor, counts: Counts
    ) -> dict[str, Split]:
        """Return the first windows of each part of standardised rows `(T, C)`."""
        starts = (self.input_length, *borders[:-1])  # of the first forecast
        splits = {}
        for part, start, count in zip(PARTS, starts, counts, strict=True):
            x = windows(values[start - self.input_length :], self.input_length)[:count]
            y = windows(values[start:, : self.num_targets], self.horizon)[:count].flatten(1)
            splits[part] = Split(x, y)
        return splits

    def make_transform(self, part: str, device: torch.device) -> Transform:
        """Return the subtraction of the last value, where asked for."""
        return RelativeToLast(self.horizon) if self.relative == "last" else Identity()

    def reference_scores(self, part: str) -> dict[str, float]:
        """Return the errors of repeating the last input value over the whole horizon."""
        _, errors = RelativeToLast(self.horizon)(*self.loaded[part], None)
        errors = errors.double()
        return {"mse": float(errors.square().mean()), "mae": float(errors.abs().mean())}


def windows(values: Tensor, length: int) -> Tensor:
    """Return all windows of `(T, C)`, `(T - length + 1, length, C)`, as a view."""
    return values.unfold(0, length, 1).transpose(1, 2)


MONTH = 30 * 24  # hours, as the field counts


class ETTh1(DownloadedFile, Series):
    """Load and oil temperature of a transformer, hourly, two years (Zhou et al., 2021, 2012.07436).

    The field's usual split: 12 months for training, 4 for validation, 4 for test; the rest is left
    out.
    """

    num_channels = 7
    borders = (12 * MONTH, 16 * MONTH, 20 * MONTH)
    folder = "ETT"
    files: ClassVar[Mapping[str, File]] = {
        "ETTh1.csv": File(2_589_657, md5="8381763947c85f4be6ac456c508460d6")
    }
    address = "https://raw.githubusercontent.com/zhouhaoyi/ETDataset/main/ETT-small/ETTh1.csv"

    def read(self) -> Tensor:
        """Fetch the file where it is missing, verify and read its seven columns of numbers."""
        self.provide()
        columns = range(1, 1 + self.num_channels)  # the first holds the time
        return torch.from_numpy(np.loadtxt(self.file, delimiter=",", skiprows=1, usecols=columns))
