"""Which edges a layer has, and of which kind they are: masks and constraints of its weight.

Axes: C input channels, O output channels, E = O / groups outputs that a channel reaches, K
functions a channel (basis and residual), T taps of a kernel.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from kanzoo.checks import check_whole
from kanzoo.layers.constraint import (
    check_equal_rows,
    check_kinds,
    check_numbers,
    check_tied,
    effective,
    joined_inputs,
    parameters_of,
    tie,
    tie_edges,
)
from kanzoo.layers.expansion import Expansion
from kanzoo.layers.grid import replace_data
from kanzoo.layers.options import check_shape

# Buffers that a layer has when it needs them, and parameters beside the last.
STRUCTURE = ("edge_mask", "edge_kind", "input_group", "edge_group", "given_edges")


class EdgeLayer(nn.Module, ABC):
    """A weight whose edges may be pruned, of a kind (increasing, even, ...), or shared by inputs.

    All of this is part of the state: a layer takes it over with the weights that it loads.
    """

    function_dim: ClassVar[int]  # the dimension of the weight that counts functions
    in_features: int
    out_features: int
    groups: int = 1
    weight: nn.Parameter
    bias: nn.Parameter | None
    expansion: Expansion
    edge_mask: Tensor | None
    edge_kind: Tensor | None
    input_group: Tensor | None
    edge_group: Tensor | None
    given_edges: Tensor | None

    @abstractmethod
    def weight_shape(self, functions: int) -> tuple[int, ...]:
        """Shape of the weight for a number of functions a channel."""

    @property
    def stores_weight(self) -> bool:
        """Whether the weight and the bias are parameters, not computed from others."""
        return not any(self._is_computed(name) for name in ("weight", "bias"))

    def _is_computed(self, name: str) -> bool:
        return name not in self._parameters and getattr(self, name) is not None

    def check_stored(self, *names: str) -> None:
        """Raise `ValueError` for a tensor that is computed: what is written to it would be lost."""
        for name in names or ("weight",):
            if self._is_computed(name):
                raise ValueError(
                    f"the {name} of this {type(self).__name__} is computed (pruning, a norm or "
                    "another parametrization) and cannot be changed: call torch.nn.utils.prune."
                    "remove, remove_weight_norm or remove_parametrizations first"
                )

    def current_weight(self) -> Tensor:
        """The weight as the parameters are now that it may be computed from.

        Raises `ValueError` unless it has the layer's shape, which what
        `torch.func.functional_call` puts in its place need not have.
        """
        if "weight" not in self._parameters:
            # Pruning and the older norms compute it before a forward only.
            for hook in self._forward_pre_hooks.values():
                value: Any = None
                if isinstance(hook, SpectralNorm) and hook.name == "weight":
                    value = hook.compute_weight(self, do_power_iteration=False)
                elif isinstance(hook, WeightNorm) and hook.name == "weight":
                    value = hook.compute_weight(self)
                elif isinstance(hook, BasePruningMethod) and hook._tensor_name == "weight":
                    value = hook.apply_mask(self)
                if value is not None:
                    self.weight = value
        weight = self.weight
        check_shape("weight", weight, self.weight_shape(self.expansion.num_functions))
        return weight

    def current_bias(self) -> Tensor | None:
        """The bias; `ValueError` as for the weight."""
        check_shape("bias", self.bias, (self.out_features,))
        return self.bias

    def masked_weight(self) -> Tensor:
        """The weight of edges of their kinds, without pruned ones, whatever an optimiser does."""
        weight = self.unmasked_weight()
        return weight if self.edge_mask is None else weight * self.edge_mask

    @property
    def is_constrained(self) -> bool:
        """Whether edges are of a kind or shared, so that `weight` is a mere parameter of them."""
        kinds = (self.edge_kind, self.input_group, self.edge_group)
        return any(kind is not None for kind in kinds)

    def unmasked_weight(self) -> Tensor:
        """The weight of edges of their kinds, pruned ones too."""
        if not self.is_constrained:
            return self.current_weight()
        weight = tie_edges(tie(self.by_function(), self.input_group), self.edge_group)
        weight = effective(weight, self.edge_kind, self.expansion)
        return weight.movedim(0, self.function_dim).contiguous()

    @torch.no_grad()
    def constrain_edges(self, kind: Tensor) -> None:
        """Keep edges increasing, decreasing, even or odd from now on, for all inputs.

        `kind` has the numbers of `kanzoo.layers.constraint.KINDS`, laid out as for `mask_edges`,
        and belongs to the state. Functions that were of another kind become some of theirs. Raises
        `ValueError` where the basis cannot keep the kinds.
        """
        self.check_stored()
        shape = self.by_function()[0].shape[:2]
        if kind.shape != shape:
            raise ValueError(f"kind must be {tuple(shape)}, got {tuple(kind.shape)}")
        kind = kind.to(self.weight.device, torch.int8)
        check_kinds(kind, self.expansion)
        self.check_not_given()
        if self.input_group is not None:
            check_equal_rows(kind, self.input_group)
        self._set_effective(self.unmasked_weight(), kind, least=0.1)

    def _set_effective(self, weight: Tensor, kind: Tensor | None, least: float = 1e-5) -> None:
        """Take the parameters that give edges of these kinds the effective weight, or one near."""
        raw = parameters_of(weight.movedim(self.function_dim, 0), kind, self.expansion, least)
        self.edge_kind = kind
        replace_data(self.weight, raw.movedim(0, self.function_dim).contiguous())

    @torch.no_grad()
    def release_edges(self) -> None:
        """Forget of which kinds edges are and what shares them; their functions stay."""
        if self.is_constrained:
            self.check_stored()
            weight = self.unmasked_weight()
            self.edge_kind = self.input_group = self.edge_group = None
            replace_data(self.weight, weight)

    @torch.no_grad()
    def mask_edges(self, keep: Tensor) -> None:
        """Remove for good the edges where `keep` is false: bool, the weight's shape without K.

        All taps of a kernel are an edge: `(C, O)` for a linear layer, `(O, C / groups)` for a
        convolution, `(C, O / groups)` for a transposed one. Masks add up; they belong to the state.
        """
        weight = self.by_function()[0]
        if keep.shape != weight.shape[:2]:
            raise ValueError(f"keep must be {tuple(weight.shape[:2])}, got {tuple(keep.shape)}")
        if self.edge_group is not None:
            self.unlock_edges([(i, o) for i, o in (~keep).nonzero().tolist()])
        mask = self.keep_tied(keep).to(self.weight).view(*keep.shape, *[1] * (weight.dim() - 2))
        mask = mask.unsqueeze(self.function_dim)
        self.edge_mask = mask if self.edge_mask is None else self.edge_mask * mask
        if self.stores_weight:
            self.weight.mul_(self.edge_mask)

    def check_edge(self, i: int, o: int) -> tuple[int, int]:
        """The edge i -> o as plain numbers; `ValueError` unless the layer is linear and has it."""
        if self.weight.dim() != 3:
            raise ValueError(f"edges of {type(self).__name__} are not given or locked: KANLinear's")
        sizes = (("i", i, self.in_features), ("o", o, self.out_features))
        i, o = (check_whole(name, index, 0, size - 1) for name, index, size in sizes)
        return i, o

    def check_not_given(self) -> None:
        """Raise `ValueError` if edges are given functions, which need be of no kind."""
        if self.given_edges is not None:
            raise ValueError("edges of this layer are given functions: free_edge them first")

    def open_edges(self) -> list[tuple[int, int]]:
        """The edges (i, o) that are functions of the basis: neither given nor pruned."""
        if self.edge_mask is None:
            return [(i, o) for i in range(self.in_features) for o in range(self.out_features)]
        return [(i, o) for i, o in self.edge_mask.squeeze(1).nonzero().tolist()]

    @torch.no_grad()
    def lock_edges(self, edges: Sequence[tuple[int, int]]) -> None:
        """Let edges (i, o) of the basis be one function from now on, at first the mean of theirs.

        Raises `ValueError` for edges that are given or pruned, of different kinds, or of inputs
        that are expanded in different functions.
        """
        self.check_stored()
        opened = self.open_edges()
        for i, o in edges:
            if self.check_edge(i, o) not in opened:
                raise ValueError(f"the edge {i} -> {o} is given or pruned: it cannot be locked")
            if self.input_group is not None:
                raise ValueError("inputs share their edges already: these cannot be locked")
        shape = (self.in_features, self.out_features)
        group = self.edge_group
        if group is None:
            group = torch.arange(shape[0] * shape[1], device=self.weight.device).view(shape)
        joined = {int(group[i, o]) for i, o in edges}
        group = torch.where(
            torch.isin(group, torch.tensor([*joined]).to(group)), min(joined), group
        )
        if self.edge_kind is not None and len({int(self.edge_kind[i, o]) for i, o in edges}) > 1:
            raise ValueError("edges of different kinds cannot be locked to each other")
        check_tied(joined_inputs(group), self.expansion)
        weight = tie_edges(self.unmasked_weight().movedim(1, 0), group).movedim(0, 1)
        self.edge_group = group
        self._set_effective(weight, self.edge_kind)

    @torch.no_grad()
    def unlock_edges(self, edges: Sequence[tuple[int, int]]) -> None:
        """Train edges of the basis by themselves again."""
        if self.edge_group is None:
            return
        weight = self.unmasked_weight()
        group = self.edge_group.clone()
        for i, o in edges:
            group[i, o] = int(group.max()) + 1
        group = group.unique(return_inverse=True)[1]
        self.edge_group = None if len(group.unique()) == group.numel() else group
        self._set_effective(weight, self.edge_kind)

    def keep_tied(self, keep: Tensor) -> Tensor:
        """A mask that keeps an edge where an edge is kept that is shared with it."""
        if self.input_group is None:
            return keep
        return tie(keep.to(self.weight).unsqueeze(0), self.input_group)[0] > 0

    def edge_weight(self) -> Tensor:
        """The masked weight by input channel and the outputs that it reaches, `(C, K, E, T)`.

        E = O / groups, in the order of the channel's group; T taps, 1 for a linear layer.
        """
        weight = self.masked_weight()
        if self.function_dim == 1:
            return weight.flatten(3) if weight.dim() > 3 else weight.unsqueeze(-1)
        grouped = weight.flatten(3).unflatten(0, (-1, self.edges_out))  # (G, O / G, C / G, K, T)
        return grouped.permute(0, 2, 3, 1, 4).flatten(0, 1)

    def edge_mask_by_channel(self) -> Tensor:
        """Which edges are left, as `edge_weight` lays them out: 1 or 0, `(C, E)`."""
        shape = self.by_function()[0].shape[:2]
        mask = self.weight.new_ones(shape) if self.edge_mask is None else self.edge_mask.view(shape)
        if self.function_dim == 1:
            return mask
        return mask.unflatten(0, (-1, self.edges_out)).transpose(1, 2).flatten(0, 1)

    def mask_channels(self, keep: Tensor) -> None:
        """`mask_edges`, with `keep` laid out as `edge_weight`: `(C, E)`."""
        if self.function_dim != 1:
            keep = keep.unflatten(0, (self.groups, -1)).transpose(1, 2).flatten(0, 1)
        self.mask_edges(keep)

    @property
    def edges_out(self) -> int:
        """How many outputs an input channel reaches: O / groups."""
        return self.out_features // self.groups

    def by_function(self) -> Tensor:
        """The weight as a view with functions first."""
        return self.current_weight().movedim(self.function_dim, 0)

    def check_constraints(self) -> None:
        """Raise `ValueError` unless the basis, as it is now, can keep what edges must be."""
        if self.edge_kind is not None:
            check_kinds(self.edge_kind, self.expansion)
        if self.input_group is not None:
            check_numbers("input_group", self.input_group, (self.in_features,))
            check_tied(self.input_group, self.expansion)
        if self.edge_group is not None:
            shape = (self.in_features, self.out_features)
            check_numbers("edge_group", self.edge_group, shape)
            check_tied(joined_inputs(self.edge_group), self.expansion)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        for name in STRUCTURE:
            stored = state_dict.get(f"{prefix}{name}")
            if stored is not None:  # of a pruned or constrained layer, whatever this one is
                setattr(self, name, torch.empty_like(stored, device=self.weight.device))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def check_loaded(layer: EdgeLayer, _keys: object) -> None:
    """After a state was loaded, by children too: see `check_constraints`."""
    layer.check_constraints()
