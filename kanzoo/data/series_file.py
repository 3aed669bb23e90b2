"""Time series of one's own in a CSV or Parquet file, its columns chosen by name.

Axes: T rows, L input steps, H forecast steps, K targets, C channels: targets, then covariates.
"""

import logging
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from kanzoo.checks import check_whole
from kanzoo.data.base import PARTS, Counts, Split
from kanzoo.data.columns import dates, is_number
from kanzoo.data.frames import check_columns, read_frame
from kanzoo.data.number_texts import check_mixed
from kanzoo.data.options import check_part, part_size
from kanzoo.data.series import Series

log = logging.getLogger("kanzoo")

CALENDAR = ("MS", "ME", "QS", "QE", "YS", "YE", "B")  # B: days but for weekends
MONTHS = (1, 3, 12)
SLACK = 0.01  # of a distance of times that are numbers, for rounding
MAX_GAPS = 1000  # times as many rows as there are, missing ones included


class SeriesFile(Series):
    """The next `horizon` steps of the `target` columns from their past and that of `covariates`.

    Rows are ordered by the column `time` (as in the file if null), and evenly spaced by `frequency`
    (as "1h" or "D"; null finds it, and refuses uneven times). `series` names a column that tells
    several series apart: each is cut by itself, and its windows never reach into another. The last
    `test_size` of each series is tested, `val_size` of what is before that validated, in time;
    values are in the deviations of all training rows. `missing` is null, which refuses gaps, or
    "fill": the last known value goes on, over rows that are missing altogether too.
    """

    def __init__(
        self,
        *,
        path: str | None = None,
        target: str | Sequence[str] | None = None,
        covariates: Sequence[str] = (),
        time: str | None = None,
        frequency: str | None = None,
        series: str | None = None,
        missing: str | None = None,
        val_size: float = 0.2,
        test_size: float = 0.2,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.path = path
        self.targets_named = [target] if isinstance(target, str) else list(target or ())
        self.covariates = [covariates] if isinstance(covariates, str) else list(covariates)
        self.time = time
        self.frequency = frequency
        self.series = series
        self.missing = missing
        self.val_size = val_size
        self.test_size = test_size

    @property
    def name(self) -> str:
        """The name of the file."""
        return str(self.path)

    @property
    def num_targets(self) -> int:
        """Channels that are forecast, the first ones."""
        return len(self.targets_named)

    @property
    def num_channels(self) -> int:  # type: ignore[override]
        """Targets and covariates."""
        return len(self._channels)

    def check(self, *, world_size: int = 1) -> None:
        """Check the options and the file."""
        check_part("val_size", self.val_size)
        check_part("test_size", self.test_size)
        check_whole("horizon", self.horizon, 1)
        check_whole("input_length", self.input_length, 1)
        if self.missing not in (None, "fill"):
            raise ValueError(f"missing must be null or 'fill', not {self.missing!r}")
        super().check(world_size=world_size)
        self.counts()  # reads the file

    def read(self) -> Tensor:
        """Return the rows of all series, one after another, `(T, C)`, float64."""
        return torch.cat(self._tables)

    def counts(self) -> Counts:
        """Return how many windows each split holds."""
        sizes = np.array([self._windows(len(rows)) for rows in self._tables]).sum(0)
        return self.limited_counts(*sizes.tolist())

    def cut(self) -> dict[str, Split]:
        """Cut every series in time, and standardise by all training rows."""
        ends = [self._borders(len(rows)) for rows in self._tables]
        train = torch.cat([rows[: e[0]] for rows, e in zip(self._tables, ends, strict=True)])
        deviation = train.std(0, correction=0)
        for name, value in zip(self._channels, deviation.tolist(), strict=True):
            if not value > 0:
                raise ValueError(f"{self.path}: column {name!r} is constant in the training rows")
        pieces = []
        for rows, borders in zip(self._tables, ends, strict=True):
            values = ((rows - train.mean(0)) / deviation).float()
            pieces.append(self.cut_at(borders, values, self.num_windows(borders)))
        splits = {}
        for part, count in zip(PARTS, self.counts(), strict=True):
            x, y = (torch.cat(tensors) for tensors in zip(*(p[part] for p in pieces), strict=True))
            splits[part] = Split(x[:count], y[:count])
        return splits

    @property
    def _channels(self) -> list[str]:
        return [*self.targets_named, *self.covariates]

    def _borders(self, length: int) -> tuple[int, int, int]:
        """Rows of a series at which training, validation and test end."""
        test = part_size("test_size", self.test_size, length)
        val = part_size("val_size", self.val_size, length - test)
        return length - test - val, length - test, length

    def _windows(self, length: int) -> Counts:
        counts = self.num_windows(self._borders(length))
        if min(counts) < 1:
            raise ValueError(
                f"{self.path}: a series of {length} rows is too short for input_length="
                f"{self.input_length} and horizon={self.horizon} in each of its three parts"
            )
        return counts

    @cached_property
    def _tables(self) -> list[Tensor]:
        """Every series `(T, C)`, float64, in order of time."""
        if not isinstance(self.path, str) or not self.targets_named:
            raise ValueError("data=series_csv needs data.path, a file, and data.target, columns")
        frame = read_frame("data.path", self.path)
        helpers = [name for name in (self.time, self.series) if name is not None]
        check_columns(self.path, frame, [*self._channels, *helpers])
        if len(set(self._channels)) < len(self._channels):
            raise ValueError(
                f"data.target and data.covariates name a column twice: {self._channels}"
            )
        for name in self._channels:
            if not is_number(frame[name]):
                check_mixed(self.path, frame[name])
                raise ValueError(
                    f"{self.path}: column {name!r} holds {frame[name].iloc[0]!r}, no numbers"
                )
        for name in helpers:
            if gaps := int(frame[name].isna().sum()):
                raise ValueError(
                    f"{self.path}: column {name!r} has {gaps} gaps: leave the rows out"
                )
        if self.series is None:
            return [self._ordered(frame, "")]
        groups = frame.groupby(self.series, sort=True)
        return [self._ordered(rows, f" of {self.series}={key}") for key, rows in groups]

    def _ordered(self, frame: pd.DataFrame, which: str) -> Tensor:
        values = frame[self._channels].astype(float)
        if self.time is not None:
            values.index = self._times(frame[self.time])
            values = self._even(values.sort_index(), which)
        gaps = int((~np.isfinite(values.to_numpy())).sum())
        if gaps and self.missing == "fill":
            values = values.replace([np.inf, -np.inf], np.nan).ffill().bfill()
        elif gaps:
            raise ValueError(
                f"{self.path}: {gaps} values{which} are missing or infinite; data.missing=fill "
                "lets the last known value go on"
            )
        return torch.tensor(values.to_numpy(np.float64))

    def _times(self, values: pd.Series) -> Any:
        if is_number(values):
            return pd.Index(values)
        known = dates(values)
        if known is None:
            raise ValueError(
                f"{self.path}: column {self.time!r} holds {values.iloc[0]!r} and the like; times "
                "are as 2020-01-31 or 31.01.2020 12:00"
            )
        return pd.DatetimeIndex(known)

    def _even(self, values: pd.DataFrame, which: str) -> pd.DataFrame:
        """Rows at even times; those that are missing altogether become gaps."""
        index = values.index
        if index.has_duplicates:
            twice = index[index.duplicated()][0]
            raise ValueError(
                f"{self.path}: {self.time!r}{which} holds {twice} twice; data.series names the "
                "column that tells several series apart, and times that clocks were set back have "
                "their distance from UTC, as 2024-10-27 02:00+01:00"
            )
        if not isinstance(index, pd.DatetimeIndex):
            return self._counted(values, which)
        frequency: Any = self.frequency or _frequency(index)
        if frequency is None:
            if self.missing is None:
                raise ValueError(
                    f"{self.path}: times{which} are not evenly spaced; data.missing=fill, with "
                    "data.frequency as 1h or D if need be, fills what is missing"
                )
            frequency = pd.Series(index).diff().mode()[0]
        try:
            even = values.asfreq(frequency)
        except ValueError as error:
            raise ValueError(f"data.frequency={self.frequency!r}: {error}") from error
        lost = int((~index.isin(even.index)).sum())
        if lost:
            raise ValueError(
                f"{self.path}: {lost} times{which} are not multiples of {frequency} from the first"
            )
        log.info("%s: every %s%s, %d rows", self.path, frequency, which, len(even))
        return even

    def _counted(self, values: pd.DataFrame, which: str) -> pd.DataFrame:
        """As `_even`, of times that are numbers."""
        times = values.index.to_numpy(np.float64)
        distances = np.diff(times)
        is_even = len(times) < 2 or np.ptp(distances) <= SLACK * distances.mean()
        if self.frequency is None and is_even:
            return values
        try:
            distance = distances.min() if self.frequency is None else float(self.frequency)
        except ValueError as error:
            raise ValueError(
                f"data.frequency={self.frequency!r} must be a number, as the times are"
            ) from error
        steps = (times - times[0]) / distance
        is_near = distance > 0 and steps[-1] < MAX_GAPS * len(steps)
        if not is_near or np.abs(steps - steps.round()).max() > SLACK:
            raise ValueError(
                f"{self.path}: times{which} are not multiples of {distance:g} from the first"
            )
        if self.missing is None:
            raise ValueError(
                f"{self.path}: times{which} are not evenly spaced by {distance:g}; "
                "data.missing=fill fills what is missing"
            )
        values.index = pd.Index(steps.round().astype(np.int64))
        return values.reindex(np.arange(values.index[-1] + 1))


def _frequency(index: pd.DatetimeIndex) -> Any:
    """The even distance of times, in months, quarters, years or working days too; None if none."""
    distances = np.unique(np.diff(index.to_numpy()))
    if len(distances) == 1:
        return pd.Timedelta(distances[0])
    for name in CALENDAR:
        every = pd.date_range(index[0], index[-1], freq=name)
        if len(every) == len(index) and every.equals(index):
            return name
    for months in MONTHS:
        step = pd.DateOffset(months=months)
        if pd.date_range(index[0], periods=len(index), freq=step).equals(index):
            return step
    return None
