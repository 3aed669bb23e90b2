"""What all KAN layers share: a basis expansion of the inputs, then an ordinary linear operator.

Axes: C input channels, O output channels, K functions a channel (basis and residual).
"""

import copy
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kanzoo.bases.base import Basis, BasisFactory, GridBasis, as_factory
from kanzoo.checks import MAX_FUNCTIONS, check_whole
from kanzoo.layers.constraint import monotone_on_data
from kanzoo.layers.dispatch import choose, explain
from kanzoo.layers.edges import STRUCTURE, check_loaded
from kanzoo.layers.expansion import Expansion
from kanzoo.layers.given import GivenLayer
from kanzoo.layers.grid import (
    SAMPLE_ROWS,
    GridChange,
    replace_data,
    sample_rows,
    share_from_first,
    subsample,
    transfer,
)
from kanzoo.layers.memory import check_tensor
from kanzoo.layers.options import check_channels
from kanzoo.layers.parameters import sources
from kanzoo.layers.paths.base import Request

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# What a computed weight is stored as, by pruning, norms and other parametrizations.
SOURCES = ("weight_orig", "weight_v", *(f"parametrizations.weight.original{n}" for n in ("", 1)))


class KANLayer(GivenLayer, ABC):
    """What all KAN layers share: expansion, weight, bias, edges and initialisation.

    A fixed activation as basis (K = 1) makes it the ordinary "activation, then linear" layer, which
    is how the MLP twins are built.
    """

    decays: ClassVar[tuple[str, ...]] = ("weight",)  # what weight decay applies to
    backend: str

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool,
        basis: str | BasisFactory | type[Basis],
        residual: str | None,
        squash: str,
        init: str,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        if dtype is not None and dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(map(str, DTYPES))}, got {dtype}")
        tensors: dict[str, Any] = {"device": device, "dtype": dtype}
        self.in_features = in_features
        self.out_features = out_features
        self.expansion = Expansion(
            in_features, as_factory(basis), residual=residual, squash=squash, **tensors
        )
        self.init = init
        shape = self.weight_shape(self.expansion.num_functions)
        check_tensor(shape, torch.empty(0, **tensors))
        self.weight = nn.Parameter(torch.empty(shape, **tensors))
        self.bias = nn.Parameter(torch.empty(out_features, **tensors)) if bias else None
        for name in STRUCTURE:
            self.register_buffer(name, None)
        self.register_parameter("given_affine", None)
        self.register_load_state_dict_post_hook(check_loaded)
        self.reset_parameters()

    @abstractmethod
    def request(self, x: Tensor) -> Request:
        """What is to be computed of an input."""

    def explain_backend(self, x: Tensor) -> str:
        """One line: the path which computes the layer on inputs like x, and why others do not."""
        return explain(self.request(x))

    def set_backend(self, backend: str, shape: tuple[int, ...]) -> None:
        """Choose how the layer is computed; `ValueError` if it cannot be on inputs of a shape."""
        self.backend = backend
        if backend == "auto":
            return
        try:
            choose(self.request(torch.empty(shape, device="cpu")))
        except ValueError:
            if not torch.accelerator.is_available():
                raise
            device = torch.accelerator.current_accelerator()
            choose(self.request(torch.empty(shape, device=device)))

    @property
    def has_edges(self) -> bool:
        """Whether edge functions are learned, which those of "act, then linear" are not."""
        trained = any(p.requires_grad for p in self.expansion.parameters())
        return self.expansion.num_functions > 1 or trained

    def edge_norms(self, x: Tensor, rows: int = 1024) -> Tensor:
        """|phi| of every edge, its mean absolute value on the inputs x of this layer, `(C, E)`.

        Differentiable; on at most `rows` values spread over x; taps are added up
        (KAN, 2404.19756, eq. 2.17).
        """
        basis, weight = self.edge_basis(subsample(self.rows(x), rows))  # (K, N, C)
        return torch.einsum("knc,cket->ncet", basis, weight).abs().mean(0).sum(-1)

    def rows(self, x: Tensor) -> Tensor:
        """All values that the basis gets to see, as `(N, C)`."""
        check_channels(x, -1, self.in_features)
        return x.reshape(-1, self.in_features)

    def map_functions(self, tensor: Tensor, matrix: Tensor) -> Tensor:
        """sum_k M[c, l, k] W[.., c, k, ..] for W shaped as the weight, in the dtype of W.

        Shapes: tensor as weight, matrix `(C, L, K)` -> as weight with L functions.
        """
        matrix = matrix.to(tensor.device)
        return torch.einsum("clk,ck...->cl...", matrix, tensor.to(matrix.dtype)).to(tensor.dtype)

    def reset_parameters(self) -> None:
        """Draw the weights by the chosen scheme from PyTorch's generator, biases mostly zero."""
        self.check_stored("weight", "bias")
        fan_out = self.out_features * self.taps
        self.expansion.init_weight(self.by_function(), self.fan_in, self.init, fan_out)
        if self.bias is not None:
            nn.init.zeros_(self.bias)  # draws no numbers
            if self.init == "uniform":
                nn.init.uniform_(self.bias, -(self.fan_in**-0.5), self.fan_in**-0.5)

    @property
    def fan_in(self) -> float:
        """How many values of every function are added up in an output."""
        return self.by_function()[0].numel() / self.out_features

    @property
    def taps(self) -> int:
        """How many weights a function has on one edge: the pixels of a kernel, or 1."""
        return 1

    def tap_index(self, tap: tuple[int, ...] | None) -> int:
        """The number of a tap among those of an edge, the first unless given."""
        return 0

    def edge(self, i: int, o: int, x: Tensor, tap: tuple[int, ...] | None = None) -> Tensor:
        """Value at x, of any shape, of the function on the edge i -> o; the bias is on no edge.

        Of a kernel, at one of its taps, else the first. With groups, i counts within that of o.
        """
        group, output = divmod(o, self.edges_out)
        channel = i + group * (self.in_features // self.groups)
        inputs = x.new_zeros((*x.shape, self.in_features))
        inputs[..., channel] = x
        values = self.expansion.univariate(inputs)[..., channel]  # (K, ...)
        weight = self.edge_weight()[channel, :, output, self.tap_index(tap)].to(values.dtype)
        # Not a matrix product, which autocast would compute in reduced precision.
        value = (weight.view(-1, *[1] * x.dim()) * values).sum(0)
        given = self.given_at(i, o)
        if given is None or self.given_affine is None:
            return value
        return value + given(x, self.given_affine)

    @property
    def num_params(self) -> int:
        """Trainable parameters by the formula: C O K / groups per tap, O biases, the basis' own.

        Of a computed weight those that it is computed from.
        """
        basis = sum(p.numel() for p in self.expansion.parameters())
        given = 0 if self.given_affine is None else self.given_affine.numel()
        bias = self.out_features if self.bias is not None else 0
        weight = sum(p.numel() for p in sources(self, "weight"))
        return weight + bias + basis + given

    @property
    def has_grid(self) -> bool:
        """Whether `update_grid` and `refine` can be called."""
        return isinstance(self.expansion.basis, GridBasis)

    @torch.inference_mode(False)  # else what is made here could not be trained
    def update_grid(
        self, x: Tensor, *, uniform_share: float = 0.1, margin: float = 0.01
    ) -> GridChange:
        """Move the grid to where the inputs x of this layer are; its function on them stays.

        Adaptive grids get breaks between equal intervals (`uniform_share` 1) and equally many data
        (towards 0); `margin` times the range is added on both sides. Features whose values hardly
        differ keep their grid. All processes of a group must call it and end with the same grid.
        The optimiser's state no longer fits: see `kanzoo.layers.grid.adjust_optimizer`.
        """
        if not 0 < uniform_share <= 1:
            raise ValueError(f"uniform_share must be above 0 and at most 1, got {uniform_share}")
        if not 0 <= margin < float("inf"):
            raise ValueError(f"margin must be at least 0, got {margin}")
        basis = self._grid_to_change()
        sample = self._sample(x)
        old, before = copy.deepcopy(basis), self.unmasked_weight()
        if sample.isfinite().any():
            basis.fit_grid(sample, uniform_share, margin)
        return self._refit(old, before, sample)

    @torch.inference_mode(False)
    def refine(self, grid_size: int, x: Tensor | None = None) -> GridChange:
        """Change the number of grid cells; the function stays, on the inputs x above all if given.

        Exact where the new grid contains the old one: adaptive grids always when they grow, uniform
        ones when they grow by a whole factor. The weight stays the same `Parameter`, with another
        shape: wrap the layer in DDP or FSDP afterwards, and adjust the optimiser as above.
        """
        basis = self._grid_to_change()
        grid_size = check_whole("grid_size", grid_size, 1, MAX_FUNCTIONS)
        sample = None if x is None else self._sample(x)
        old, before = copy.deepcopy(basis), self.unmasked_weight()
        basis.resize_grid(grid_size)
        return self._refit(old, before, sample)

    @torch.no_grad()
    def outside_share(self, x: Tensor) -> float:
        """The share of inputs x of this layer that the basis sees outside of its grid's range."""
        values = subsample(self.expansion.squashed(self.rows(x)), SAMPLE_ROWS)
        low, high = self._grid_basis().grid_ends().to(values)
        return float(((values < low) | (values > high)).double().mean()) if len(values) else 0.0

    def _grid_basis(self) -> GridBasis:
        basis = self.expansion.basis
        if not isinstance(basis, GridBasis):
            raise ValueError(f"basis {self.expansion.factory.name!r} has no grid")
        return basis

    def _grid_to_change(self) -> GridBasis:
        """The basis; `ValueError` where its grid cannot be changed while the function stays."""
        self.check_stored()
        if self.weight.is_meta:
            raise ValueError("a layer on the meta device has no function: make it with that grid")
        return self._grid_basis()

    def _sample(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            sample = sample_rows(self.expansion.squashed(self.rows(x)), samples=len(x))
        # Even and odd functions keep a grid that is as symmetric as they are.
        return sample if self.expansion.reflection is None else torch.cat([sample, -sample])

    @torch.no_grad()
    def _refit(self, old: GridBasis, before: Tensor, sample: Tensor | None) -> GridChange:
        basis = self._grid_basis()
        reflection = self.expansion.reflection
        try:
            self.check_constraints()
        except ValueError:
            self.expansion.basis, self.expansion.reflection = old, reflection
            raise
        self.expansion.grid_changed()
        matrix = transfer(old, basis, sample)
        if self.expansion.residual is not None:
            matrix = F.pad(matrix, (0, 1, 0, 1))
            matrix[:, -1, -1] = 1
        weight = self.map_functions(before.detach(), matrix)
        kind = self.edge_kind
        if kind is not None and sample is not None and len(sample) and weight.dim() == 3:
            weight = monotone_on_data(weight.movedim(1, 0), kind, basis, sample).movedim(0, 1)
        self._set_effective(weight, kind)
        share_from_first([self.weight.data, *basis.buffers()])
        return GridChange(self, matrix)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        names = SOURCES if self._is_computed("weight") else ("weight",)
        stored = [state_dict[prefix + name] for name in names if prefix + name in state_dict]
        if isinstance(self.expansion.basis, GridBasis) and stored:
            self._resize_to(stored[0].shape)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _resize_to(self, shape: torch.Size) -> None:
        """Take another grid size if that alone makes the weight fit a shape."""
        current, dim = list(self.weight.shape), self.function_dim
        basis = self._grid_basis()
        if len(shape) != len(current) or shape[dim] == current[dim]:
            return
        grid_size = basis.size_with(basis.num_functions + shape[dim] - current[dim])
        current[dim] = shape[dim]
        if current == list(shape) and grid_size >= 1:
            self.check_stored()
            basis.resize_grid(grid_size)
            self.expansion.grid_changed()
            replace_data(self.weight, self.weight.data.new_empty(shape))

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"
