"""Formulas as code: LaTeX, SymPy, Python with NumPy, and C."""

from collections.abc import Mapping, Sequence
from typing import Any

import sympy
from sympy.printing.c import C99CodePrinter
from sympy.printing.numpy import NumPyPrinter

from kanzoo.checks import check_name

CODES = ("latex", "sympy", "python", "c")


def write_code(
    language: str,
    expressions: Sequence[sympy.Expr],
    symbols: Sequence[sympy.Symbol],
    legend: Mapping[str, str],
) -> str:
    """Expressions in symbols as code of a language, the legend of the symbols as comments.

    Python and C define `formula`, which takes the columns in their order; in C several outputs are
    written to `out`.
    """
    check_name("language", language, CODES)
    names = [symbol.name for symbol in symbols]
    if language == "latex":
        lines = [f"% {s}: {n}" for s, n in legend.items()]
        return "\n".join([*lines, " \\\\\n".join(sympy.latex(e) for e in expressions)])
    if language == "c":
        return _c(expressions, names, legend)
    comments = [f"# {s}: {n!r}" for s, n in legend.items()]
    if language == "sympy":
        defined = [f"{name} = sympy.Symbol({name!r}, real=True)" for name in names]
        texts = [_Sympy().doprint(e) for e in expressions]
        return "\n".join(
            ["import sympy", "", *comments, *defined, f"expressions = [{', '.join(texts)}]"]
        )
    texts = [NumPyPrinter({"fully_qualified_modules": True}).doprint(e) for e in expressions]
    result = texts[0] if len(texts) == 1 else f"numpy.stack([{', '.join(texts)}], axis=-1)"
    head = f"def formula({', '.join(names)}):"
    return "\n".join(["import numpy", "", *comments, "", head, f"    return {result}"])


def _c(expressions: Sequence[sympy.Expr], names: Sequence[str], legend: Mapping[str, str]) -> str:
    printer = C99CodePrinter({"math_macros": {}})
    comments = [f"/* {s}: {n.replace('*/', '* /')} */" for s, n in legend.items()]
    safe = {sympy.Symbol(n, real=True): sympy.Symbol(f"{n}_c", real=True) for n in names if n in _C}
    shown = [f"{n}_c" if n in _C else n for n in names]
    texts = [printer.doprint(expression.xreplace(safe)) for expression in expressions]
    columns = ", ".join(f"double {name}" for name in shown)
    if len(texts) == 1:
        body = [f"double formula({columns}) {{", f"    return {texts[0]};", "}"]
    else:
        writes = [f"    out[{k}] = {text};" for k, text in enumerate(texts)]
        body = [f"void formula({columns}, double *out) {{", *writes, "}"]
    return "\n".join(["#include <math.h>", "", *comments, *body])


_C = {
    "auto", "break", "case", "char", "const", "continue", "default", "do", "double", "else", "enum",
    "extern", "float", "for", "goto", "if", "inline", "int", "long", "register", "restrict",
    "return", "short", "signed", "sizeof", "static", "struct", "switch", "typedef", "union",
    "unsigned", "void", "volatile", "while", "out", "formula", "pow", "floor", "ceil", "round",
    "j0", "j1", "jn", "y0", "y1", "yn", "main",
}  # fmt: skip


class _Sympy(sympy.printing.str.StrPrinter):
    """Text that Python with `import sympy` reads back: functions and constants by their module."""

    def _print_Function(self, expr: Any) -> str:
        return f"sympy.{expr.func.__name__}({', '.join(map(self._print, expr.args))})"

    def _print_Rational(self, expr: Any) -> str:
        return f"sympy.Rational({expr.p}, {expr.q})"

    def _print_Pi(self, expr: Any) -> str:
        return "sympy.pi"

    def _print_Exp1(self, expr: Any) -> str:
        return "sympy.E"

    def _print_Pow(self, expr: Any, rational: bool = False) -> str:
        return f"sympy.Pow({self._print(expr.base)}, {self._print(expr.exp)})"

    def _print_Mul(self, expr: Any) -> str:
        return "*".join(f"({self._print(a)})" if a.is_Add else self._print(a) for a in expr.args)

    def _print_Abs(self, expr: Any) -> str:
        return f"sympy.Abs({self._print(expr.args[0])})"
