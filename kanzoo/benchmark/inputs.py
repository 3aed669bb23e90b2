"""What whole networks are measured on, and how they are made: needs no trainer.

Networks are those of `conf/model` with their default options, on inputs of the size of MNIST
(language models: 65 symbols in blocks of 128).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kanzoo import registry
from kanzoo.models.base import Architecture
from kanzoo.models.build import ModelPlan, build_layers, build_plan
from kanzoo.models.solve import Budget


@dataclass(frozen=True)
class Inputs:
    """What a network is measured on: shapes of a sample, and samples in a batch."""

    in_shape: tuple[int, ...]
    num_outputs: int
    batch: int
    tokens: bool = False

    def sample(self, batch: int | None) -> tuple[Tensor, Tensor]:
        """Random inputs and targets: classes, one per sample or position, or pixels."""
        shape = (batch or self.batch, *self.in_shape)
        if self.tokens:
            return torch.randint(self.num_outputs, shape), torch.randint(self.num_outputs, shape)
        x = torch.randn(shape)
        if self.num_outputs == 1:
            return x, torch.rand_like(x)
        return x, torch.randint(self.num_outputs, shape[:1])

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean squared error of pixels, cross-entropy of all else."""
        if target.is_floating_point():
            return F.mse_loss(output, target)
        return F.cross_entropy(output.flatten(0, -2), target.flatten())


# By kind of data. A network is measured on the first that it takes, unless PREFERRED says another.
INPUTS = {
    "dense": Inputs((1, 28, 28), 1, 256),
    "tokens": Inputs((128,), 65, 32, tokens=True),
    "image": Inputs((1, 28, 28), 10, 256),
    "sequence": Inputs((28, 28), 10, 256),
    "table": Inputs((784,), 10, 256),
    "graph": Inputs((42, 45), 10, 256),
    "series": Inputs((96, 7), 24 * 7, 256),
}
PREFERRED = {"rnn": "sequence", "nlinear": "series", "dlinear": "series"}


def architecture(name: str) -> type[Architecture]:
    """The class of an architecture."""
    cls = registry.locate(registry.options("model", name)["_target_"])
    assert issubclass(cls, Architecture)
    return cls


def inputs_of(name: str) -> Inputs:
    """What an architecture is measured on."""
    cls = architecture(name)
    return INPUTS[PREFERRED.get(name) or next(kind for kind in INPUTS if kind in cls.kinds)]


def plan(name: str, basis: str | None, inputs: Inputs, match: str, where: str = "kan") -> ModelPlan:
    """An architecture with its size solved: KAN layers of a basis in all roles, or the twin.

    `where` is a name of `conf/layers` with other roles.
    """
    layers = build_layers(registry.options("layers", where if basis else "mlp"), basis or "bspline")
    node = registry.options("model", name)
    return build_plan(
        node, layers, inputs.in_shape, inputs.num_outputs, Budget(match, "network"), name
    )
