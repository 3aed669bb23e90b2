"""A KAN layer some of whose edges are given functions: c f(a x + b) + d in place of a spline.

Axes: N samples, C inputs, O outputs, S edges with a given function.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kanzoo.interpret.formula.library import CONSTANT, EdgeFit, Elementary, get_function
from kanzoo.layers import KANLinear
from kanzoo.layers.products import multiply


@dataclass(frozen=True)
class Given:
    """An edge with a given function; its a, b, c, d are the column `index` of the parameters."""

    i: int
    o: int
    function: Elementary
    index: int


class HybridLinear(nn.Module):
    """`KANLinear` plus edges with given functions: `(..., C) -> (..., O - products)`.

    The edges with a given function are masked in `base`. Their a, b, c, d are `affine` `(4, S)`,
    trained unless `frozen`; edges may share a column, and so a function and its parameters. The
    last outputs are multiplied in so many pairs as there are `products`.
    """

    def __init__(
        self,
        base: KANLinear,
        given: tuple[Given, ...] = (),
        affine: Tensor | None = None,
        products: int = 0,
    ):
        super().__init__()
        self.base = base
        self.in_features, self.out_features = base.in_features, base.out_features
        self.products = products
        self.given = given
        like = base.weight
        values = like.new_zeros(4, 0) if affine is None else affine.to(like)
        self.affine = nn.Parameter(values.clone())
        self.frozen = False

    def freeze(self) -> None:
        """Keep a, b, c and d of the given functions as they are."""
        self.frozen = True
        self.affine.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return multiply(self._sums(x), self.products)

    def _sums(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x) if self.has_splines else self._bias(x)
        if not self.given:
            return y
        terms: list[list[Tensor]] = [[] for _ in range(self.out_features)]
        for edge in self.given:
            if edge.function is not CONSTANT:
                a, b, c, d = self.affine[:, edge.index].unbind()
                terms[edge.o].append(c * edge.function.call(a * x[..., edge.i] + b) + d)
        zero = x.new_zeros(x.shape[:-1])
        return y + torch.stack([torch.stack([zero, *addends]).sum(0) for addends in terms], dim=-1)

    def _bias(self, x: Tensor) -> Tensor:
        zeros = x.new_zeros((*x.shape[:-1], self.out_features))
        return zeros if self.base.bias is None else zeros + self.base.bias

    @property
    def has_splines(self) -> bool:
        """Whether any edge is still a function of the basis."""
        return self.base.weight.requires_grad or bool(self.open_edges())

    def open_edges(self) -> list[tuple[int, int]]:
        """The edges (i, o) that are still functions of the basis."""
        mask = self.base.edge_mask
        if mask is None:
            return [(i, o) for i in range(self.in_features) for o in range(self.out_features)]
        return [(i, o) for i, o in mask.squeeze(1).nonzero().tolist()]

    def edge(self, i: int, o: int, x: Tensor) -> Tensor:
        """Value of the edge function i -> o at x, of any shape."""
        value = self.base.edge(i, o, x)
        for edge in self.given:
            if (edge.i, edge.o) == (i, o):
                a, b, c, d = self.affine[:, edge.index].unbind()
                value = value + c * edge.function.call(a * x + b) + d
        return value

    @torch.no_grad()
    def with_edge(self, i: int, o: int, fit: EdgeFit) -> "HybridLinear":
        """A copy in which the edge i -> o is the function that was fitted to it."""
        base = copy.deepcopy(self.base)
        keep = torch.ones(self.in_features, self.out_features, dtype=torch.bool)
        keep[i, o] = False
        base.mask_edges(keep.to(base.weight.device))
        column = self.affine.new_tensor([[fit.a], [fit.b], [fit.c], [fit.d]])
        given = tuple(edge for edge in self.given if (edge.i, edge.o) != (i, o))
        if fit.function is CONSTANT:
            if base.bias is not None:
                base.bias[o] += fit.d
                column[3] = 0.0
            new = HybridLinear(base, given, self.affine.detach(), self.products)
        else:
            index = self.affine.shape[1]
            affine = torch.cat([self.affine.detach(), column], dim=1)
            given = (*given, Given(i, o, fit.function, index))
            new = HybridLinear(base, given, affine, self.products)
        base.weight.requires_grad_(bool(new.open_edges()))
        if self.frozen:
            new.freeze()
        return new


def set_edge(
    layer: KANLinear | HybridLinear,
    i: int,
    o: int,
    function: str,
    *,
    a: float = 1.0,
    b: float = 0.0,
    c: float = 1.0,
    d: float = 0.0,
) -> HybridLinear:
    """The layer with the edge i -> o given as c f(a x + b) + d, by a name of the library or "0".

    a, b, c, d are trained on with the rest; `freeze()` the result to keep them.
    """
    hybrid = layer if isinstance(layer, HybridLinear) else HybridLinear(copy.deepcopy(layer))
    for name, index, size in (("i", i, hybrid.in_features), ("o", o, hybrid.out_features)):
        if not 0 <= index < size:
            raise ValueError(f"{name} must be from 0 to {size - 1}, got {index}")
    return hybrid.with_edge(i, o, EdgeFit(get_function(function), a, b, c, d, 1.0))


def share_edge(
    layer: HybridLinear, source: tuple[int, int], target: tuple[int, int]
) -> HybridLinear:
    """The layer with the edge `target` sharing function and parameters of the given `source`."""
    sources = [edge for edge in layer.given if (edge.i, edge.o) == source]
    if not sources:
        raise ValueError(f"the edge {source} has no given function to share: set_edge it first")
    new = layer.with_edge(*target, EdgeFit(CONSTANT, 1.0, 0.0, 0.0, 0.0, 1.0))
    new.given = (*new.given, Given(*target, sources[0].function, sources[0].index))
    return new
