"""Names of columns as symbols: any string is a name, and a legend says which symbol it became."""

import keyword
import re
from collections.abc import Sequence

import numpy as np
import sympy

RESERVED = {
    *keyword.kwlist, "E", "I", "N", "O", "Q", "S", "pi", "oo", "zoo", "nan", "Abs", "sign", "sin",
    "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth", "asin", "acos", "atan",
    "asinh", "acosh", "atanh", "atan2", "exp", "log", "ln", "sqrt", "cbrt", "Min", "Max", "erf",
    "erfc", "gamma", "beta", "zeta", "besselj", "bessely", "besseli", "besselk", "Heaviside",
    "abs", "min", "max", "numpy", "np",
}  # fmt: skip


def make_symbols(names: Sequence[object]) -> list[sympy.Symbol]:
    """Real symbols for the names of columns; `ValueError` for names that occur twice.

    A name that cannot stand in a formula, as "flow (m/s)" or "sin", becomes one that can.
    """
    texts = [str(name) for name in names]
    if len(set(texts)) != len(texts):
        raise ValueError(f"columns must have different names, got {texts}")
    plain = {text for text in texts if _is_plain(text)}
    taken = set(plain)
    result = []
    for text in texts:
        symbol = text if text in plain else _plain(text, taken)
        taken.add(symbol)
        result.append(sympy.Symbol(symbol, real=True))
    return result


def with_signs(symbols: Sequence[sympy.Symbol], x: np.ndarray) -> list[sympy.Symbol]:
    """Symbols of the same names, positive where the column of x `(N, C)` is: |x| is x then."""
    return [
        sympy.Symbol(symbol.name, positive=True) if values.min() > 0 else symbol
        for symbol, values in zip(symbols, x.T, strict=True)
    ]


def legend(names: Sequence[object], symbols: Sequence[sympy.Symbol]) -> dict[str, str]:
    """The symbols that are not the names of their columns, with these names."""
    pairs = zip(symbols, names, strict=True)
    return {symbol.name: str(name) for symbol, name in pairs if symbol.name != str(name)}


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isidentifier() and text not in RESERVED


def _plain(text: str, taken: set[str]) -> str:
    """An identifier that reminds of a name, and is not taken yet."""
    word = re.sub(r"[^0-9A-Za-z]+", "_", text).strip("_")[:24].strip("_")
    if not word or word[0].isdigit():
        word = f"x_{word}".rstrip("_")
    if not _is_plain(word):
        word += "_"
    number, result = 2, word
    while result in taken or not _is_plain(result):
        result, number = f"{word.rstrip('_')}_{number}", number + 1
    return result
