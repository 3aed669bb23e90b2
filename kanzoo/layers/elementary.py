"""Named functions of one variable, which an edge may be given, and one's own beside them.

Own functions are SymPy expressions: NumPy and SciPy compute them, SymPy their derivatives.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import sympy
import torch
from sympy.printing.str import StrPrinter
from torch import Tensor

from kanzoo.checks import check_name, check_whole
from kanzoo.data.formula import FUNCTIONS, parse_formula

TINY = 1e-12
SEARCHES = ("line", "shift", "scale", "both", "jump")


@dataclass(frozen=True)
class Elementary:
    """A named elementary function of one variable.

    `call` takes torch tensors and is finite with finite gradients everywhere (singularities are
    capped); `symbol` builds the SymPy expression; `complexity` is what choosing it costs. `domain`
    bounds the argument where the function is itself. `search` says which a and b are worth trying:
    "line" (the identity), "shift" (another scale changes only c and d), "scale" (another shift
    does), "both"; "jump" where nothing but the place of the jump is to be found. `text` is the
    expression of an own function in x.
    """

    name: str
    call: Callable[[Tensor], Tensor]
    symbol: Callable[[Any], Any]
    complexity: int
    search: str = "both"
    domain: tuple[float, float] = (-math.inf, math.inf)
    text: str = ""

    def values(self, t: np.ndarray) -> np.ndarray:
        """The function by its SymPy expression: NaN where that is not real and finite."""
        return _compiled(self, 0)(t)


def _power(exponent: float) -> Callable[[Tensor], Tensor]:
    def call(t: Tensor) -> Tensor:
        return t.clamp(min=TINY).pow(exponent)

    return call


def _inverse(order: int) -> Callable[[Tensor], Tensor]:
    def call(t: Tensor) -> Tensor:
        apart = torch.where(t.abs() < 1e-6, torch.where(t < 0, -1e-6, 1e-6), t)
        return apart.pow(-order)

    return call


def _half(expression: Any) -> Any:
    return sympy.sqrt(expression)


_POSITIVE = (TINY, math.inf)
_UNIT = (-1.0, 1.0)
_ENTRIES = (
    Elementary("x", lambda t: t, lambda t: t, 1, "line"),
    Elementary("x^2", lambda t: t * t, lambda t: t**2, 2, "shift"),
    Elementary("x^3", lambda t: t**3, lambda t: t**3, 3, "shift"),
    Elementary("x^4", lambda t: t**4, lambda t: t**4, 4, "shift"),
    Elementary("x^5", lambda t: t**5, lambda t: t**5, 5, "shift"),
    Elementary("1/x", _inverse(1), lambda t: 1 / t, 2, "shift", _POSITIVE),
    Elementary("1/x^2", _inverse(2), lambda t: 1 / t**2, 3, "shift", _POSITIVE),
    Elementary("1/x^3", _inverse(3), lambda t: 1 / t**3, 4, "shift", _POSITIVE),
    Elementary("1/x^4", _inverse(4), lambda t: 1 / t**4, 5, "shift", _POSITIVE),
    Elementary("sqrt", _power(0.5), _half, 3, "shift", _POSITIVE),
    Elementary("x^1.5", _power(1.5), lambda t: t ** sympy.Rational(3, 2), 4, "shift", _POSITIVE),
    Elementary("1/sqrt", _power(-0.5), lambda t: 1 / sympy.sqrt(t), 4, "shift", _POSITIVE),
    Elementary("x^-1.5", _power(-1.5), lambda t: t ** sympy.Rational(-3, 2), 5, "shift", _POSITIVE),
    Elementary("exp", lambda t: t.clamp(max=80).exp(), sympy.exp, 2, "scale"),
    Elementary("log", lambda t: t.clamp(min=TINY).log(), sympy.log, 2, "shift", _POSITIVE),
    Elementary("abs", lambda t: t.abs(), sympy.Abs, 3, "shift"),
    Elementary("sgn", lambda t: t.sign(), sympy.sign, 4, "jump"),
    Elementary("sin", lambda t: t.sin(), sympy.sin, 3),
    Elementary("cos", lambda t: t.cos(), sympy.cos, 3),
    Elementary("tan", lambda t: t.tan(), sympy.tan, 4, "both", (-1.55, 1.55)),
    Elementary("tanh", lambda t: t.tanh(), sympy.tanh, 4),
    Elementary("sigmoid", lambda t: t.sigmoid(), lambda t: 1 / (1 + sympy.exp(-t)), 5),
    Elementary("arcsin", lambda t: _inside(t).asin(), sympy.asin, 4, "both", _UNIT),
    Elementary("arccos", lambda t: _inside(t).acos(), sympy.acos, 4, "both", _UNIT),
    Elementary("arctan", lambda t: t.atan(), sympy.atan, 4),
    Elementary("arctanh", lambda t: _inside(t).atanh(), sympy.atanh, 4, "both", (-0.9999, 0.9999)),
    Elementary("sinh", lambda t: t.clamp(-80, 80).sinh(), sympy.sinh, 4),
    Elementary("cosh", lambda t: t.clamp(-80, 80).cosh(), sympy.cosh, 4),
    Elementary("gaussian", lambda t: (-t * t).exp(), lambda t: sympy.exp(-(t**2)), 4),
    Elementary("1/(1+x^2)", lambda t: 1 / (1 + t * t), lambda t: 1 / (1 + t**2), 4),
    Elementary("sqrt(1+x^2)", lambda t: (1 + t * t).sqrt(), lambda t: sympy.sqrt(1 + t**2), 5),
    Elementary("x/(1+x^2)", lambda t: t / (1 + t * t), lambda t: t / (1 + t**2), 5),
)
BUILT_IN = tuple(entry.name for entry in _ENTRIES)
LIBRARY: dict[str, Elementary] = {entry.name: entry for entry in _ENTRIES}
ALIASES = {"x**2": "x^2", "x**3": "x^3", "x**4": "x^4", "x**5": "x^5", "ln": "log", "sign": "sgn"}
CONSTANT = Elementary("0", torch.zeros_like, lambda t: sympy.Integer(0), 0, "line")


def _inside(t: Tensor) -> Tensor:
    return t.clamp(-1 + 1e-10, 1 - 1e-10)


def get_function(name: str | Elementary) -> Elementary:
    """A function of the library by its name; `ValueError` names the nearest."""
    if isinstance(name, Elementary):
        return name
    if not isinstance(name, str):
        check_name("function", name, LIBRARY)
    name = ALIASES.get(name.replace(" ", ""), name)
    if name == "0":
        return CONSTANT
    check_name("function", name, LIBRARY)
    return LIBRARY[name]


def register_function(
    name: str,
    expression: Any,
    *,
    domain: tuple[float, float] = (-math.inf, math.inf),
    complexity: int = 5,
    search: str = "both",
) -> Elementary:
    """Let edges be a function of one's own, by hand and in the search for formulas.

    Parameters
    ----------
    name : str
        What the function is called; a later function of one's own may take its place.
    expression : str or sympy.Expr
        The function of its only variable, as `"x*exp(-x**2)"` or `"jv(0, x)"`.
    domain : pair of float, default (-inf, inf)
        The arguments that it is defined for; values beyond count as its end.
    complexity : int, default 5
        What choosing it costs in a ranking; that of the sine is 3.
    search : {"both", "shift", "scale", "line", "jump"}
        What of a x + b is worth a search: a and b unless it is a power, or alike.

    Raises
    ------
    ValueError
        For a name of the library, several variables, unknown functions, a domain where the
        function is not real and finite, or one whose derivative SymPy does not know.
    """
    if not isinstance(name, str) or not name.strip() or name in (*BUILT_IN, *ALIASES, "0"):
        raise ValueError(f"name must be text and none of the library, got {name!r}")
    check_whole("complexity", complexity, 1)
    check_name("search", search, SEARCHES)
    low, high = (float(end) for end in domain)
    entry = make_function(name, write_text(expression), (low, high), complexity, search)
    start = max(low, min(-10.0, high - 20))
    points = np.linspace(start, min(high, max(10.0, start + 20)), 103)[1:-1]
    for order, what in enumerate(("function", "derivative of function")):
        values = _compiled(entry, order)(points)
        if not np.isfinite(values).mean() > 0.9:
            where = points[~np.isfinite(values)][0]
            raise ValueError(
                f"the {what} {name!r} is not a finite real number at x={where:.4g}: give its domain"
            )
    LIBRARY[name] = entry
    return entry


def write_text(expression: Any) -> str:
    """An expression of one variable as text of the grammar of formulas, in x."""
    if isinstance(expression, str):
        expression = parse_formula(expression)
    if not isinstance(expression, sympy.Expr) or len(expression.free_symbols) != 1:
        raise ValueError(f"a function must be an expression of one variable, got {expression!r}")
    (variable,) = expression.free_symbols
    text = _Grammar().doprint(expression.xreplace({variable: sympy.Symbol("x")}))
    parse_formula(text, ["x"])
    return str(text)


@cache
def make_function(
    name: str, text: str, domain: tuple[float, float], complexity: int = 5, search: str = "both"
) -> Elementary:
    """The function that a text in x describes; `ValueError` if it is none."""
    low, high = domain
    if not low < high:
        raise ValueError(f"domain must be a pair of growing numbers, got {domain}")
    expression = parse_formula(text, ["x"])

    # Ends may be poles, or where a derivative is infinite.
    least = low + TINY * max(1.0, abs(low)) if math.isfinite(low) else low
    most = high - TINY * max(1.0, abs(high)) if math.isfinite(high) else high

    def call(t: Tensor) -> Tensor:
        result: Tensor = _Expression.apply(t.clamp(least, most), entry, 0)
        return result

    def symbol(argument: Any) -> Any:
        return expression.xreplace({sympy.Symbol("x"): sympy.sympify(argument)})

    entry = Elementary(name, call, symbol, complexity, search, domain, text)
    return entry


@cache
def _compiled(entry: Elementary, order: int) -> Callable[[np.ndarray], np.ndarray]:
    """A derivative of a function as a function of arrays."""
    x = sympy.Dummy("x", real=True)
    expression = sympy.diff(entry.symbol(x), x, order) if order else entry.symbol(x)
    expression = expression.replace(sympy.DiracDelta, lambda *_: sympy.Integer(0))
    if expression.has(sympy.Derivative):
        raise ValueError(f"SymPy does not know the derivative of {entry.name!r}")
    call = sympy.lambdify([x], expression, ["scipy", "numpy"])

    def evaluate(t: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            values = np.asarray(call(t))
        if np.iscomplexobj(values):
            values = np.where(values.imag == 0, values.real, np.nan)
        values = np.broadcast_to(values.astype(np.float64), np.shape(t))
        return np.where(np.isfinite(values), values, np.nan)

    return evaluate


NAMES = {sympy_name: name for name, (_, sympy_name, _) in FUNCTIONS.items()}


class _Expression(torch.autograd.Function):
    """A derivative of an own function, elementwise; differentiable as often as SymPy can."""

    @staticmethod
    def forward(t: Tensor, entry: Elementary, order: int) -> Tensor:
        values = _compiled(entry, order)(t.detach().cpu().double().numpy())
        return torch.as_tensor(values).to(t)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.rest = inputs[1:]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        entry, order = ctx.rest
        return gradients[0] * _Expression.apply(ctx.saved_tensors[0], entry, order + 1), None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, t: Tensor, entry: Elementary, order: int) -> Any:
        return _Expression.apply(t, entry, order), in_dims[0]


class _Grammar(StrPrinter):
    """Text of the grammar of formulas: every function by the name that it has there."""

    def _print_Function(self, expr: Any) -> str:
        name = type(expr).__name__
        return f"{NAMES.get(name, name)}({', '.join(map(self._print, expr.args))})"

    def _print_Float(self, expr: Any) -> str:
        return repr(float(expr))

    def _print_Exp1(self, expr: Any) -> str:
        return "e"

    _print_Max = _print_Min = _print_Abs = _print_Function
