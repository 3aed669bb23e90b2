"""Regularisation that makes KAN layers sparse: L1 norm and entropy of their edges and nodes.

Axes: C input channels, E outputs that a channel reaches.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from kanzoo.settings import RegulariseConfig


def entropy(weights: Tensor) -> Tensor:
    """-sum p log p of non-negative weights, p their shares; value and gradient finite at zero."""
    total = weights.sum()
    share = weights / torch.where(total > 0, total, 1.0)
    # x log x has an infinite slope at zero; below the bound its tangent goes on.
    bound = torch.finfo(weights.dtype).eps
    safe = share.clamp(min=bound)
    return -torch.where(share > bound, share * safe.log(), share * torch.log(safe.detach())).sum()


def edge_penalty(norms: Tensor, l1: float = 1.0, entropy_weight: float = 2.0) -> Tensor:
    """mu_1 |Phi|_1 + mu_2 (S(edges) + S(inputs) + S(outputs)) from the norms of edges `(C, E)`.

    |Phi|_1 is the sum of the norms, S an entropy (KAN, 2404.19756, eq. 2.17 to 2.20, where S is
    that of the edges); those of the nodes are entropies of sums over their edges.
    """
    nodes = entropy(norms.sum(0)) + entropy(norms.sum(1))
    return l1 * norms.sum() + entropy_weight * (entropy(norms) + nodes)


class EdgeRegulariser:
    """lamb times the penalties of all layers that have edges, on the inputs that they see.

    `lamb` 0 costs nothing. `lamb_l1` and `lamb_entropy` weigh the two kinds (mu_1, mu_2).
    """

    def __init__(self, settings: RegulariseConfig) -> None:
        self.settings = settings
        self._terms: list[Tensor] = []

    @contextmanager
    def watching(self, net: nn.Module) -> Iterator[None]:
        """Inside, every call of a layer adds its penalty."""
        self._terms = []
        handles = []
        if self.settings.lamb > 0:
            handles = [
                layer.register_forward_pre_hook(self._add)
                for layer in net.modules()
                if getattr(layer, "has_edges", False)
            ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _add(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        norms = layer.edge_norms(inputs[0])  # type: ignore[operator]
        weights = self.settings.lamb_l1, self.settings.lamb_entropy
        self._terms.append(edge_penalty(norms, *weights))

    def penalty(self) -> Tensor | float:
        """What was added up while watching, times `lamb`."""
        return self.settings.lamb * torch.stack(self._terms).sum() if self._terms else 0.0
