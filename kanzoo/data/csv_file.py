"""A table of one's own in a CSV or Parquet file, its columns chosen by name.

Axes: N samples, F features.
"""

import logging
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from kanzoo.checks import check_name
from kanzoo.data.base import Counts, DataSpec, DrawnDataset, Split
from kanzoo.data.columns import Columns, dates, distinct, is_number
from kanzoo.data.frames import check_columns, read_frame
from kanzoo.data.functions import Regression
from kanzoo.data.number_texts import check_mixed
from kanzoo.data.options import part_size
from kanzoo.data.seeding import split_order

log = logging.getLogger("kanzoo")

MISSING = ("drop", "mean", "indicator")
MAX_CLASSES = 1000


class CSV(Regression, DrawnDataset):
    """The column `target` of a CSV or Parquet file, to be predicted from the `features`.

    `features` lists names of columns; null takes all others. Every category of columns of texts
    becomes a feature that is 1 or 0, a date its days since 1970. With task=classification the
    target's values are classes. `missing` says what becomes of rows with gaps: null refuses them,
    "drop" leaves them out, "mean" fills them with the mean of the training rows, "indicator" also
    adds a feature that marks them; rows without target are left out by all three.

    `test_size` is a fraction or a count of the rows, drawn by `split_seed`; `val_size` one of the
    rest. With `group`, a column, all rows of a group are in one split; with `time`, a column, the
    latest rows are the test set and those before them the validation set. `standardise` and
    `dtype` are as for functions, and so is `prior`, a formula of the features in the units of the
    file. Every problem of the file is a `ValueError` of one line.
    """

    test_set = "resampled"
    domain = "tables"

    def __init__(
        self,
        *,
        path: str | None = None,
        target: str | None = None,
        features: Sequence[str] | None = None,
        missing: str | None = None,
        group: str | None = None,
        time: str | None = None,
        test_size: float = 0.2,
        standardise: str = "both",
        **options: Any,
    ) -> None:
        super().__init__(standardise=standardise, **options)
        self.path = path
        self.target = _named(target)
        several = isinstance(features, Sequence) and not isinstance(features, str)
        self.features = list(map(_named, features or ())) if several else _named(features)
        self.missing = missing
        self.group = _named(group)
        self.time = _named(time)
        self.test_size = test_size
        self.task = "regression"

    @property
    def name(self) -> str:
        """The name of the file."""
        return str(self.path)

    @property
    def spec(self) -> DataSpec:
        """One value, or one score a class, from as many numbers as there are features."""
        if self.task == "regression":
            return super().spec
        outputs = len(self.classes)
        return DataSpec((len(self.columns),), outputs, self.task, self.classes, "table")

    def use_task(self, task: str) -> None:
        """Take the target as numbers or as classes."""
        self.task = "classification" if task == "classification" else "regression"

    @cached_property
    def columns(self) -> tuple[str, ...]:  # type: ignore[override]
        """The names of the features, in order."""
        names, x = self._features
        marked = [f"{names[k]} is missing" for k in self._gaps(x)]
        return tuple(distinct([*names, *marked]))

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The labels, sorted."""
        values = self._labels
        if pd.api.types.is_float_dtype(values.dtype) and not (values % 1).any():
            values = values.astype(np.int64)  # as they were before gaps made them floats
        if len(values) < 2 or len(values) > min(MAX_CLASSES, len(self._frame) / 2):
            raise ValueError(
                f"{self.path}: column {self.target!r} has {len(values)} different values in "
                f"{len(self._frame)} rows, which are no classes"
            )
        return tuple(str(value) for value in values)

    @cached_property
    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """Features `(N, F)`, NaN in gaps, and target `(N,)`, float64 or numbers of classes."""
        _, x = self._features
        marks = np.isnan(x[:, self._gaps(x)]).astype(np.float64)
        x = np.concatenate([x, marks], axis=1)
        target = self._frame[self.target]
        if self.task == "classification":
            return x, pd.Categorical(target, self._labels).codes.astype(np.int64)
        if not is_number(target):
            check_mixed(self.path, target)
            raise ValueError(
                f"{self.path}: the target {self.target!r} holds {target.iloc[0]!r}, not only "
                "numbers; task=classification takes its values as classes"
            )
        y = target.to_numpy(np.float64)
        return x, self.residue(x, y)

    def check(self, *, world_size: int = 1) -> None:
        """Check the options and the file."""
        if self.missing is not None:
            check_name("missing", self.missing, MISSING)
        if self.group is not None and self.time is not None:
            raise ValueError("data.group and data.time are two ways to split: name one")
        super().check(world_size=world_size)
        self.counts()  # reads the file
        _ = self.spec

    def counts(self) -> Counts:
        """Return the sizes of the splits."""
        return self.limited_counts(*map(len, self._parts()))

    def cut(self) -> dict[str, Split]:
        """Draw or cut test and validation rows, fill gaps and scale all by the training rows."""
        x, y = (torch.tensor(values) for values in self.table)
        y = y if self.task == "classification" else y[:, None]
        parts = zip(("train", "val", "test"), self._parts(), self.counts(), strict=True)
        rows = {part: index[:count] for part, index, count in parts}
        means = torch.nan_to_num(x[rows["train"]].nanmean(0))
        x = torch.where(x.isnan(), means, x)
        splits = {part: Split(x[index], y[index]) for part, index in rows.items()}
        return self.scaled(splits, targets=self.task != "classification")

    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of the training, validation and test split."""
        y = torch.tensor(self.table[1])
        test = part_size("test_size", self.test_size, len(y))
        val = part_size("val_size", self.val_size, len(y) - test)
        if self.time is not None:
            times = self._frame[self.time]
            if not is_number(times) and (known := dates(times)) is not None:
                times = known
            elif not is_number(times):
                raise ValueError(
                    f"{self.path}: column {self.time!r} holds {times.iloc[0]!r} and the like; "
                    "times are numbers, or dates as 2020-01-31 or 31.01.2020"
                )
            order = torch.tensor(np.argsort(times.to_numpy(), kind="stable"))
            return order[: -test - val], order[-test - val : -test], order[-test:]
        if self.group is None:
            order = self.test_order(y, "csv")
            rest = order[test:][split_order(y[test:], "split", self.split_seed or 0)]
            return rest[val:], rest[:val], order[:test]
        codes = torch.tensor(pd.factorize(self._frame[self.group])[0])
        sizes = codes.bincount()
        order = split_order(torch.zeros(len(sizes)), "groups", self.split_seed or 0)
        ends = sizes[order].cumsum(0)
        if len(sizes) < 3 or ends[-1] - sizes[order[-1]] < test + val:
            raise ValueError(
                f"{self.path}: the {len(sizes)} groups of {self.group!r} are too few or too large "
                f"for a test set of {test} and a validation set of {val} rows"
            )
        last = torch.searchsorted(ends, torch.tensor([test, test + val]))
        part = torch.zeros(len(sizes), dtype=torch.long)  # 0: training, 1: validation, 2: test
        part[order[: last[1] + 1]] = 1
        part[order[: last[0] + 1]] = 2
        groups = [torch.nonzero(part[codes] == k)[:, 0] for k in range(3)]
        if not all(map(len, groups)):
            raise ValueError(f"{self.path}: a split by {self.group!r} leaves a part empty")
        return groups[0], groups[1], groups[2]

    def _gaps(self, x: np.ndarray) -> list[int]:
        """The columns whose gaps get a feature of their own."""
        return np.flatnonzero(np.isnan(x).any(0)).tolist() if self.missing == "indicator" else []

    @cached_property
    def _labels(self) -> np.ndarray:
        """The different values of the target, sorted."""
        return np.sort(self._frame[self.target].unique())

    @cached_property
    def _frame(self) -> pd.DataFrame:
        """The rows that are used."""
        if not isinstance(self.path, str) or not isinstance(self.target, str):
            raise ValueError("data=csv needs data.path, a CSV or Parquet file, and data.target")
        frame = read_frame("data.path", self.path)
        wanted = self._wanted(frame)
        helpers = [name for name in (self.group, self.time) if name is not None]
        check_columns(self.path, frame, (*wanted, self.target, *helpers))
        if not wanted and self.features is None:
            raise ValueError(f"{self.path} has no columns to predict {self.target!r} from")
        if not wanted or self.target in wanted or len(set(wanted)) < len(wanted):
            raise ValueError(
                f"data.features must name at least one column, each once and not the target "
                f"{self.target!r}, not {wanted}"
            )
        frame = frame[[*dict.fromkeys([*wanted, self.target, *helpers])]]
        for name in frame.columns:
            self._check_gaps(frame, name)
        if self.missing is not None:
            always = [self.target, *helpers]
            kept = frame.dropna(subset=None if self.missing == "drop" else always)
            if len(kept) < len(frame):
                log.info("%s: %d of %d rows kept", self.path, len(kept), len(frame))
            frame = kept.reset_index(drop=True)
        if len(frame) < 3:
            raise ValueError(f"{self.path} has {len(frame)} rows; at least 3 are needed")
        return frame

    def _wanted(self, frame: pd.DataFrame) -> list[str]:
        if self.features is None:
            others = {self.target, self.group, self.time}
            return [name for name in frame.columns if name not in others]
        return [self.features] if isinstance(self.features, str) else list(self.features)

    def _check_gaps(self, frame: pd.DataFrame, name: str) -> None:
        values = frame[name]
        if pd.api.types.is_numeric_dtype(values.dtype):
            infinite = np.flatnonzero(np.isinf(values.to_numpy(np.float64)))
            if len(infinite):
                raise ValueError(
                    f"{self.path}: column {name!r} has {len(infinite)} infinite values, the first "
                    f"in row {infinite[0] + 1}; leave these rows out"
                )
        bad = np.flatnonzero(values.isna())
        if len(values) == len(bad) > 0:
            raise ValueError(f"{self.path}: column {name!r} is empty; leave it out")
        if len(bad) and self.missing is None:
            raise ValueError(
                f"{self.path}: column {name!r} has {len(bad)} missing values, the first in row "
                f"{bad[0] + 1}; data.missing=drop, mean or indicator says what becomes of them"
            )

    @cached_property
    def _features(self) -> tuple[list[str], np.ndarray]:
        """The names of the features, and their values `(N, F)`."""
        frame = self._frame[self._wanted(self._frame)].copy()
        categories = []
        for name in frame.columns:
            values = frame[name]
            if values.nunique() == 1:
                raise ValueError(
                    f"{self.path}: column {name!r} is constant, {values.iloc[0]}; leave it out"
                )
            if is_number(values):
                continue
            times = dates(values)
            if times is not None:
                frame[name] = times
                continue
            check_mixed(self.path, values)
            if values.nunique() > len(values) / 2:
                raise ValueError(
                    f"{self.path}: column {name!r} holds {values.iloc[0]!r} and other texts, "
                    "neither numbers nor categories, nor dates as 2020-01-31 or 31.01.2020; leave "
                    "it out of data.features"
                )
            categories.append(f"{name} ({values.nunique()})")
        if categories:
            log.info("%s: taken as categories: %s", self.path, ", ".join(categories))
        encoder = Columns().fit(frame)
        return encoder.names, encoder(frame)


def _named(value: Any) -> Any:
    """The name of a column, which may be a number."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value
