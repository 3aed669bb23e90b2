"""Runs of KANbeFair's special functions as its source does them, with its seed: another route.

A published figure of one seed may be a lucky one. These are the source's steps in plain PyTorch, in
its order of random numbers, so that its seed gives its figure; of this package only the functions
and the B-splines are used. Source: KANbeFair, 2407.16674, and the code that it names (train.py,
kan/KAN.py).

Axes: N samples, I inputs and O outputs of a layer, K splines.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from kanzoo.bases.base import get_basis
from kanzoo.data.special import SPECIAL

SEED, WEIGHTS_SEED = 1314, 0  # of all its runs, of the weights of all its KANs
SAMPLES, BATCH, EPOCHS, RATE = 1000, 128, 500, 1e-3
ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU}


@dataclass(frozen=True)
class SourceRun:
    """A run of the source on a special function of two variables.

    widths: of hidden layers. activation: of an MLP, none of a KAN, which has `grid_size` cells
    from -1 to 1 instead.
    """

    function: str
    widths: tuple[int, ...]
    activation: str = ""
    grid_size: int = 0

    def network(self) -> nn.Sequential:
        """The network with its first weights: `(N, 2) -> (N, 1)`."""
        sizes = (2, *self.widths, 1)
        if self.grid_size:
            torch.manual_seed(WEIGHTS_SEED)
            return nn.Sequential(*(Edges(i, o, self.grid_size) for i, o in pairwise(sizes)))
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), ACTIVATIONS[self.activation]()]
        return nn.Sequential(*layers[:-1])

    def errors(self) -> Iterator[float]:
        """Mean absolute errors on the test set after each epoch."""
        train, test = self._sets()
        torch.manual_seed(SEED)
        network = self.network()
        optimiser = torch.optim.Adam(network.parameters(), RATE)
        batches = DataLoader(train, BATCH, shuffle=True)
        for _ in range(EPOCHS):
            for x, y in batches:
                optimiser.zero_grad()
                F.mse_loss(network(x), y).backward()
                optimiser.step()
            next(iter(batches))  # the source scores its training set, too, which draws an order
            x, y = next(iter(DataLoader(test, SAMPLES)))
            with torch.no_grad():
                yield (network(x) - y).abs().mean().item()

    def _sets(self) -> tuple[TensorDataset, TensorDataset]:
        """Training and test set, drawn one after the other."""
        draw = np.random.RandomState(SEED)
        sets = []
        for _ in range(2):
            x = draw.rand(SAMPLES, 2)
            y = SPECIAL[self.function](x)[:, None]
            sets.append(TensorDataset(*(torch.tensor(v, dtype=torch.float32) for v in (x, y))))
        return sets[0], sets[1]


class Edges(nn.Module):
    """A layer of pykan 0.0: w_b silu(x) + w_s sum_k c_k B_k(x) on every edge, and a bias.

    `(N, I) -> (N, O)`. Drawn in its order: w_b = I^-0.5 + 0.1 (2 n - 1) of normal n, the noise
    through which splines go at the ends of their cells, and a bias that is set to zero after.
    """

    def __init__(self, inputs: int, outputs: int, grid_size: int) -> None:
        super().__init__()
        basis = get_basis(
            "bspline", grid_size=grid_size, grid_range=(-1.0, 1.0), extrapolation="zero"
        )
        self.basis = basis(inputs)
        edges = inputs * outputs
        residual = inputs**-0.5 + 0.1 * (2 * torch.randn(edges) - 1)
        self.residual = nn.Parameter(residual.view(outputs, inputs))
        noise = (torch.rand(edges, grid_size + 1) - 0.5) * 0.1 / grid_size
        ends = torch.linspace(-1, 1, grid_size + 1)[:, None].expand(-1, inputs)
        values = self.basis(ends)[..., 0].t().expand(edges, -1, -1)  # (edges, G + 1, K)
        least = torch.linalg.lstsq(values, noise[..., None], driver="gelsy").solution
        self.coefficients = nn.Parameter(least.view(outputs, inputs, -1).clone())
        self.scale = nn.Parameter(torch.ones(outputs, inputs))
        self.bias = nn.Linear(outputs, 1, bias=False)
        nn.init.zeros_(self.bias.weight)

    def forward(self, x: Tensor) -> Tensor:
        coefficients = self.coefficients * self.scale[..., None]
        splines = torch.einsum("oik,kni->no", coefficients, self.basis(x))
        return splines + F.silu(x) @ self.residual.t() + self.bias.weight
