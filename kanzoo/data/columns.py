"""Columns of a table as numbers: categories, flags, dates and gaps, by scikit-learn's tools.

Axes: N samples, C columns, F features that they become.
"""

import logging
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder

log = logging.getLogger("kanzoo")

MAX_CATEGORIES = 20  # of a column; rarer ones become one feature
FORMATS = ("ISO8601", "%d.%m.%Y", "%d.%m.%Y %H:%M", "%d.%m.%Y %H:%M:%S", "%d/%m/%Y", "%m/%d/%Y")


def is_number(values: pd.Series) -> bool:
    """Whether a column holds numbers, flags and gaps only; whole columns of objects are tried."""
    kind = values.dtype
    if isinstance(kind, pd.CategoricalDtype) or pd.api.types.is_datetime64_any_dtype(kind):
        return False
    if pd.api.types.is_numeric_dtype(kind) or pd.api.types.is_bool_dtype(kind):
        return not pd.api.types.is_complex_dtype(kind)
    known = values.dropna()
    return bool(known.map(lambda value: isinstance(value, (int, float, np.number))).all())


def dates(values: pd.Series) -> pd.Series | None:
    """Texts as times in UTC, gaps aside, if all of them are and in one way only; None otherwise.

    As 2020-01-31, 31.01.2020, or with slashes where some day is above 12; hours may follow.
    """
    if pd.api.types.is_datetime64_any_dtype(values.dtype):
        return pd.to_datetime(values, utc=True).dt.tz_localize(None)
    if isinstance(values.dtype, pd.CategoricalDtype) or not values.map(_is_text_or_gap).all():
        return None
    found = []
    for kind in FORMATS:
        times = pd.to_datetime(values, format=kind, errors="coerce", utc=True)
        if times.notna().sum() == values.notna().sum() > 0:
            found.append(times)
    return found[0].dt.tz_localize(None) if len(found) == 1 else None


def _is_text_or_gap(value: Any) -> bool:
    return isinstance(value, str) or pd.isna(value)


class Columns:
    """Turns a frame into numbers `(N, F)` with the names of the features.

    Numbers and flags stay, dates become days since 1970, and every category of other columns
    becomes a feature that is 1 or 0 ("kind=red"; two categories become one feature). Unknown
    categories count as the rare ones, or as none.
    """

    def fit(self, frame: pd.DataFrame) -> Self:
        """Learn the kinds and the categories of the columns."""
        numbers = [name for name in frame if is_number(frame[name])]
        times = [n for n in frame if n not in numbers and dates(frame[n]) is not None]
        others = [name for name in frame if name not in {*numbers, *times}]
        for name in others:
            if (count := frame[name].nunique()) > max(MAX_CATEGORIES, len(frame) / 2):
                log.warning("column %r holds %d texts, which say little: leave it out", name, count)
        one_hot = OneHotEncoder(
            drop="if_binary",
            handle_unknown="infrequent_if_exist",
            max_categories=MAX_CATEGORIES,
            sparse_output=False,
            feature_name_combiner=_named,
        )
        self.transformer = ColumnTransformer(
            [
                ("numbers", _converter(_numbers), numbers),
                ("dates", _converter(_days), times),
                ("categories", one_hot, others),
            ],
            verbose_feature_names_out=False,
        ).fit(_plain(frame, others))
        self.others = others
        self.names = [str(name) for name in self.transformer.get_feature_names_out()]
        return self

    def __call__(self, frame: pd.DataFrame) -> np.ndarray:
        """Numbers `(N, F)`, float64, NaN where a number or a date is missing."""
        values = self.transformer.transform(_plain(frame, self.others))
        return np.asarray(values, np.float64)


class Gaps:
    """Fills gaps by the medians of the columns; a column that had gaps gets a feature for them."""

    def fit(self, x: np.ndarray, indicator: bool = True) -> Self:
        """Learn from x `(N, F)`."""
        self.imputer = SimpleImputer(
            strategy="median", add_indicator=indicator, keep_empty_features=True
        ).fit(x)
        self.marked = [int(k) for k in self.imputer.indicator_.features_] if indicator else []
        return self

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """x without gaps, `(N, F + marked)`."""
        return self.imputer.transform(x) if self.marked or np.isnan(x).any() else x

    def named(self, names: list[str]) -> list[str]:
        """The names of all features."""
        return [*names, *(f"{names[k]} is missing" for k in self.marked)]


def _plain(frame: pd.DataFrame, others: list[Any]) -> pd.DataFrame:
    """The frame with texts where there are categories, whatever their kind."""
    texts = {name: _texts(frame[name]) for name in others}
    return frame.assign(**texts) if texts else frame


def _texts(values: pd.Series) -> pd.Series:
    filled = values.astype(object).where(values.notna(), "missing")
    return filled.map(str)


def _named(feature: Any, category: Any) -> str:
    return f"{feature}={category}"


def _converter(function: Any) -> FunctionTransformer:
    return FunctionTransformer(function, feature_names_out="one-to-one")


def _numbers(frame: pd.DataFrame) -> np.ndarray:
    return _stacked(
        frame, lambda values: pd.to_numeric(values).to_numpy(np.float64, na_value=np.nan)
    )


def _days(frame: pd.DataFrame) -> np.ndarray:
    start, day = pd.Timestamp(0), pd.Timedelta(days=1)

    def days(values: pd.Series) -> np.ndarray:
        times = dates(values)
        if times is None:
            raise ValueError(f"column {values.name!r} holds something else than dates")
        return ((times - start) / day).to_numpy(float)

    return _stacked(frame, days)


def _stacked(frame: pd.DataFrame, convert: Callable[[pd.Series], np.ndarray]) -> np.ndarray:
    columns = [convert(frame[name]) for name in frame.columns]
    return np.stack(columns, axis=1) if columns else np.empty((len(frame), 0))
