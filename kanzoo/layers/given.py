"""Edges with given functions, c f(a x + b) + d in place of a sum of basis functions.

Axes: N values of a channel, C input channels, K functions a channel (basis and residual), E outputs
that a channel reaches, T taps, G given functions of a channel at most, S columns of parameters.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from kanzoo.bases.base import GridBasis
from kanzoo.layers.edges import EdgeLayer

if TYPE_CHECKING:
    from kanzoo.layers.elementary import Elementary

IDENTITY = (1.0, 0.0, 1.0, 0.0)
MAX_TEXT = 2**18  # bytes that the given edges of a layer may take in a file


@dataclass(frozen=True)
class Given:
    """An edge with a given function; its a, b, c, d are a column of the layer's parameters.

    Edges with the same column share function and parameters. `text` is the expression of an own
    function, so that a stored layer needs nothing beside it.
    """

    i: int
    o: int
    column: int
    name: str
    text: str = ""
    domain: tuple[float, float] = (-math.inf, math.inf)
    is_trained: bool = True

    @property
    def function(self) -> "Elementary":
        from kanzoo.layers.elementary import get_function, make_function  # which load SymPy

        return (
            make_function(self.name, self.text, self.domain)
            if self.text
            else get_function(self.name)
        )

    def __call__(self, x: Tensor, affine: Tensor) -> Tensor:
        """Values at x, with the parameters `(4, S)` of all columns."""
        affine = affine if self.is_trained else affine.detach()
        a, b, c, d = affine[:, self.column].unbind()
        return c * self.function.call(a * x + b) + d


def check_affine(affine: Sequence[float]) -> tuple[float, float, float, float]:
    """a, b, c and d as plain numbers; `ValueError` if they are not four finite ones."""
    try:
        values = tuple(float(value) for value in affine)
    except (TypeError, ValueError):
        values = ()
    if len(values) != 4 or not all(map(math.isfinite, values)):
        raise ValueError(f"affine must be four finite numbers a, b, c, d, got {affine!r}")
    a, b, c, d = values
    return a, b, c, d


class GivenLayer(EdgeLayer):
    """A layer some of whose edges are given functions; `edge_mask` is zero at these.

    `given_affine` `(4, S)` are their parameters, trained with the others; `given_edges` holds in
    bytes of JSON which edges are given which functions, so that both belong to the state.
    """

    given: tuple[Given, ...] = ()
    given_affine: nn.Parameter | None

    def given_at(self, i: int, o: int) -> Given | None:
        """What the edge i -> o was given, None unless it was."""
        return next((edge for edge in self.given if (edge.i, edge.o) == (i, o)), None)

    def fix_edge(
        self,
        i: int,
        o: int,
        function: "str | Elementary",
        affine: Sequence[float] = IDENTITY,
        *,
        is_trained: bool = True,
    ) -> None:
        """Make the edge i -> o a function of the library: c f(a x + b) + d, affine = (a, b, c, d).

        They are parameters, trained with the others or kept; make the optimiser afterwards. "0"
        removes the edge and adds d to the bias. Raises `ValueError` for unknown functions, edges
        that are not there, and edges that are constrained or shared by inputs.
        """
        from kanzoo.layers.elementary import CONSTANT, get_function

        i, o = self.check_edge(i, o)
        self.check_stored()
        entry = get_function(function)
        values = check_affine(affine)
        if self.input_group is not None or (self.edge_kind is not None and self.edge_kind[i, o]):
            raise ValueError(
                f"the edge {i} -> {o} is kept of a kind or shared by inputs, and cannot be given"
            )
        self._close(i, o)
        if entry is CONSTANT:
            bias = self.bias
            if bias is not None:
                with torch.no_grad():
                    bias[o] += values[3]
            return
        old = self._affine()
        column = old.new_tensor(values).unsqueeze(1)
        edge = Given(i, o, old.shape[1], entry.name, entry.text, entry.domain, is_trained)
        if not entry.text:
            edge = replace(edge, domain=(-math.inf, math.inf))
        self.set_given((*self.given, edge), torch.cat([old, column], dim=1))

    def share_given(self, source: tuple[int, int], target: tuple[int, int]) -> None:
        """Let the edge `target` share function and parameters of the given edge `source`."""
        source, target = self.check_edge(*source), self.check_edge(*target)
        if self.given_at(*source) is None:
            raise ValueError(f"the edge {source} has no given function to share: fix_edge it first")
        if source == target:
            raise ValueError(f"an edge cannot be locked to itself, got {source} twice")
        self._close(*target)
        edge = self.given_at(*source)
        assert edge is not None
        shared = replace(edge, i=target[0], o=target[1])
        self.set_given((*self.given, shared), self._affine())

    def unshare_given(self, i: int, o: int) -> None:
        """Let a given edge have parameters of its own, which others may have shared."""
        edge = self.given_at(i, o)
        if edge is not None:
            affine = self._affine()
            alone = replace(edge, column=affine.shape[1])
            edges = tuple(alone if other is edge else other for other in self.given)
            self.set_given(edges, torch.cat([affine, affine[:, edge.column, None]], dim=1))

    def free_edge(self, i: int, o: int, x: Tensor | None = None) -> None:
        """Make the edge i -> o a trained sum of basis functions again, near to what it was given.

        Near on the values x `(N,)`, or over the grid. A pruned edge starts from zero.
        """
        i, o = self.check_edge(i, o)
        self.check_stored()
        edge = self.given_at(i, o)
        if edge is None and (self.edge_mask is None or self.edge_mask[i, 0, o] > 0):
            return
        with torch.no_grad():
            coefficients = self.weight.new_zeros(self.weight.shape[1])
            if edge is not None:
                coefficients, rest = self._projected(edge, x)
                bias = self.bias
                if bias is not None:
                    bias[o] += rest
                self._drop([(i, o)])
            assert self.edge_mask is not None
            self.edge_mask = self.edge_mask.clone()
            self.edge_mask[i, 0, o] = 1
            weight = self.unmasked_weight().clone()
            weight[i, :, o] = coefficients
            self._set_effective(weight, self.edge_kind)
        self.weight.requires_grad_(True)

    @torch.no_grad()
    def mask_edges(self, keep: Tensor) -> None:
        super().mask_edges(keep)
        if self.given:
            self._drop([(e.i, e.o) for e in self.given if not keep[e.i, e.o]])

    def edges_left(self) -> Tensor:
        """Which edges are not pruned, bool `(C, E)`: of the basis or given."""
        left = self.edge_mask_by_channel() > 0
        for edge in self.given:
            left[edge.i, edge.o] = True
        return left

    @property
    def num_idle(self) -> int:
        """How many weights stand for nothing where edges are given: those of all closed edges."""
        if not self.given or self.edge_mask is None:
            return 0
        return int((self.edge_mask == 0).sum()) * self.weight.shape[1]

    def edge_basis(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Functions and weights of all edges: x `(N, C)` -> `(K + G, N, C)`, `(C, K + G, E, T)`.

        Their products, added up over functions, are the values of the edges.
        """
        basis: Tensor = self.expansion.univariate(x)
        weight = self.edge_weight().to(basis.dtype)
        if not self.given:
            return basis, weight
        counts = [0] * self.in_features
        slots = []
        for edge in self.given:
            slots.append(counts[edge.i])
            counts[edge.i] += 1
        channels, _, outputs, taps = weight.shape
        extra = [basis.new_zeros(x.shape) for _ in range(max(counts))]
        more = weight.new_zeros(channels, max(counts), outputs, taps)
        for edge, slot in zip(self.given, slots, strict=True):
            values = edge(x[:, edge.i], self._affine(detach=False)).to(basis.dtype)
            extra[slot] = extra[slot].index_copy(
                1, torch.tensor([edge.i], device=x.device), values.unsqueeze(1)
            )
            more[edge.i, slot, edge.o] = 1
        return torch.cat([basis, torch.stack(extra)]), torch.cat([weight, more], dim=1)

    def add_given(self, x: Tensor, y: Tensor) -> Tensor:
        """The outputs y `(..., O)` of the basis, and what given functions add at x `(..., C)`."""
        affine = self._affine(detach=False)
        terms: list[list[Tensor]] = [[] for _ in range(self.out_features)]
        for edge in self.given:
            terms[edge.o].append(edge(x[..., edge.i], affine))
        zero = x.new_zeros(x.shape[:-1])
        return y + torch.stack([torch.stack([zero, *t]).sum(0) for t in terms], dim=-1)

    def _affine(self, detach: bool = True) -> Tensor:
        if self.given_affine is None:
            return self.weight.detach().new_zeros(4, 0)
        return self.given_affine.detach() if detach else self.given_affine

    def _close(self, i: int, o: int) -> None:
        keep = torch.ones(self.in_features, self.out_features, dtype=torch.bool)
        keep[i, o] = False
        self.mask_edges(keep.to(self.weight.device))

    def _drop(self, edges: Sequence[tuple[int, int]]) -> None:
        left = tuple(edge for edge in self.given if (edge.i, edge.o) not in edges)
        if len(left) < len(self.given):
            self.set_given(left, self._affine())

    def set_given(self, edges: tuple[Given, ...], affine: Tensor) -> None:
        """Keep these edges, and of the columns of parameters those that they use."""
        used = sorted({edge.column for edge in edges})
        self.given = tuple(replace(edge, column=used.index(edge.column)) for edge in edges)
        self.given_affine = nn.Parameter(affine[:, used].detach().clone()) if edges else None
        self.given_edges = _packed(self.given, self.weight.device) if edges else None

    def _projected(self, edge: Given, x: Tensor | None) -> tuple[Tensor, Tensor]:
        """Weights `(K,)` of the basis nearest to a given function, and the constant beside them."""
        if x is None:
            low, high = -1.0, 1.0
            basis = self.expansion.basis
            if isinstance(basis, GridBasis) and self.expansion.squash == "none":
                ends = basis.grid_ends().expand(2, self.in_features)
                low, high = ends[:, edge.i].tolist()
            x = torch.linspace(low, high, 200)
        x = x.to(self.weight).flatten()
        values = edge(x, self._affine())
        inputs = x.unsqueeze(-1).expand(-1, self.in_features)
        functions = self.expansion.univariate(inputs)[..., edge.i]  # (K, N)
        design = torch.cat([functions, torch.ones_like(functions[:1])]).T.double().cpu()
        known = values.isfinite().cpu()
        target = values.double().cpu()[known].unsqueeze(1)
        solution = torch.linalg.lstsq(design[known], target, driver="gelsd").solution[:, 0]
        solution = solution.to(self.weight)
        return solution[:-1], solution[-1]

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        stored, affine = (state_dict.get(prefix + n) for n in ("given_edges", "given_affine"))
        if stored is not None and affine is not None:
            self.given = self._unpacked(stored, affine)
            self.given_affine = nn.Parameter(torch.empty_like(affine, device=self.weight.device))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _unpacked(self, stored: Tensor, affine: Tensor) -> tuple[Given, ...]:
        """The given edges that bytes of a file describe; `ValueError` if they cannot be."""
        try:
            if stored.numel() > MAX_TEXT or affine.dim() != 2 or len(affine) != 4:
                raise ValueError
            entries = json.loads(bytes(stored.cpu().tolist()))
            edges = tuple(
                Given(i, o, column, str(name), str(text), (float(low), float(high)), bool(trained))
                for i, o, column, name, text, low, high, trained in entries
            )
            for edge in edges:
                self.check_edge(edge.i, edge.o)
                if type(edge.column) is not int or not 0 <= edge.column < affine.shape[1]:
                    raise ValueError
            functions = [edge.function for edge in edges]
            if len({(edge.i, edge.o) for edge in edges}) < len(edges):
                raise ValueError("an edge has two functions")
        except (ValueError, TypeError, IndexError, RecursionError) as error:
            reason = f": {error}" if str(error) else ""
            raise ValueError(f"the given edges of a layer cannot be read{reason}") from error
        assert len(functions) == len(edges)
        return edges


def _packed(edges: Sequence[Given], device: torch.device) -> Tensor:
    rows = []
    for edge in edges:
        *plain, (low, high), is_trained = astuple(edge)
        ends = [end if math.isfinite(end) else str(end) for end in (low, high)]
        rows.append([*plain, *ends, is_trained])
    text = np.frombuffer(json.dumps(rows).encode(), dtype=np.uint8).copy()
    return torch.from_numpy(text).to(device)
