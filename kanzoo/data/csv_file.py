"""A table of one's own in a CSV file, its columns chosen by name.

Axes: N samples, F features.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kanzoo.checks import nearest
from kanzoo.data.base import Counts, DrawnDataset, Split
from kanzoo.data.functions import Regression
from kanzoo.data.options import part_size
from kanzoo.data.seeding import split_order


class CSV(Regression, DrawnDataset):
    """The column `target` of a CSV file with a header, to be predicted from the `features`.

    `features` lists names of columns; null takes all others. `test_size` is a fraction or a count
    of the rows, drawn by `split_seed`; `val_size` one of the rest. `standardise` and `dtype` are as
    for functions, and so is `prior`, a formula of the features in the units of the file. Every
    problem of the file is a `ValueError` of one line.
    """

    test_set = "resampled"
    domain = "tables"

    def __init__(
        self,
        *,
        path: str | None = None,
        target: str | None = None,
        features: Sequence[str] | None = None,
        test_size: float = 0.2,
        standardise: str = "both",
        **options: Any,
    ) -> None:
        super().__init__(standardise=standardise, **options)
        self.path = path
        self.target = target
        self.features = features
        self.test_size = test_size

    @property
    def name(self) -> str:
        """The name of the file."""
        return str(self.path)

    @cached_property
    def columns(self) -> tuple[str, ...]:  # type: ignore[override]
        """The names of the features, in order."""
        return tuple(self._read().drop(columns=str(self.target)).columns)

    @cached_property
    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """Features `(N, F)` and target `(N,)`, float64."""
        frame = self._read()
        for name in frame.columns:
            values = frame[name]
            if values.dtype.kind not in "iufb":
                wrong = next(v for v in values if not _is_number(v))
                raise ValueError(f"{self.path}: column {name!r} holds {wrong!r}, not only numbers")
            bad = np.flatnonzero(~np.isfinite(values.to_numpy(np.float64)))
            if len(bad):
                raise ValueError(
                    f"{self.path}: column {name!r} has {len(bad)} missing or infinite values, the "
                    f"first in line {bad[0] + 2}; fill them in or leave these rows out"
                )
            if values.nunique() == 1:
                raise ValueError(
                    f"{self.path}: column {name!r} is constant, {values.iloc[0]}; leave it out"
                )
        y = frame.pop(str(self.target)).to_numpy(np.float64)
        x = frame.to_numpy(np.float64)
        return x, self.residue(x, y)

    def check(self, *, world_size: int = 1) -> None:
        """Check the options and the file."""
        super().check(world_size=world_size)  # which reads the file for its sizes

    def counts(self) -> Counts:
        """Return the sizes of the splits."""
        total = len(self.table[1])
        test = part_size("test_size", self.test_size, total)
        val = part_size("val_size", self.val_size, total - test)
        return self.limited_counts(total - test - val, val, test)

    def cut(self) -> dict[str, Split]:
        """Draw test rows, then validation rows, and scale all by the training rows."""
        x, y = (torch.tensor(values) for values in self.table)
        counts = self.counts()
        test = part_size("test_size", self.test_size, len(y))
        val = part_size("val_size", self.val_size, len(y) - test)
        order = self.test_order(y, "csv")
        rest = order[test:][split_order(y[test:], "split", self.split_seed or 0)]
        chosen = {
            "train": rest[val : val + counts.train],
            "val": rest[: counts.val],
            "test": order[: counts.test],
        }
        splits = {part: Split(x[index], y[index, None]) for part, index in chosen.items()}
        return self.scaled(splits)

    def _read(self) -> Any:
        """The chosen columns as a frame, the target last."""
        import pandas as pd

        if not isinstance(self.path, str) or not isinstance(self.target, str):
            raise ValueError(
                "data=csv needs data.path, a CSV file, and data.target, a column of it"
            )
        if not Path(self.path).is_file():
            raise ValueError(f"data.path: there is no file {self.path}")
        try:
            frame = pd.read_csv(self.path)
        except (ValueError, UnicodeDecodeError) as error:  # pandas' own errors are ValueErrors
            reason = " ".join(str(error).split())
            raise ValueError(f"{self.path} cannot be read as CSV: {reason}") from error
        names = [str(name) for name in frame.columns]
        frame.columns = pd.Index(names)
        features = self.features
        if isinstance(features, str):
            features = [features]
        wanted = [n for n in names if n != self.target] if features is None else list(features)
        for name in (*wanted, self.target):
            if name not in names:
                raise ValueError(f"{self.path} has no column {name!r}: {nearest(name, names)}")
        if not wanted or self.target in wanted or len(set(wanted)) < len(wanted):
            raise ValueError(
                f"data.features must name at least one column, each once and not the target "
                f"{self.target!r}, not {wanted}"
            )
        if len(frame) < 3:
            raise ValueError(f"{self.path} has {len(frame)} rows; at least 3 are needed")
        return frame[[*wanted, self.target]]


def _is_number(value: object) -> bool:
    try:
        float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True
