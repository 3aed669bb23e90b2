"""Layers of some of the inputs and outputs of another one, or of more.

Axes: C input channels, O output channels, K functions a channel.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from kanzoo.layers import KANLinear
from kanzoo.layers.constraint import tie, tie_edges


def restricted(layer: KANLinear, rows: Tensor, columns: Tensor, bias: Tensor) -> KANLinear:
    """The layer on some of its inputs and outputs, with a bias given."""
    source = layer.expansion
    new = KANLinear(
        len(rows),
        len(columns),
        basis=source.factory,
        residual=source.residual,
        squash=source.squash,
        init=layer.init,
        backend=layer.backend,
        device=layer.weight.device,
        dtype=layer.weight.dtype,
    )
    state = new.expansion.state_dict()
    for name, value in source.state_dict().items():
        like = state[name]
        if value.shape != like.shape:
            axis = [k for k, n in enumerate(value.shape) if n == layer.in_features][-1]
            value = value.index_select(axis, rows)
        state[name] = value
    new.expansion.load_state_dict(state)
    weight = tie_edges(tie(layer.by_function(), layer.input_group), layer.edge_group)
    weight = weight.movedim(0, layer.function_dim)
    new.weight.copy_(weight[rows][:, :, columns])
    if layer.edge_kind is not None:
        new.edge_kind = layer.edge_kind[rows][:, columns]
    if layer.input_group is not None:
        new.input_group = layer.input_group[rows].unique(return_inverse=True)[1]
    if layer.edge_group is not None:
        new.edge_group = layer.edge_group[rows][:, columns].unique(return_inverse=True)[1]
    new.check_constraints()
    assert new.bias is not None
    new.bias.copy_(bias)
    if layer.edge_mask is not None and not (keep := layer.edge_mask[rows, 0][:, columns] > 0).all():
        new.mask_edges(keep)
    hand_on(layer, new, rows.tolist(), columns.tolist())
    return new


def hand_on(
    old: KANLinear, new: KANLinear, rows: Sequence[int | None], columns: Sequence[int | None]
) -> None:
    """Give a layer of some inputs and outputs of another one the functions given to these."""
    if old.given_affine is not None:
        edges = [
            replace(edge, i=rows.index(edge.i), o=columns.index(edge.o))
            for edge in old.given
            if edge.i in rows and edge.o in columns
        ]
        new.set_given(tuple(edges), old.given_affine)


@torch.no_grad()
def widened(layer: KANLinear, rows: list[int | None], columns: list[int | None]) -> KANLinear:
    """The layer with inputs and outputs of an order, new ones where there is None."""
    like = [torch.tensor([0 if k is None else k for k in kept]) for kept in (rows, columns)]
    bias = layer.weight.new_zeros(len(columns))
    old = torch.tensor([k is not None for k in columns])
    if layer.bias is not None:
        bias[old] = layer.bias[like[1][old]]
    new = restricted(layer, like[0], like[1], bias)
    if layer.bias is None:
        new.bias = None
    drawn = copy.deepcopy(new)
    drawn.reset_parameters()
    added = [torch.tensor([k is None for k in kept]) for kept in (rows, columns)]
    new.weight[:, :, added[1]] = drawn.weight[:, :, added[1]]
    new.weight[added[0]] = 0
    if new.edge_mask is not None:
        new.edge_mask = new.edge_mask.clone()
        new.edge_mask[:, :, added[1]] = 1
        new.edge_mask[added[0]] = 1
    hand_on(layer, new, rows, columns)
    return new.train(layer.training)
