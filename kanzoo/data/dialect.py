"""How a CSV file is written: its encoding, its separator, and where its header is."""

import csv
import io
import re
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

SEPARATORS = (",", ";", "\t", "|", " ")
SEEN = 200  # rows that the dialect is judged by
NUMBER = re.compile(r"[+-]?(\d+[.,]?\d*|[.,]\d+)([eEdD][+-]?\d+)?")
PACKED = {b"PK\x03\x04": "a zip or Excel file", b"\x1f\x8b": "compressed"}


@dataclass(frozen=True)
class Dialect:
    """What was found: rows start after `skipped` lines, the header among these.

    `names` has a name for every field of a row; `lost` says how many rows before the header were
    left out. An `extra` field of the rows has no name in the header: "first" of names of the rows,
    "last" and empty of a separator at the ends of rows.
    """

    separator: str
    skipped: int
    names: list[str]
    lost: int = 0
    extra: str | None = None


def decode(path: Path) -> tuple[str, str]:
    """The text of a file and its encoding; `ValueError` of one line if it is no text."""
    data = path.read_bytes()
    for start, kind in PACKED.items():
        if data.startswith(start):
            raise ValueError(f"it is {kind}: save it as CSV")
    head = data[:2000]
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    elif head[1::2].count(0) > len(head) / 4:
        encoding = "utf-16-le"
    elif head[::2].count(0) > len(head) / 4:
        encoding = "utf-16-be"
    else:
        try:
            return _without_zeros(data.decode("utf-8-sig")), "utf-8"
        except UnicodeDecodeError:
            encoding = "cp1252"
    try:
        return _without_zeros(data.decode(encoding)), encoding
    except UnicodeDecodeError as error:
        raise ValueError("it is neither UTF-8 nor UTF-16 nor Windows-1252: save it anew") from error


def _without_zeros(text: str) -> str:
    if "\0" in text:
        raise ValueError("it holds zero bytes and is no text")
    return text


def find_dialect(text: str) -> Dialect:
    """The separator that cuts most rows into as many fields, most of them numbers; the header.

    Lines before the header are left out, and so are those with # at their start that are no rows.
    A line `sep=;` decides. Raises `ValueError` for a file without rows or without header.
    """
    stated = re.match(r"sep=(.)\r?\n", text)
    candidates = (stated[1],) if stated else SEPARATORS
    separator = max(candidates, key=lambda s: _judged(_rows(text, s)))
    rows = _rows(text, separator)
    if not rows:
        raise ValueError("it is empty")
    width = _width(rows)
    sizes = [len(row) for row, _ in rows]
    first = sizes.index(width)
    extra = None
    before = rows[first - 1][0] if first else []
    if before and _holds_numbers(rows[first][0]) and len(before) == width - 1:
        first -= 1
        full = [row for row, _ in rows[first + 1 :] if len(row) == width]
        extra = "last" if all(not row[-1].strip() for row in full) else "first"
    elif before[:1] == ["#"] and len(before) == width + 1:
        first -= 1
    names, line = rows[first]
    names = names[1:] if names[0] == "#" and len(names) > width else names
    if names[0].startswith("#"):  # as NumPy writes a header
        following = [row for row, _ in rows[first + 1 :]]
        if following and len(following[0]) == width and not _holds_numbers(following[0]):
            first += 1
            names, line = rows[first]
        names = [names[0].lstrip("# "), *names[1:]]
    names = [name.strip() for name in names]
    if all(NUMBER.fullmatch(name) for name in names):
        raise ValueError(f"it has no header: its first row holds numbers only, {names[0]} first")
    names = {"first": ["", *names], "last": [*names, ""]}.get(extra or "", names)
    return Dialect(separator, line, names, first - bool(stated), extra)


def _rows(text: str, separator: str) -> list[tuple[list[str], int]]:
    """The first rows that are not blank, and the lines at which they end."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    rows = []
    try:
        for row in islice(reader, SEEN):
            row = row[:-1] if separator == " " and len(row) > 1 and not row[-1] else row
            row = row[1:] if separator == " " and len(row) > 1 and not row[0] else row
            if any(field.strip() for field in row):
                rows.append((row, reader.line_num))
    except csv.Error as error:
        raise ValueError(str(error)) from error
    if len(rows) == SEEN and len(rows) > 1:
        rows.pop()
    return rows


def _width(rows: list[tuple[list[str], int]]) -> int:
    counts = Counter(len(row) for row, _ in rows)
    return max(counts, key=lambda size: (counts[size], size))


def _judged(rows: list[tuple[list[str], int]]) -> tuple[float, float, int]:
    """How well a separator does: the share of rows of one size, and that of numbers in them."""
    width = _width(rows) if rows else 1
    if width == 1:
        return 0.0, 0.0, 0
    same = [row for row, _ in rows if len(row) == width]
    fields = [field.strip() for row in same[1:] for field in row]
    numbers = sum(bool(NUMBER.fullmatch(field)) or not field for field in fields)
    return round(len(same) / len(rows), 1), numbers / max(len(fields), 1), width


def _holds_numbers(row: list[str]) -> bool:
    return any(NUMBER.fullmatch(field.strip()) for field in row)
