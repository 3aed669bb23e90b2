"""Formulas as text: read by a small grammar into SymPy, evaluated by NumPy and SciPy.

SymPy's own parsers call `eval`. Here Python's parser makes the tree, and only numbers, names,
`+ - * / **`, signs and calls of known functions may stand in it.
"""

import ast
import math
import operator
import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from kanzoo.checks import nearest

MAX_LENGTH = 2000  # characters of a formula
MAX_DEPTH = 200  # nested operations
MAX_POWER = 100  # largest constant exponent
MAX_DIGITS = 100  # of any constant
MAX_CHOICES = 4  # calls of max and min, each of which SymPy compares with all others
# The functions of a formula: how many arguments they take, and their names in SymPy and in NumPy
# or SciPy's `special`.
FUNCTIONS: dict[str, tuple[int, str, str]] = {
    **{
        name: (1, name, name)
        for name in ("exp", "log", "sqrt", "sign", "sin", "cos", "tan", "sinh", "cosh", "tanh")
    },
    **{f"a{name}": (1, f"a{name}", f"arc{name}") for name in ("sin", "cos", "tan")},
    **{f"arc{name}": (1, f"a{name}", f"arc{name}") for name in ("sin", "cos", "tan")},
    **{f"a{name}": (1, f"a{name}", f"arc{name}") for name in ("sinh", "cosh", "tanh")},
    "ln": (1, "log", "log"),
    "abs": (1, "Abs", "abs"),
    "erf": (1, "erf", "erf"),
    "erfc": (1, "erfc", "erfc"),
    "atan2": (2, "atan2", "arctan2"),
    "min": (2, "Min", "minimum"),
    "max": (2, "Max", "maximum"),
    "jv": (2, "besselj", "jv"),
    "yv": (2, "bessely", "yv"),
    "iv": (2, "besseli", "iv"),
    "kv": (2, "besselk", "kv"),
}
CONSTANTS = {"pi": ("pi", math.pi), "e": ("E", math.e)}
OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}


def parse_formula(text: str, variables: Iterable[str] | None = None) -> Any:
    """Return the SymPy expression of a formula such as "x*y + sin(z)".

    With `variables`, other names are refused; a variable may be called as a function or a constant
    is. Raises `ValueError` of one line for anything that is not in the grammar; no code is run.
    """
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"a formula must be text such as x*y + sin(z), not {text!r}")
    shown = text if len(text) <= 80 else f"{text[:77]}..."
    if len(text) > MAX_LENGTH:
        raise ValueError(f"formula {shown!r} is longer than {MAX_LENGTH} characters")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = getattr(error, "msg", "too deep")
        raise ValueError(f"formula {shown!r} cannot be read: {reason}") from None
    names = None if variables is None else list(variables)
    try:
        expression = _Reader(names).read(tree, 0)[0]
    except ValueError as error:
        raise ValueError(f"formula {shown!r}: {error}") from None
    infinite = ("zoo", "oo", "nan")
    if any(str(a).lstrip("-") in infinite for a in expression.atoms() if not a.is_Symbol):
        raise ValueError(f"formula {shown!r} holds a constant that is not a finite real number")
    return expression


def formula_variables(text: str) -> tuple[str, ...]:
    """Return the names of a formula that are no function or constant, in natural order."""
    names = {str(symbol) for symbol in parse_formula(text).free_symbols}
    return tuple(sorted(names, key=natural))


def compile_formula(expression: Any, variables: Iterable[str]) -> Callable[[np.ndarray], Any]:
    """Return the expression as a function of columns: `(N, F) -> (N,)`, float64.

    Only the modules NumPy and SciPy are within its reach.
    """
    import sympy

    names = list(variables)
    # Dummies, so that no name of a variable can hide one of a module.
    symbols = [sympy.Dummy(f"v{i}") for i in range(len(names))]
    renamed = expression.xreplace({sympy.Symbol(n): s for n, s in zip(names, symbols, strict=True)})
    call = sympy.lambdify(symbols, renamed, modules=["scipy", "numpy"])

    def evaluate(x: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            values = np.asarray(call(*x.T))
        if np.iscomplexobj(values):
            values = np.where(values.imag == 0, values.real, np.nan)
        return np.broadcast_to(values.astype(np.float64), len(x)).copy()

    return evaluate


def formula_values(text: str, names: Iterable[str], x: np.ndarray) -> np.ndarray:
    """Values of a formula of named columns at x `(N, F)`: `(N,)`, float64.

    Raises `ValueError` for other names, and where a value is not finite.
    """
    names = list(names)
    values = compile_formula(parse_formula(text, names), names)(np.asarray(x, np.float64))
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        point = ", ".join(f"{n}={v:.6g}" for n, v in zip(names, x[wrong[0]], strict=True))
        raise ValueError(f"formula {text!r} is not a finite real number at {point}")
    return np.asarray(values, np.float64)


def natural(name: str) -> list[tuple[int, str]]:
    """The order in which x2 comes before x10."""
    return [(int(part) if part.isdigit() else -1, part) for part in re.split(r"(\d+)", name)]


class _Reader:
    """Turns a tree of Python's parser into SymPy, node by node.

    With every constant part goes its value as a float. What is too large for one is refused before
    SymPy gets to work out its digits, for which it knows no limit.
    """

    def __init__(self, variables: list[str] | None) -> None:
        import sympy
        from scipy import special

        self.sympy = sympy
        self.modules = (np, special)
        self.variables = variables
        self.choices = 0

    def read(self, node: ast.expr, depth: int) -> tuple[Any, float | None]:
        """The expression of a node, and its value if it is constant."""
        if depth > MAX_DEPTH:
            raise ValueError(f"more than {MAX_DEPTH} nested operations")
        if isinstance(node, ast.Constant):
            return self._number(node.value)
        if isinstance(node, ast.Name):
            return self._name(node.id)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            sign = -1 if isinstance(node.op, ast.USub) else 1
            inner, value = self.read(node.operand, depth + 1)
            return sign * inner, None if value is None else sign * value
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            left, right = self.read(node.left, depth + 1), self.read(node.right, depth + 1)
            operate = OPERATORS[type(node.op)]
            if operate is operator.pow:
                _check_power(left, right)
            if operate is operator.truediv and right[1] == 0:
                raise ValueError("division by zero")
            value = _constant(operate, left[1], right[1])
            return operate(left[0], right[0]), value
        if isinstance(node, ast.Call):
            return self._call(node, depth)
        wrong = type(node.op if isinstance(node, ast.BinOp) else node).__name__
        hint = "; powers are written **" if wrong == "BitXor" else ""
        raise ValueError(
            f"{wrong} is not allowed, only numbers, names, + - * / ** and calls of functions{hint}"
        )

    def _number(self, value: object) -> tuple[Any, float]:
        if type(value) not in (int, float):
            raise ValueError(f"{value!r} is not a real number")
        assert isinstance(value, int | float)
        if not abs(value) < 10**MAX_DIGITS:
            raise ValueError(f"a number has more than {MAX_DIGITS} digits")
        exact = self.sympy.Integer if isinstance(value, int) else self.sympy.Float
        return exact(value), float(value)

    def _name(self, name: str) -> tuple[Any, float | None]:
        known = self.variables
        if name not in (known or ()):
            if name in CONSTANTS:
                return getattr(self.sympy, CONSTANTS[name][0]), CONSTANTS[name][1]
            if name in FUNCTIONS:
                raise ValueError(f"{name} is a function: write {name}(...)")
            if known is not None:
                raise ValueError(f"unknown name {name!r}: {nearest(name, known)}")
            if name.startswith("__") or not name.isascii():
                raise ValueError(f"{name!r} is no name for a variable")
        return self.sympy.Symbol(name), None

    def _call(self, node: ast.Call, depth: int) -> tuple[Any, float | None]:
        if not isinstance(node.func, ast.Name):
            raise ValueError("only functions can be called, by their name")
        name = node.func.id
        if name not in FUNCTIONS:
            raise ValueError(f"unknown function {name!r}: {nearest(name, FUNCTIONS)}")
        count, sympy_name, numpy_name = FUNCTIONS[name]
        if node.keywords or len(node.args) != count:
            raise ValueError(f"{name} takes {count} argument{'s' * (count > 1)}")
        self.choices += name in ("max", "min")
        if self.choices > MAX_CHOICES:
            raise ValueError(f"more than {MAX_CHOICES} calls of max and min")
        arguments = [self.read(argument, depth + 1) for argument in node.args]
        call = next(getattr(m, numpy_name) for m in self.modules if hasattr(m, numpy_name))
        value = _constant(call, *(constant for _, constant in arguments))
        return getattr(self.sympy, sympy_name)(*(inner for inner, _ in arguments)), value


def _constant(call: Callable[..., Any], *values: float | None) -> float | None:
    """The value of an operation on constants; None where one of them is not constant."""
    if any(value is None for value in values):
        return None
    try:
        with np.errstate(all="ignore"):
            result = call(*values)
    except (OverflowError, ZeroDivisionError):
        result = math.nan
    if isinstance(result, complex) or not abs(result) < 10.0**MAX_DIGITS:
        raise ValueError(f"a constant part is not a finite real number below 1e{MAX_DIGITS}")
    return float(result)


def _check_power(base: tuple[Any, float | None], exponent: tuple[Any, float | None]) -> None:
    """Refuse powers whose digits would take for ever to work out."""
    size = abs(exponent[1] or 0.0)
    if size > MAX_POWER:
        raise ValueError(f"an exponent is larger than {MAX_POWER}")
    fraction = base[0]
    if fraction.is_Rational and exponent[1] is not None:
        digits = len(str(max(abs(fraction.p), fraction.q)))
        if size * digits > 10 * MAX_DIGITS:
            raise ValueError(f"a constant power has more than {10 * MAX_DIGITS} digits")
