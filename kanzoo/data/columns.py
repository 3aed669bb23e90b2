"""Columns of a table as numbers: categories, flags, dates and gaps, by scikit-learn's tools.

Axes: N samples, C columns, F features that they become.
"""

import logging
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder

log = logging.getLogger("kanzoo")

MAX_CATEGORIES = 20  # of a column; rarer ones become one feature
SLASHES = ("%d/%m/%Y", "%m/%d/%Y")
FORMATS = (
    "ISO8601",
    *(day + hour for day in ("%d.%m.%Y", *SLASHES) for hour in ("", " %H:%M", " %H:%M:%S")),
)

YEAR_MONTH = r"\s*\d{4}-\d{2}"


def check_frame(frame: pd.DataFrame) -> None:
    """Raise `ValueError` of one line for two columns of one name, or numbers that are none here."""
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        raise ValueError(f"X has two columns {twice[0]!r}")
    for name in frame:
        values = frame[name]
        if pd.api.types.is_complex_dtype(values.dtype):
            raise ValueError(f"column {name!r} holds complex numbers: give real and imaginary part")
        if is_number(values) or values.nunique() <= MAX_CATEGORIES:
            continue
        known = values.dropna().astype(object)
        texts = known.map(lambda value: isinstance(value, str)).all()
        if texts and pd.to_numeric(known, errors="coerce").notna().all():
            raise ValueError(
                f"column {name!r} holds numbers as texts, {known.iloc[0]!r}; pandas.to_numeric "
                "makes them numbers"
            )


def with_times(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with spans of time as days, and periods as their starts."""
    changed: dict[Any, Any] = {}
    for name, kind in frame.dtypes.items():
        if pd.api.types.is_timedelta64_dtype(kind):
            changed[name] = frame[name].dt.total_seconds() / 86_400
        elif isinstance(kind, pd.PeriodDtype):
            changed[name] = frame[name].dt.to_timestamp()
    return frame.assign(**changed) if changed else frame


def with_texts_as_names(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with columns that are named by texts, which those may be that were numbered."""
    return frame.set_axis([str(name) for name in frame.columns], axis=1)


def distinct(names: list[str]) -> list[str]:
    """The names, those that occurred before with a number: of features and columns alike."""
    found: list[str] = []
    for name in names:
        count, new = 2, name
        while new in found:
            new, count = f"{name} ({count})", count + 1
        found.append(new)
    return found


def is_number(values: pd.Series) -> bool:
    """Whether a column holds numbers, flags and gaps only; whole columns of objects are tried."""
    kind = values.dtype
    if isinstance(kind, pd.CategoricalDtype) or pd.api.types.is_datetime64_any_dtype(kind):
        return False
    if pd.api.types.is_numeric_dtype(kind) or pd.api.types.is_bool_dtype(kind):
        return not pd.api.types.is_complex_dtype(kind)
    known = values.dropna()
    return bool(known.map(lambda value: isinstance(value, (int, float, np.number, Decimal))).all())


def dates(values: pd.Series) -> pd.Series | None:
    """Texts as times in UTC, gaps aside, if all of them are and in one way only; None otherwise.

    As 2020-01-31, 31.01.2020, or with slashes where some day is above 12; hours may follow.
    """
    known = values.dropna()
    are_dates = values.dtype == object and known.map(lambda v: isinstance(v, date)).all()
    if pd.api.types.is_datetime64_any_dtype(values.dtype) or (are_dates and len(known)):
        return pd.to_datetime(values, utc=True).dt.tz_localize(None)
    if isinstance(values.dtype, pd.CategoricalDtype) or not values.map(_is_text_or_gap).all():
        return None
    found = []
    for kind in FORMATS:
        if kind == FORMATS[0] and not known.str.match(YEAR_MONTH).all():
            continue  # numbers of four digits are no years
        times = pd.to_datetime(values, format=kind, errors="coerce", utc=True)
        if times.notna().sum() == len(known) > 0:
            found.append(times)
    return found[0].dt.tz_localize(None) if len(found) == 1 else None


def _is_text_or_gap(value: Any) -> bool:
    return isinstance(value, str) or pd.isna(value)


class Columns:
    """Turns a frame into numbers `(N, F)` with the names of the features.

    Numbers and flags stay, dates become days since 1970, and every category of other columns
    becomes a feature that is 1 or 0 ("kind=red"; two categories become one feature). Unknown
    categories count as the rare ones ("kind=others"), or as none.
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
        fitted = self.transformer.named_transformers_["categories"]
        encoded = fitted.get_feature_names_out() if others else []
        self.names = distinct([str(name) for name in (*numbers, *times, *encoded)])
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
        return distinct([*names, *(f"{names[k]} is missing" for k in self.marked)])


def _plain(frame: pd.DataFrame, others: list[Any]) -> pd.DataFrame:
    """The frame with texts where there are categories, whatever their kind."""
    texts = {name: _texts(frame[name]) for name in others}
    return frame.assign(**texts) if texts else frame


def _texts(values: pd.Series) -> pd.Series:
    filled = values.astype(object).where(values.notna(), "missing")
    return filled.map(str)


def _named(feature: Any, category: Any) -> str:
    rare = category == "infrequent_sklearn"  # scikit-learn's name for all of them
    return f"{feature}={'others' if rare else category}"


def _converter(function: Any) -> FunctionTransformer:
    return FunctionTransformer(function, feature_names_out="one-to-one")


def _numbers(frame: pd.DataFrame) -> np.ndarray:
    def numbers(values: pd.Series) -> np.ndarray:
        try:
            return pd.to_numeric(values).to_numpy(np.float64, na_value=np.nan)
        except (ValueError, TypeError) as error:
            raise ValueError(f"column {values.name!r} holds something else than numbers") from error

    return _stacked(frame, numbers)


def _days(frame: pd.DataFrame) -> np.ndarray:
    def days(values: pd.Series) -> np.ndarray:
        times = dates(values)
        if times is None:
            raise ValueError(f"column {values.name!r} holds something else than dates")
        since = times.to_numpy("datetime64[us]") - np.datetime64(0, "us")
        return since / np.timedelta64(1, "D")

    return _stacked(frame, days)


def _stacked(frame: pd.DataFrame, convert: Callable[[pd.Series], np.ndarray]) -> np.ndarray:
    columns = [convert(frame[name]) for name in frame.columns]
    return np.stack(columns, axis=1) if columns else np.empty((len(frame), 0))
