"""A network that is a formula: operations are edges with given functions and nodes that multiply.

A node is an expression, known from some layer on; what a layer needs, the one before it provides.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sympy
import torch
from torch import Tensor, nn

from kanzoo.bases.base import get_basis
from kanzoo.data.formula import compile_formula, natural, parse_formula
from kanzoo.fit.stack import refine_stack
from kanzoo.layers import KANLinear
from kanzoo.layers.elementary import Elementary, get_function, make_function, write_text
from kanzoo.layers.products import Products

NAMES = {
    sympy.sin: "sin", sympy.cos: "cos", sympy.tan: "tan", sympy.tanh: "tanh", sympy.exp: "exp",
    sympy.log: "log", sympy.Abs: "abs", sympy.sign: "sgn", sympy.asin: "arcsin",
    sympy.acos: "arccos", sympy.atan: "arctan", sympy.atanh: "arctanh", sympy.sinh: "sinh",
    sympy.cosh: "cosh",
}  # fmt: skip
POWERS = {
    2.0: "x^2", 3.0: "x^3", 4.0: "x^4", 5.0: "x^5", -1.0: "1/x", -2.0: "1/x^2", -3.0: "1/x^3",
    -4.0: "1/x^4", 0.5: "sqrt", 1.5: "x^1.5", -0.5: "1/sqrt", -1.5: "x^-1.5",
}  # fmt: skip
IDENTITY = get_function("x")
MAX_LAYERS = 30


@dataclass(frozen=True)
class Atom:
    """function(a core + b), which stands in a sum with a factor."""

    expression: sympy.Expr
    core: sympy.Expr
    function: Elementary = IDENTITY
    a: float = 1.0
    b: float = 0.0


@dataclass
class Column:
    """An output of a layer: a constant, and the edges to it by the node that they come from."""

    constant: float = 0.0
    edges: dict[sympy.Expr, tuple[Elementary, tuple[float, float, float, float]]] = field(
        default_factory=dict
    )


def from_formula(
    formula: Any,
    names: Sequence[str] | None = None,
    x: Tensor | None = None,
    *,
    grid_size: int = 5,
) -> nn.Sequential:
    """A network in float64 that equals a formula, or several: a start for training by hand.

    Every edge is given a function or pruned (`free_edge` makes either a trained one), and nodes
    that multiply stand for products, as in the compiler of KAN 2.0 (2408.10205, section 4).

    Parameters
    ----------
    formula : str, sympy.Expr, or a sequence of them
        As `"x*y + sin(z)"`, one for each output.
    names : sequence of str, optional
        The inputs in their order; unless given, all variables in natural order.
    x : Tensor, optional
        Inputs `(N, C)`: grids are moved to what the layers see of them, and `ValueError` says where
        the formula is not a finite number.
    grid_size : int, default 5
        Intervals of the grids that edges have when they are set free.

    Raises
    ------
    ValueError
        For texts that are no formula, unknown variables, and functions of several variables other
        than max and min.
    """
    given = list(formula) if isinstance(formula, (list, tuple)) else [formula]
    parsed = [parse_formula(f, names) if isinstance(f, str) else f for f in given]
    if not parsed or not all(isinstance(e, sympy.Expr) for e in parsed):
        raise ValueError(f"a formula must be text or a SymPy expression, got {formula!r}")
    known = sorted({s.name for e in parsed for s in e.free_symbols}, key=natural)
    names = known if names is None else [str(name) for name in names]
    if unknown := [name for name in known if name not in names]:
        raise ValueError(f"unknown variable {unknown[0]!r}: the inputs are {', '.join(names)}")
    if not names:
        raise ValueError("a constant formula needs the names of the inputs")
    plain = {s: sympy.Symbol(s.name) for e in parsed for s in e.free_symbols}
    expressions = [_plain(e.xreplace(plain)) for e in parsed]
    if x is not None:
        _check_finite(expressions, names, x)
    net = _Compiler([sympy.Symbol(name) for name in names], grid_size).build(expressions)
    if x is not None:
        refine_stack(net, x.double(), grid_size)
    return net


def _check_finite(expressions: Sequence[sympy.Expr], names: Sequence[str], x: Tensor) -> None:
    for expression in expressions:
        values = compile_formula(expression, names)(x.detach().cpu().double().numpy())
        wrong = np.flatnonzero(~np.isfinite(values))
        if len(wrong):
            point = ", ".join(
                f"{n}={float(v):.6g}" for n, v in zip(names, x[wrong[0]], strict=True)
            )
            raise ValueError(f"the formula {expression} is not a finite real number at {point}")


def _plain(expression: sympy.Expr) -> sympy.Expr:
    """Without max, min, and powers of what varies, which other operations stand for."""
    arguments = [_plain(a) for a in expression.args]
    if isinstance(expression, (sympy.Max, sympy.Min)):
        sign = 1 if isinstance(expression, sympy.Max) else -1
        result = arguments[0]
        for other in arguments[1:]:
            result = (result + other + sign * sympy.Abs(result - other)) / 2
        return result
    if isinstance(expression, sympy.Pow) and arguments[1].free_symbols:
        return sympy.exp(arguments[1] * sympy.log(arguments[0]))
    return expression.func(*arguments) if arguments else expression


class _Compiler:
    """Layers from the outputs back to the inputs."""

    def __init__(self, inputs: Sequence[sympy.Symbol], grid_size: int) -> None:
        self.inputs = list(inputs)
        self.basis = get_basis(
            "bspline", grid_size=grid_size, grid_range=(-1.0, 1.0), extrapolation="linear"
        )
        self.levels: dict[sympy.Expr, int] = {}

    def build(self, outputs: Sequence[sympy.Expr]) -> nn.Sequential:
        products = all(_is_product(e) for e in outputs) and len(set(outputs)) == len(outputs)
        depth = max(1, *(self.level(e) if products else self.level_of_sum(e) for e in outputs))
        if depth > MAX_LAYERS:
            raise ValueError(f"the formula needs {depth} layers: at most {MAX_LAYERS}")
        modules: list[nn.Module] = []
        wanted = list(outputs)
        for level in range(depth, 0, -1):
            is_top = level == depth
            pairs = [e for e in wanted if _is_product(e) and (products or not is_top)]
            sums = wanted if is_top and not products else [e for e in wanted if e not in pairs]
            columns = [self.column(e) for e in sums]
            columns += [self.column(factor) for e in pairs for factor in _factors(e)]
            below = self.inputs if level == 1 else list(dict.fromkeys(
                [node for column in columns for node in column.edges]
            ))  # fmt: skip
            if level > 1:  # sums first, as the layer before gives them
                below = sorted(below, key=_is_product) or [self.inputs[0]]
            stage: list[nn.Module] = [self.layer(below, columns)]
            if pairs:
                stage.append(Products(len(sums) + len(pairs), len(pairs)))
            modules = [*stage, *modules]
            wanted = below
        return nn.Sequential(*modules)

    def layer(self, below: Sequence[sympy.Expr], columns: Sequence[Column]) -> KANLinear:
        layer = KANLinear(len(below), len(columns), basis=self.basis, dtype=torch.float64)
        layer.mask_edges(torch.zeros(len(below), len(columns), dtype=torch.bool))
        with torch.no_grad():
            for o, column in enumerate(columns):
                assert layer.bias is not None
                layer.bias[o] = column.constant
                for node, (function, affine) in column.edges.items():
                    layer.fix_edge(below.index(node), o, function, affine)
        return layer

    def level(self, e: sympy.Expr) -> int:
        """The first layer behind which a node can be the expression; 0 for inputs."""
        if e not in self.levels:
            if e.is_Symbol:
                self.levels[e] = 0
            elif _is_product(e):
                self.levels[e] = max(self.level_of_sum(f) for f in _factors(e))
            else:
                self.levels[e] = self.level_of_sum(e)
        return self.levels[e]

    def level_of_sum(self, e: sympy.Expr) -> int:
        """The first layer of which an output can be the expression."""
        return 1 + max((self.level(node) for node in self.column(e).edges), default=0)

    def column(self, e: sympy.Expr) -> Column:
        """A sum as edges: of two functions of the same node, one becomes a node itself."""
        column = Column()
        held: dict[sympy.Expr, tuple[float, Atom]] = {}
        for term in sorted(_terms(e, column), key=lambda t: t[1].core != t[1].expression):
            node = term[1].core
            while (other := held.get(node)) is not None:
                if term[1].core == term[1].expression:  # comes before a function of this node
                    held[node], term = term, other
                node = term[1].expression
                term = (term[0], Atom(node, node))
            held[node] = term
        for node, (factor, atom) in held.items():
            column.edges[node] = (atom.function, (atom.a, atom.b, factor, 0.0))
        return column


def _terms(e: sympy.Expr, column: Column, factor: float = 1.0) -> Iterable[tuple[float, Atom]]:
    """The terms of a sum with their factors; constants are added to the column's."""
    merged: dict[sympy.Expr, float] = {}
    todo = [(factor, e)]
    while todo:
        scale, part = todo.pop()
        for term in sympy.Add.make_args(part):
            number, rest = term.as_independent(*term.free_symbols, as_Add=False)
            if not term.free_symbols:
                column.constant += scale * float(term)
            elif rest.is_Add:
                todo.append((scale * float(number), rest))
            else:
                merged[rest] = merged.get(rest, 0.0) + scale * float(number)
    return [(number, _atom(rest)) for rest, number in merged.items()]


def _atom(e: sympy.Expr) -> Atom:
    """What is no sum as one function of a node."""
    if e.is_Symbol or _is_product(e):
        return Atom(e, e)
    if isinstance(e, sympy.Pow):
        inner, exponent = e.base, float(e.exp)
        x = sympy.Symbol("x")
        if exponent in POWERS:
            function = get_function(POWERS[exponent])
        else:
            domain = (-math.inf if exponent == int(exponent) else 0.0, math.inf)
            function = make_function(f"x^{e.exp}", write_text(x**e.exp), domain)
    else:
        varying = [a for a in e.args if a.free_symbols]
        if len(varying) != 1:
            raise ValueError(f"{e} is a function of several variables, which no edge can be")
        inner = varying[0]
        if type(e) in NAMES:
            function = get_function(NAMES[type(e)])
        else:
            text = write_text(e.func(*(sympy.Symbol("x") if a == inner else a for a in e.args)))
            function = make_function(text, text, (-math.inf, math.inf))
    column = Column()
    terms = list(_terms(inner, column))
    if len(terms) == 1:
        factor, atom = terms[0]
        return Atom(e, atom.expression, function, factor, column.constant)
    return Atom(e, inner, function)


def _is_product(e: sympy.Expr) -> bool:
    return bool(e.is_Mul and sum(bool(a.free_symbols) for a in e.args) > 1)


def _factors(e: sympy.Expr) -> tuple[sympy.Expr, sympy.Expr]:
    """Two factors of a product, with what is constant in the first."""
    number, rest = e.as_independent(*e.free_symbols, as_Add=False)
    arguments = rest.args
    half = len(arguments) // 2
    return number * sympy.Mul(*arguments[:half]), sympy.Mul(*arguments[half:])
