"""Changing a network by hand: functions of edges, edges and nodes taken away, nodes added.

All functions change a stack of `KANLinear` in place, with or without product nodes; what they did
is part of its state. Layers count from 0, or are named. Make the optimiser afterwards.
"""

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kanzoo.checks import check_name, check_whole
from kanzoo.fit.chain import Stage, chain, check_finite
from kanzoo.interpret.edges import layer_values
from kanzoo.interpret.fits import fit_values
from kanzoo.interpret.formula.library import EdgeFit, fit_edge
from kanzoo.interpret.pruning import mask_layer
from kanzoo.interpret.resize import restricted, widened
from kanzoo.interpret.scores import layer_scores
from kanzoo.layers.elementary import CONSTANT, get_function
from kanzoo.layers.given import IDENTITY, check_affine
from kanzoo.layers.products import Products, node_of

Layer = int | str


def find_stage(net: nn.Module, layer: Layer) -> tuple[list[Stage], int]:
    """All layers of a stack, and the number of the one that is meant; else `ValueError`."""
    stages = chain(net)
    if isinstance(layer, str):
        names = [stage.name for stage in stages]
        check_name("layer", layer, names)
        return stages, names.index(layer)
    return stages, check_whole("layer", layer, 0, len(stages) - 1)


def suggest(
    net: nn.Module,
    x: Tensor,
    layer: Layer,
    i: int,
    o: int,
    *,
    functions: Iterable[str] | None = None,
) -> list[EdgeFit]:
    """The functions that an edge may be on the inputs x `(N, C)` of the network, the best first.

    Each with its `r2`, its `function.complexity` and the a, b, c, d of c f(a x + b) + d; ranked by
    both. Functions that are not defined for what the edge sees are left out.
    """
    stages, index = find_stage(net, layer)
    stage = stages[index]
    stage.layer.check_edge(i, o)
    return fit_values(stage.layer, _seen(net, x, stage), i, o, functions=functions)


def fix_edge(
    net: nn.Module,
    layer: Layer,
    i: int,
    o: int,
    function: str,
    *,
    affine: Sequence[float] | None = None,
    x: Tensor | None = None,
    is_trained: bool = True,
) -> EdgeFit:
    """Make the edge i -> o of a layer a function of the library, c f(a x + b) + d.

    Parameters
    ----------
    function : str
        Its name, or "0", which removes the edge.
    affine : four numbers, optional
        a, b, c and d. Unless given, they are fitted to what the edge is on the inputs x of the
        network; without these, 1, 0, 1 and 0.
    is_trained : bool, default True
        Whether a, b, c and d are trained from now on.

    Returns
    -------
    EdgeFit
        The function, its parameters, and R^2 against what the edge was (NaN without x).

    Raises
    ------
    ValueError
        For unknown functions (with the nearest name), edges that are not there, and a function that
        is not defined for what the edge sees of x.
    """
    stages, index = find_stage(net, layer)
    stage = stages[index]
    target = stage.layer
    target.check_edge(i, o)
    entry = get_function(function)
    numbers = IDENTITY if affine is None else check_affine(affine)
    fit = EdgeFit(entry, *numbers, float("nan"))
    if x is not None:
        values = _seen(net, x, stage)[:, i]
        with torch.no_grad():
            before = target.edge(i, o, values).double().cpu().numpy()
        seen = values.double().cpu().numpy()
        if affine is None and entry is not CONSTANT:
            fits = fit_edge(seen, before, [function])
            if fits and fits[0].function is CONSTANT:  # a pruned edge is like no function
                fits = [fit]
            if not fits:
                raise ValueError(_outside(function, i, o, seen, "scaled and shifted as may be"))
            fit = fits[0]
        after = fit.c * entry.values(fit.a * seen + fit.b) + fit.d
        low, high = entry.domain if entry.text else (-np.inf, np.inf)
        argument = fit.a * seen + fit.b
        wrong = ~np.isfinite(after) | (argument < low) | (argument > high)
        if wrong.any():
            raise ValueError(_outside(function, i, o, seen[wrong], f"{wrong.sum()} of {len(seen)}"))
        misses = np.square(after - before).sum() / max(
            np.square(before - before.mean()).sum(), 1e-300
        )
        fit = EdgeFit(entry, *fit.affine, float(1 - misses))
    target.fix_edge(i, o, entry, fit.affine, is_trained=is_trained)
    return fit


def _outside(function: str, i: int, o: int, x: np.ndarray, which: str) -> str:
    return (
        f"{function!r} is not defined for what the edge {i} -> {o} sees ({which} values, from "
        f"{x.min():.4g} to {x.max():.4g}): give another affine, or prune what leads there"
    )


def free_edge(net: nn.Module, layer: Layer, i: int, o: int, x: Tensor | None = None) -> None:
    """Make an edge that was given or pruned a trained sum of basis functions again.

    It starts near the given function, on the inputs x of the network or else over the grid.
    """
    stages, index = find_stage(net, layer)
    target = stages[index].layer
    target.check_edge(i, o)
    target.free_edge(i, o, None if x is None else _seen(net, x, stages[index])[:, i])


def lock_edges(net: nn.Module, layer: Layer, edges: Sequence[tuple[int, int]]) -> None:
    """Let edges (i, o) of a layer be one function, whatever is trained.

    Where the first was given a function, the others share it with its parameters; else all become
    the mean of what they are. `unlock_edges`, `free_edge` and `fix_edge` take an edge out.
    """
    stages, index = find_stage(net, layer)
    target = stages[index].layer
    if not all(len(edge) == 2 for edge in edges):
        raise ValueError(f"edges must be pairs (i, o), got {list(edges)}")
    edges = [target.check_edge(i, o) for i, o in edges]
    if len(set(edges)) < len(edges) or len(edges) < 2:
        raise ValueError(f"edges must be two or more, each once, got {edges}")
    if target.given_at(*edges[0]) is None:
        target.lock_edges(edges)
        return
    for i, o in edges[1:]:
        target.share_given(edges[0], (i, o))


def unlock_edges(net: nn.Module, layer: Layer, edges: Sequence[tuple[int, int]]) -> None:
    """Train edges (i, o) by themselves again; each starts from what all of them were."""
    stages, index = find_stage(net, layer)
    target = stages[index].layer
    edges = [target.check_edge(i, o) for i, o in edges]
    target.unlock_edges(edges)
    for i, o in edges:
        target.unshare_given(i, o)


def prune_edge(net: nn.Module, layer: Layer, i: int, o: int, x: Tensor | None = None) -> None:
    """Remove an edge for good; its mean on the inputs x of the network goes into the bias."""
    stages, index = find_stage(net, layer)
    stages[index].layer.check_edge(i, o)
    keep = torch.ones(stages[index].layer.weight.shape[::2], dtype=torch.bool)
    keep[i, o] = False
    _remove(net, [(stages[index], keep)], x)


def prune_node(net: nn.Module, layer: Layer, node: int, x: Tensor | None = None) -> None:
    """Remove all edges to and from a node behind a layer, which must not be the last."""
    stages, index = find_stage(net, layer)
    stage = stages[index]
    if index == len(stages) - 1:
        raise ValueError("outputs cannot be pruned: name a hidden layer")
    check_whole("node", node, 0, stage.num_nodes - 1)
    into = torch.ones(stage.layer.weight.shape[::2], dtype=torch.bool)
    into[:, torch.tensor(node_of(stage.num_nodes, stage.products)) == node] = False
    onwards = torch.ones(stages[index + 1].layer.weight.shape[::2], dtype=torch.bool)
    onwards[node] = False
    _remove(net, [(stages[index + 1], onwards), (stage, into)], x)


def prune_input(net: nn.Module, i: int, x: Tensor | None = None) -> None:
    """Remove all edges from an input; what they add in the mean goes into the biases."""
    stage = chain(net)[0]
    check_whole("input", i, 0, stage.layer.in_features - 1)
    keep = torch.ones(stage.layer.weight.shape[::2], dtype=torch.bool)
    keep[i] = False
    _remove(net, [(stage, keep)], x)


def _remove(net: nn.Module, plan: Sequence[tuple[Stage, Tensor]], x: Tensor | None) -> None:
    means = []
    for stage, keep in plan:
        keep = keep.to(stage.layer.weight.device)
        if not (stage.layer.edges_left() & keep).any():
            raise ValueError(f"no edge of layer {stage.name!r} would be left")
        mean = torch.zeros_like(keep, dtype=stage.layer.weight.dtype)
        means.append(mean if x is None else layer_scores(stage.layer, _seen(net, x, stage)).mean)
    for (stage, keep), mean in zip(plan, means, strict=True):
        mask_layer(stage.layer, keep.to(mean.device), mean)


def _seen(net: nn.Module, x: Tensor, stage: Stage) -> Tensor:
    """What a layer sees of the network's inputs, `(N, C)`."""
    check_finite(x)
    return layer_values(net, x, {stage.name: stage.layer})[stage.name]


@torch.no_grad()
def refine(net: nn.Module, x: Tensor, grid_size: int) -> None:
    """Move all grids to what the layers see of x and give them so many cells; functions stay."""
    for stage in chain(net):
        if stage.layer.has_grid:
            seen = _seen(net, x, stage)
            stage.layer.update_grid(seen)
            stage.layer.refine(grid_size, seen)


@torch.no_grad()
def deepen(net: nn.Sequential) -> None:
    """Add a layer behind the last one that hands its inputs on; `free_edge` makes edges trained."""
    if not isinstance(net, nn.Sequential):
        raise ValueError(f"layers can be added to nn.Sequential only, not to {type(net).__name__}")
    last = chain(net)[-1]
    every = torch.arange(last.num_nodes)
    new = restricted(last.layer, every * 0, every, last.layer.weight.new_zeros(last.num_nodes))
    new.set_given((), new.weight)
    new.mask_edges(torch.zeros_like(new.edges_left()))
    for node in every.tolist():
        new.fix_edge(node, node, "x")
    net.append(new)


@torch.no_grad()
def expand(net: nn.Module, layer: Layer, nodes: int = 1, products: int = 0) -> None:
    """Add nodes, and nodes that multiply two others, behind a layer that is not the last.

    The function stays: edges from new nodes start at zero, those to them at random. Networks of
    the zoo can be saved afterwards as before. Raises `ValueError` for constrained layers.
    """
    stages, index = find_stage(net, layer)
    if index == len(stages) - 1:
        raise ValueError("outputs cannot be added: name a hidden layer")
    check_whole("nodes", nodes, 0)
    check_whole("products", products, 0)
    stage, following = stages[index], stages[index + 1]
    if stage.layer.is_constrained or following.layer.is_constrained:
        raise ValueError(f"layer {stage.name!r} or the next one is constrained: it cannot grow")
    sums = stage.num_nodes - stage.products
    recipe = _grown_recipe(net, stages, index, nodes, products)
    fresh: list[int | None] = [None] * nodes
    pairs: list[int | None] = [None] * (2 * products)
    outputs = [*range(sums), *fresh, *range(sums, stage.layer.out_features), *pairs]
    rows = [*range(sums), *fresh, *range(sums, stage.num_nodes), *pairs[:products]]
    first = widened(stage.layer, list(range(stage.layer.in_features)), outputs)
    second = widened(following.layer, rows, list(range(following.layer.out_features)))
    count = Products(stage.num_nodes + nodes + products, stage.products + products)
    if stage.product_name:
        net.set_submodule(stage.product_name, count)
    elif products:
        if not isinstance(net, nn.Sequential):
            raise ValueError("the network has no node that multiplies: make it with mult=1")
        net.insert(int(stage.name) + 1, count)
    net.set_submodule(stage.name, first)
    _replace(net, following.layer, second)
    if recipe is not None:
        net.recipe = recipe  # type: ignore[assignment]


def _replace(net: nn.Module, old: nn.Module, new: nn.Module) -> None:
    name = next(name for name, module in net.named_modules() if module is old)
    net.set_submodule(name, new)


def _grown_recipe(
    net: Any, stages: Sequence[Stage], index: int, nodes: int, products: int
) -> dict[str, Any] | None:
    """How to build a network of the zoo with more nodes; None for other networks."""
    recipe = getattr(net, "recipe", None)
    if recipe is None:
        return None
    widths = [stage.num_nodes for stage in stages[:-1]]
    counts = [stage.products for stage in stages[:-1]]
    widths[index] += nodes + products
    counts[index] += products
    mult = max(counts)
    if counts != [min(mult, width) for width in widths]:
        raise ValueError(
            f"all hidden layers of {type(net).__name__} have as many products: {mult} here would "
            "be others than there"
        )
    grown = copy.deepcopy(recipe)
    grown["model"] |= {"widths": widths, "mult": mult}
    return grown
