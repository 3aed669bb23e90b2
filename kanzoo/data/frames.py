"""Tables of files as frames: CSV in the dialect that it is found in, and Parquet."""

import io
import logging
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kanzoo.checks import nearest
from kanzoo.data.columns import with_times
from kanzoo.data.dialect import Dialect, decode, find_dialect
from kanzoo.data.number_texts import POINTS, read_numbers

log = logging.getLogger("kanzoo")

PARQUET = (".parquet", ".pq")
THOUSANDS = "%s: column %r has separators of thousands"


def read_frame(name: str, path: Any) -> pd.DataFrame:
    """The table of a file, its columns named by texts; `name` is that of the option.

    Separator, decimal comma and encoding of a CSV file are found, and said where they are not a
    comma, a point and UTF-8; so are lines before the header, separators of thousands, signs of gaps
    among numbers, and a first column without name, which is left out where it names the rows. Every
    problem is a `ValueError` of one line.
    """
    if not isinstance(path, str):
        raise ValueError(f"{name} must be a CSV or Parquet file, not {path!r}")
    if not Path(path).is_file():
        raise ValueError(f"{name}: there is no file {path}")
    try:
        frame = _parquet(path) if Path(path).suffix.lower() in PARQUET else _csv(path)
    except (ValueError, OSError) as error:  # pandas' own errors are ValueErrors
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read: {reason}") from error
    names = [str(name).strip() for name in frame.columns]
    twice = [n for n in names if names.count(n) > 1]
    if twice:
        raise ValueError(f"{path} has two columns {twice[0]!r}")
    frame.columns = pd.Index(names)
    return frame


def check_columns(path: Any, frame: pd.DataFrame, names: Sequence[str]) -> None:
    """Raise `ValueError` with the nearest name for a column that is not there."""
    known = list(frame.columns)
    for name in names:
        if name not in known:
            raise ValueError(f"{path} has no column {name!r}: {nearest(name, known)}")


def _parquet(path: str) -> pd.DataFrame:
    try:
        frame = with_times(pd.read_parquet(path))
    except ImportError as error:
        raise ValueError("Parquet needs pyarrow (pip install kanzoo[parquet])") from error
    objects = [n for n in frame if frame[n].dtype == object or _is_texts(frame[n])]
    for name in objects:
        if frame[name].map(lambda value: isinstance(value, (list, dict, np.ndarray))).any():
            log.info("%s: column %r holds lists and is left out", path, name)
            frame = frame.drop(columns=name)
    _read_texts(path, frame, [n for n in objects if n in frame and _is_texts(frame[n])], ",", True)
    return frame


def _is_texts(values: pd.Series) -> bool:
    if isinstance(values.dtype, pd.CategoricalDtype) or _is_read(values):
        return False
    return bool(values.dropna().map(lambda value: isinstance(value, str)).all())


def _csv(path: str) -> pd.DataFrame:
    text, encoding = decode(Path(path))
    dialect = find_dialect(text)
    names = dialect.names
    twice = [name for name in names if name and names.count(name) > 1]
    if twice:
        raise ValueError(f"it has two columns {twice[0]!r}")
    columns = [name or f"Unnamed: {k}" for k, name in enumerate(names)]
    options: Any = {"sep": r"\s+" if dialect.separator == " " else dialect.separator}
    options |= {"names": columns, "header": None, "index_col": False, "low_memory": False}
    frame = _without_comments(_read(text, dialect.skipped, options))
    others = [name for name in frame if not _is_read(frame[name])]
    fractions = any((frame[n] % 1).any() for n in frame.columns.difference(others))
    commas = _read_texts(path, frame, others, dialect.separator, fractions)
    if commas:  # so that 1.234 may be more than a thousand
        floats = [n for n in frame if n not in others and frame[n].dtype == float]
        raw = _read(text, dialect.skipped, {**options, "usecols": floats, "dtype": str})
        _read_points(path, frame, raw)
    frame = _without_names(path, frame, dialect)
    if (dialect.separator, commas, encoding) != (",", False, "utf-8"):
        decimal = "," if commas else "."
        given = (path, dialect.separator, decimal, encoding)
        log.info("%s: separator %r, decimal %r, encoding %s", *given)
    if dialect.lost > 0:
        log.info("%s: %d lines before the header left out", path, dialect.lost)
    return frame


def _without_comments(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame without lines that begin with # and have fewer fields than others."""
    first = frame.iloc[:, 0]
    if frame.shape[1] < 2 or pd.api.types.is_numeric_dtype(first.dtype):
        return frame
    marked = first.astype(str).str.startswith("#") & frame.iloc[:, -1].isna()
    return frame[~marked].reset_index(drop=True).infer_objects() if marked.any() else frame


def _read(text: str, skipped: int, options: dict[str, Any]) -> pd.DataFrame:
    """The rows of a text after some lines."""
    stream = io.StringIO(text, newline="")
    for _ in range(skipped):
        stream.readline()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # of the first row
            return pd.read_csv(stream, skipinitialspace=True, **options)
    except pd.errors.ParserWarning:
        raise ValueError("its first row has more fields than the header") from None
    except pd.errors.ParserError as error:
        found = re.search(r"in line (\d+), saw (\d+)", str(error))
        if found is None:
            raise
        names = len(options["names"])
        line = skipped + int(found[1])
        raise ValueError(f"line {line} has {found[2]} fields, the header {names}") from None


def _is_read(values: pd.Series) -> bool:
    kind = values.dtype
    return pd.api.types.is_numeric_dtype(kind) or pd.api.types.is_bool_dtype(kind)


def _read_texts(
    path: str, frame: pd.DataFrame, names: list[Any], separator: str, fractions: bool
) -> bool:
    """Turn columns of texts that are numbers into such; returns whether decimals are commas."""
    commas = False
    for name in names:
        texts = read_numbers(frame[name], separator == ";" or (separator != "," and not fractions))
        if texts is None:
            is_text = frame[name].map(lambda value: isinstance(value, str))
            frame[name] = frame[name].where(~is_text, frame[name].astype(str).str.strip())
            continue
        frame[name] = texts.values
        commas |= texts.style.decimal == "," and not texts.is_whole
        if texts.gaps:
            gaps = ", ".join(map(repr, texts.gaps))
            log.info("%s: column %r: %s counted as missing", path, name, gaps)
        if texts.style.thousands:
            log.info(THOUSANDS, path, name)
    return commas


def _read_points(path: str, frame: pd.DataFrame, raw: pd.DataFrame) -> None:
    """Read numbers again whose points all stand before three digits, beside decimal commas."""
    for name in raw:
        texts = raw[name].dropna().str.strip()
        if len(texts) and POINTS.match(texts).all():
            frame[name] = POINTS.read(texts).reindex(frame.index)
            log.info(THOUSANDS, path, name)


def _without_names(path: str, frame: pd.DataFrame, dialect: Dialect) -> pd.DataFrame:
    """The frame without columns that have no name and are empty, or count or name the rows."""
    for k, name in enumerate(dialect.names):
        values = frame[f"Unnamed: {k}"] if not name else None
        if values is None:
            continue
        counts = [np.arange(len(frame)) + start for start in (0, 1)]
        is_count = any(np.array_equal(values, count) for count in counts)
        is_named = k == 0 and (is_count or dialect.extra == "first" or _are_names(values))
        if is_named:
            log.info("%s: the first column, which names the rows, is left out", path)
        if is_named or values.isna().all():
            frame = frame.drop(columns=f"Unnamed: {k}")
    return frame


def _are_names(values: pd.Series) -> bool:
    return values.is_unique and not pd.api.types.is_numeric_dtype(values.dtype)
