"""What is known beforehand, put into a network: monotone, even or odd, exchangeable, separable.

All functions change a stack of `KANLinear` in place, with or without product nodes. The optimiser's
parameters stay the same objects; what was imposed is part of the network's state.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from kanzoo.fit.chain import Stage, chain
from kanzoo.interpret.pruning import alive
from kanzoo.layers import KANLinear
from kanzoo.layers.constraint import KINDS, check_equal_rows, kind_number
from kanzoo.layers.products import node_of


def constrain_edge(layer: KANLinear, i: int, o: int, kind: str) -> None:
    """Keep the edge i -> o "increasing", "decreasing", "even", "odd", or set it "free" again.

    Holds for all inputs of the layer, whatever an optimiser does. Raises `ValueError` where the
    basis cannot keep it: monotone are B-splines and hat functions with extrapolation "linear" or
    "clamp", Bernstein polynomials and monotone activations; even or odd those of a basis that is
    its own mirror image. The residual branch takes no part where it is of another kind (SiLU is
    of none).
    """
    for name, index, size in (("i", i, layer.in_features), ("o", o, layer.out_features)):
        if not 0 <= index < size:
            raise ValueError(f"{name} must be from 0 to {size - 1}, got {index}")
    kinds = kinds_of(layer)
    kinds[i, o] = kind_number(kind)
    layer.constrain_edges(kinds)


def kinds_of(layer: KANLinear) -> Tensor:
    """A copy of the numbers of the edges' kinds, `(C, O)`: see `layers.constraint.KINDS`."""
    if layer.edge_kind is not None:
        return layer.edge_kind.clone()
    shape = layer.in_features, layer.out_features
    return torch.zeros(shape, dtype=torch.int8, device=layer.weight.device)


def impose(net: nn.Module, inputs: Mapping[int, str]) -> None:
    """Make a network "increasing", "decreasing", "even" or "odd" in inputs, by their number.

    Increasing: all edges on paths from the input are, which keeps every output so for all values
    of the others; decreasing: those of the first layer fall, the rest on the paths rise. Even: the
    edges from the input are, so f(-x) = f(x) while the others stay; odd is that of a network in
    all inputs together, f(-x) = -f(x): all must be "odd", all edges become so and biases are taken
    away. Raises `ValueError` before anything is changed where a layer cannot keep it, or where a
    product node lies on a path that shall be monotone.
    """
    stages = chain(net)
    count = stages[0].layer.in_features
    numbers = {_check_input(i, count): kind_number(kind) for i, kind in inputs.items()}
    odd = [i for i, kind in numbers.items() if kind == KINDS["odd"]]
    if odd and len(odd) < count:
        raise ValueError(f"odd is a network in all of its {count} inputs together, or in none")
    if odd and any(stage.products for stage in stages):
        raise ValueError("product nodes multiply odd functions to even ones: take model.mult=0")
    plan = [kinds_of(stage.layer) for stage in stages]
    for i, kind in numbers.items():
        plan[0][i] = kind
    if odd:
        plan = [torch.full_like(kinds, KINDS["odd"]) for kinds in plan]
    reached = torch.zeros(count, dtype=torch.bool)
    reached[[i for i, kind in numbers.items() if abs(kind) == 1]] = True
    for depth, (stage, kinds) in enumerate(zip(stages, plan, strict=True)):
        if depth:
            kinds[reached] = KINDS["increasing"]
        hit = (alive(stage.layer).cpu() & reached[:, None]).any(0)
        if stage.products and bool(hit[stage.layer.out_features - 2 * stage.products :].any()):
            raise ValueError(
                f"layer {stage.name!r} multiplies nodes that depend on an input which shall be "
                "monotone: a product of increasing functions need not increase (model.mult=0)"
            )
        reached = hit[: stage.num_nodes]
    _constrain([stage.layer for stage in stages], plan)
    if odd:
        for stage in stages:
            stage.layer.bias = None


def _constrain(layers: Sequence[KANLinear], plan: Sequence[Tensor]) -> None:
    """Constrain all layers, or none if one cannot be."""
    before = [(layer, layer.edge_kind, layer.weight.detach().clone()) for layer in layers]
    try:
        for layer, kinds in zip(layers, plan, strict=True):
            if kinds.any() or layer.edge_kind is not None:
                layer.constrain_edges(kinds)
    except ValueError:
        for layer, kind, weight in before:
            layer.edge_kind, layer.weight.data = kind, weight
            layer.check_constraints()
        raise


def exchangeable(net: nn.Module, groups: Sequence[Sequence[int]]) -> None:
    """Make a network invariant under exchange of the inputs of every group, as [[0, 1], [2, 4]].

    They share their edges in the first layer, which become the mean of what they were. Raises
    `ValueError` where the layer's basis differs from input to input.
    """
    layer = chain(net)[0].layer
    numbers = torch.arange(layer.in_features)
    seen: set[int] = set()
    for group in groups:
        members = [_check_input(i, layer.in_features) for i in group]
        if len(set(members)) < 2 or seen & set(members):
            raise ValueError(f"groups must hold two inputs or more, each once, got {list(group)}")
        seen |= set(members)
        numbers[members] = members[0]
    if layer.input_group is not None:
        old = layer.input_group.cpu()
        for i, number in enumerate(old.tolist()):  # what was shared before still is
            first = int((old == number).nonzero()[0])
            numbers[numbers == numbers[i]] = numbers[first]
    layer.share_inputs(numbers)


def separable(net: nn.Module, groups: Sequence[Sequence[int]]) -> None:
    """Make every output a sum of functions of the inputs of one group each, as [[0, 1], [2]].

    Hidden nodes are dealt out to the groups, at least one each, in proportion to their inputs; all
    edges between nodes of different groups are removed, so that no path joins two groups and mixed
    derivatives across them are zero. Every input must be in exactly one group. Raises `ValueError`
    for fewer hidden nodes than groups, and for products among the outputs.
    """
    stages = chain(net)
    count = stages[0].layer.in_features
    flat = sorted(_check_input(i, count) for group in groups for i in group)
    if flat != list(range(count)) or not all(groups):
        raise ValueError(f"groups must hold each of the {count} inputs once, got {list(groups)}")
    if stages[-1].products:
        raise ValueError("outputs that are products are no sums: they cannot be separated")
    owner = torch.zeros(count, dtype=torch.long)
    for number, group in enumerate(groups):
        owner[list(group)] = number
    shared = stages[0].layer.input_group
    if shared is not None:
        check_equal_rows(owner[:, None], shared.cpu())
    masks = []
    for stage in stages[:-1]:
        nodes = _node_groups(stage, [len(group) for group in groups])
        masks.append(owner[:, None] == nodes[node_of(stage.num_nodes, stage.products)])
        owner = nodes
    for stage, mask in zip(stages, masks, strict=False):
        stage.layer.mask_edges(mask.to(stage.layer.weight.device))


def _node_groups(stage: Stage, sizes: Sequence[int]) -> Tensor:
    """The group of every node behind a layer: sums first, then products, each in proportion."""
    if stage.num_nodes < len(sizes):
        raise ValueError(
            f"layer {stage.name!r} leads to {stage.num_nodes} nodes, "
            f"too few for {len(sizes)} groups"
        )
    shares = torch.tensor(sizes, dtype=torch.float64) / sum(sizes)
    counts = torch.ones(len(sizes), dtype=torch.long)
    order: list[int] = list(range(len(sizes)))
    for _ in range(stage.num_nodes - len(sizes)):
        most = int((shares * stage.num_nodes - counts).argmax())
        counts[most] += 1
        order.append(most)
    return torch.tensor(order)


def _check_input(i: int, count: int) -> int:
    if not isinstance(i, int) or not 0 <= i < count:
        raise ValueError(f"inputs are numbered from 0 to {count - 1}, got {i!r}")
    return i
