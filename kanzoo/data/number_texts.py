"""Columns of texts that are numbers: decimal commas, separators of thousands, signs of gaps."""

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd

GAPS = frozenset(
    (
        "?",
        "-",
        "--",
        "---",
        ".",
        "..",
        "na",
        "n.a.",
        "n/a",
        "nd",
        "n.d.",
        "n/d",
        "missing",
        "\u2013",
    )
)
BLANKS = " \u00a0\u202f\u2009'"  # between thousands
FEW = 20  # different numbers up to which a column that holds other texts too may be categories


@dataclass(frozen=True)
class Style:
    """How numbers are written: their decimal sign, and what stands between thousands."""

    decimal: str
    thousands: str = ""

    def match(self, texts: pd.Series) -> pd.Series:
        """Which texts are such numbers."""
        whole = rf"[1-9]\d{{0,2}}(?:[{self.thousands}]\d{{3}})+|\d+" if self.thousands else r"\d+"
        point = re.escape(self.decimal)
        number = rf"[+-]?(?:(?:{whole})(?:{point}\d*)?|{point}\d+)(?:[eEdD][+-]?\d+)?"
        return texts.str.fullmatch(number)

    def read(self, texts: pd.Series) -> pd.Series:
        """The numbers."""
        if self.thousands:
            texts = texts.str.replace(rf"[{self.thousands}]", "", regex=True)
        texts = texts.str.replace(self.decimal, ".").str.replace("[dD]", "e", regex=True)
        return texts.astype(float)


POINT, COMMA = Style("."), Style(",")
COMMAS, POINTS = Style(".", ","), Style(",", ".")  # between thousands
STYLES = (POINT, COMMA, COMMAS, POINTS, Style(".", BLANKS), Style(",", BLANKS))


@dataclass(frozen=True)
class Texts:
    """A column of texts as numbers, how they were written, and the signs of gaps among them."""

    values: pd.Series
    style: Style
    gaps: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        """Whether no number has decimals."""
        return not (self.values % 1).any()


def read_numbers(values: pd.Series, has_commas: bool) -> Texts | None:
    """A column of texts as numbers, or None if they are none.

    `has_commas` says whether commas are the decimal signs of the file, which decides on 1,234.
    """
    known = values.dropna()
    texts = known.astype(str).str.strip().str.replace("\u2212", "-")
    signs = texts.str.lower().isin(GAPS)
    texts = texts[~signs]
    if not len(texts):
        return None
    kinds = [style for style in STYLES if style.match(texts).all()]
    if not kinds:
        return None
    if POINT not in kinds and COMMAS in kinds and not has_commas:
        kinds = [COMMAS]
    style = kinds[0]
    numbers = style.read(texts).reindex(values.index)
    return Texts(numbers, style, tuple(sorted(set(known[signs].astype(str)))))


def check_mixed(path: object, values: pd.Series) -> None:
    """Raise `ValueError` if most texts are numbers, but not so few that they may be categories."""
    texts = values.dropna().astype(str).str.strip()
    are_numbers = np.max([style.match(texts).to_numpy(bool) for style in STYLES], axis=0)
    odd = texts[~are_numbers]
    if not 0 < len(odd) * 2 < len(texts):
        return
    row = int(np.flatnonzero(values.index == odd.index[0])[0]) + 1
    is_units = row == 1 and len(odd) == 1
    if is_units or texts[are_numbers].nunique() > FEW:
        hint = " (a row of units?)" if is_units else ""
        raise ValueError(
            f"{path}: column {values.name!r} holds numbers, but {odd.iloc[0]!r} in row {row}{hint};"
            " correct that or leave it out"
        )
