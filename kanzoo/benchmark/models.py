"""Whole networks against their MLP twins: parameters, FLOPs, training step and peak memory.

Networks are those of `conf/model` with their default options, on inputs of the size of MNIST
(language models: 65 symbols in blocks of 128), the widths of the KANs solved for the twin's budget.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kanzoo import registry
from kanzoo.benchmark.timing import compare
from kanzoo.models.base import Architecture
from kanzoo.models.build import ModelPlan, build_layers, build_plan
from kanzoo.models.solve import Budget
from kanzoo.training.measure import peak_step_memory
from kanzoo.training.optim import build_optimizer

TWIN = "mlp"
KAN = "kan-"  # followed by the name of a basis
ARMS = (f"{KAN}bspline", f"{KAN}rational")
Loss = Callable[[Tensor, Tensor], Tensor]


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


@dataclass(frozen=True)
class Row:
    """One arm of one architecture; all ratios are over the MLP twin, also for times and bytes."""

    model: str
    arm: str
    basis: str
    params: int
    flops: int
    params_ratio: float
    flops_ratio: float
    step_ms: float
    step_ratio: float
    memory_mb: float
    memory_ratio: float


def architecture(name: str) -> type[Architecture]:
    """The class of an architecture."""
    cls = registry.locate(registry.options("model", name)["_target_"])
    assert issubclass(cls, Architecture)
    return cls


def inputs_of(name: str) -> Inputs:
    """What an architecture is measured on."""
    cls = architecture(name)
    return INPUTS[PREFERRED.get(name) or next(kind for kind in INPUTS if kind in cls.kinds)]


def every_arm() -> list[str]:
    """Arms that can be measured beside the twin: KAN layers of every basis."""
    return [f"{KAN}{name}" for name in registry.names("basis")]


def plan(name: str, basis: str | None, inputs: Inputs, match: str) -> ModelPlan:
    """An architecture with its size solved: KAN layers of a basis in all roles, or the twin."""
    layers = build_layers(registry.options("layers", "kan" if basis else "mlp"), basis or "bspline")
    node = registry.options("model", name)
    return build_plan(
        node, layers, inputs.in_shape, inputs.num_outputs, Budget(match, "network"), name
    )


def training_step(net: nn.Module, loss: Loss, batch: tuple[Tensor, Tensor]) -> Callable[[], None]:
    """Forward, backward and a step of the optimiser, as in training."""
    optimizer = make_optimizer(net.train())
    x, y = batch

    def step() -> None:
        optimizer.zero_grad()
        loss(net(x), y).backward()
        optimizer.step()

    return step


def make_optimizer(net: nn.Module) -> torch.optim.Optimizer:
    """AdamW as `conf/optim` has it."""
    return build_optimizer(registry.options("optim", "adamw"), net)


def measure(
    name: str, arms: list[str], match: str, rounds: int, batch: int | None = None
) -> Iterator[Row]:
    """The twin of an architecture, then its arms, each timed in turn with the twin."""
    inputs = inputs_of(name)
    sample = inputs.sample(batch)
    twin_plan = plan(name, None, inputs, match)
    twin = twin_plan.build(seed=0)
    memory = functools.partial(
        peak_step_memory, loss=inputs.loss, make_optimizer=make_optimizer, batch=sample
    )
    twin_bytes, twin_step = memory(twin), training_step(twin, inputs.loss, sample)
    rows, twin_times = [], []
    for arm in arms:
        basis = arm.removeprefix(KAN)
        made = plan(name, basis, inputs, match)
        net = made.build(seed=0)
        used = memory(net)
        times = compare(training_step(net, inputs.loss, sample), twin_step, rounds)
        twin_times.append(times.limit)
        rows.append(
            Row(
                name,
                arm,
                basis,
                made.params,
                made.flops,
                made.params / made.twin_params,
                made.flops / made.twin_flops,
                1e3 * times.candidate,
                times.ratio,
                used / 1e6,
                used / twin_bytes,
            )
        )
    own = twin_times[0] if twin_times else compare(twin_step, twin_step, rounds).candidate
    counts = (twin_plan.params, twin_plan.flops, 1.0, 1.0)
    activation = twin_plan.layers.activation
    yield Row(name, TWIN, activation, *counts, 1e3 * own, 1.0, twin_bytes / 1e6, 1.0)
    yield from rows
