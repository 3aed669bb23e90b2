"""Columns of a table as numbers: categories, flags, dates and gaps, by scikit-learn's tools.

Axes: N samples, C columns, F features that they become.
"""

from collections.abc import Callable
from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder

MAX_CATEGORIES = 20  # of a column; rarer ones become one feature


def is_number(values: pd.Series) -> bool:
    """Whether a column holds numbers, flags and gaps only; whole columns of objects are tried."""
    kind = values.dtype
    if isinstance(kind, pd.CategoricalDtype) or pd.api.types.is_datetime64_any_dtype(kind):
        return False
    if pd.api.types.is_numeric_dtype(kind) or pd.api.types.is_bool_dtype(kind):
        return not pd.api.types.is_complex_dtype(kind)
    known = values.dropna()
    return bool(known.map(lambda value: isinstance(value, (int, float, np.number))).all())


class Columns:
    """Turns a frame into numbers `(N, F)` with the names of the features.

    Numbers and flags stay, dates become days since 1970, and every category of other columns
    becomes a feature that is 1 or 0 ("kind=red"; two categories become one feature). Unknown
    categories count as the rare ones, or as none.
    """

    def fit(self, frame: pd.DataFrame) -> Self:
        """Learn the kinds and the categories of the columns."""
        numbers = [name for name in frame if is_number(frame[name])]
        dates = [n for n in frame if pd.api.types.is_datetime64_any_dtype(frame[n].dtype)]
        others = [name for name in frame if name not in {*numbers, *dates}]
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
                ("dates", _converter(_days), dates),
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
    start, day = pd.Timestamp(0, tz="UTC"), pd.Timedelta(days=1)
    return _stacked(
        frame, lambda values: ((pd.to_datetime(values, utc=True) - start) / day).to_numpy(float)
    )


def _stacked(frame: pd.DataFrame, convert: Callable[[pd.Series], np.ndarray]) -> np.ndarray:
    columns = [convert(frame[name]) for name in frame.columns]
    return np.stack(columns, axis=1) if columns else np.empty((len(frame), 0))
