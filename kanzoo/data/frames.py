"""Tables of files as frames: CSV in the dialect that it is found in, and Parquet."""

import csv
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from kanzoo.checks import nearest

log = logging.getLogger("kanzoo")

SEPARATORS = (",", ";", "\t", "|")
PARQUET = (".parquet", ".pq")
SEEN = 50  # lines that the dialect is judged by
NUMBER = r"[+-]?\d*,?\d+(?:[eE][+-]?\d+)?"


def read_frame(name: str, path: Any) -> pd.DataFrame:
    """The table of a file, its columns named by texts; `name` is that of the option.

    Separator, decimal comma and encoding of a CSV file are found, and said where they are not a
    comma, a point and UTF-8. Every problem is a `ValueError` of one line.
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
        return pd.read_parquet(path)
    except ImportError as error:
        raise ValueError("Parquet needs pyarrow (pip install kanzoo[parquet])") from error


def _csv(path: str) -> pd.DataFrame:
    data = Path(path).read_bytes()
    encoding = _encoding(data)
    lines = data.decode(encoding).splitlines()[:SEEN]
    separator = _separator([line for line in lines if line.strip()])
    options: Any = {"sep": separator, "encoding": encoding, "skipinitialspace": True}
    frame = pd.read_csv(path, **options)
    decimal = "."
    if separator != "," and any(_has_decimal_comma(frame[column]) for column in frame):
        decimal = ","
        frame = pd.read_csv(path, decimal=",", **options)
    if (separator, decimal, encoding) != (",", ".", "utf-8-sig"):
        log.info(
            "%s: separator %r, decimal %r, encoding %s", path, separator, decimal,
            encoding.removesuffix("-sig"),
        )  # fmt: skip
    return frame


def _encoding(data: bytes) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    try:
        data.decode("utf-8-sig")
        return "utf-8-sig"
    except UnicodeDecodeError:
        return "cp1252"


def _separator(lines: list[str]) -> str:
    """The one that cuts all lines into the same number of fields, the more the better."""
    best, most = ",", 1
    for separator in SEPARATORS:
        sizes = {len(row) for row in csv.reader(lines, delimiter=separator, skipinitialspace=True)}
        if len(sizes) == 1 and min(sizes) > most:
            best, most = separator, min(sizes)
    return best


def _has_decimal_comma(values: pd.Series) -> bool:
    known = values.dropna()
    if not len(known) or pd.api.types.is_numeric_dtype(known.dtype):
        return False
    texts = known.astype(str).str.strip()
    return bool(texts.str.fullmatch(NUMBER).all() and texts.str.contains(",").any())
