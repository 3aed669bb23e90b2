"""Optimisers with the right parameters decayed, and schedules over training steps."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from kanzoo import registry
from kanzoo.checks import Count, NotNegative, PositiveShare, Share, check_value
from kanzoo.layers.parameters import sources
from kanzoo.rundir import Config
from kanzoo.trainer_settings import TrainerConfig

OPTIONS: dict[str, Any] = {
    **dict.fromkeys(("lr", "weight_decay", "eps", "momentum", "dampening"), NotNegative),
    **dict.fromkeys(("tolerance_grad", "tolerance_change"), NotNegative),
    **dict.fromkeys(("max_iter", "history_size"), Count),
    "betas": tuple[Share, Share],
}
FUSED = ("cuda", "xpu", "mps")  # devices on which one kernel for all parameters is the default
IMPLEMENTATION = ("fused", "foreach", "capturable", "differentiable")
Schedule = Callable[[torch.optim.Optimizer, int], LRScheduler]


def param_groups(net: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: what decays and what does not.

    A layer names the parameters that decay in its attribute `decays`; of PyTorch's own linear and
    convolution layers it is `weight`. Biases, norms, positions and the parameters of a basis stay.
    Of a computed weight (pruned, normalised) it is what it is computed from.
    """
    decayed: list[nn.Parameter] = []
    for module in net.modules():
        plain = isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
        names = getattr(module, "decays", ("weight",) if plain else ())
        for name in names:
            decayed += sources(module, name)
    known = {id(p) for p in decayed}
    rest = [p for p in net.parameters() if id(p) not in known]
    return [
        {"params": [p for p in decayed if p.requires_grad], "weight_decay": weight_decay},
        {"params": [p for p in rest if p.requires_grad], "weight_decay": 0.0},
    ]


def build_optimizer(
    node: Config, net: nn.Module, *, fused: bool | None = None, graphed: bool = False
) -> torch.optim.Optimizer:
    """The optimiser of a `conf/optim` node over the parameters of a network.

    One that knows no weight decay, as LBFGS, gets all parameters in one group. `fused` lets one
    kernel update all numbers, where PyTorch has it; None: on accelerators. With `graphed` a CUDA
    graph can hold a step: the host reads nothing.
    """
    known = inspect.signature(registry.locate(node["_target_"])).parameters
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    if fused or graphed or (fused is None and device.type in FUSED):
        node = {**({"fused": True} if "fused" in known else {}), **node}
    if graphed and "capturable" in known:
        node = {**node, "capturable": True}
    decays = "weight_decay" in known
    if decays:
        groups = param_groups(net, node.get("weight_decay", 0.0))
        given: list[Any] = [group for group in groups if group["params"]]
    else:
        given = [p for p in net.parameters() if p.requires_grad]
    optimizer = registry.instantiate(node, given)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ValueError(f"optim {node['_target_']} is not a torch.optim.Optimizer")
    optimizer.register_load_state_dict_pre_hook(_keep_implementation)
    if not torch.accelerator.is_available():
        # Adam asks for a GPU at every step, which takes longer than a small layer without one.
        optimizer._accelerator_graph_capture_health_check = lambda: None  # type: ignore[method-assign]
    return optimizer


def _keep_implementation(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """A saved state for an optimiser, computed as this one is and not as that which was saved."""
    groups = []
    for saved, group in zip(state["param_groups"], optimizer.param_groups, strict=False):
        groups.append({**saved, **{key: group[key] for key in IMPLEMENTATION if key in group}})
    return {**state, "param_groups": groups + state["param_groups"][len(groups) :]}


def check_options(node: Config) -> None:
    """Raise `ValueError` of one line, with the key, for options that no optimiser can have."""
    for key, kind in OPTIONS.items():
        if key in node:
            check_value(f"optim.{key}", node[key], kind)
    try:
        build_optimizer(node, nn.Linear(1, 1))
    except ValueError as error:
        raise ValueError(f"optim: {error}") from error


def is_lbfgs(node: Config) -> bool:
    """Whether a `conf/optim` node means LBFGS, whose line search needs an exact loss."""
    return issubclass(registry.locate(node["_target_"]), torch.optim.LBFGS)


def check_lbfgs(trainer: TrainerConfig, batch_size: int, samples: int) -> None:
    """Raise `ValueError` for a trainer or a batch with which a line search cannot work."""
    if batch_size < samples:
        raise ValueError(
            f"optim=lbfgs needs all {samples} training samples in one batch: set "
            f"data.batch_size={samples}"
        )
    if trainer.precision not in ("32-true", "64-true"):
        raise ValueError("optim=lbfgs needs trainer.precision=64-true or 32-true")
    if trainer.accumulate_grad_batches != 1:
        raise ValueError("optim=lbfgs needs trainer.accumulate_grad_batches=1")


def check_graphed(node: Config) -> None:
    """Raise `ValueError` for an optimiser whose step a CUDA graph cannot hold."""
    target = registry.locate(node["_target_"])
    known = inspect.signature(target).parameters
    fits = "fused" in known and ("capturable" in known or issubclass(target, torch.optim.SGD))
    if not fits or node.get("dampening"):
        raise ValueError("trainer.cuda_graph=true needs optim=adam, adamw, or sgd undampened")


class WarmupCosine:
    """Linear warm-up, then a cosine to `final_ratio` of the learning rate, step by step."""

    def __init__(self, *, warmup_fraction: float = 0.1, final_ratio: float = 0.0) -> None:
        for name, value in (("warmup_fraction", warmup_fraction), ("final_ratio", final_ratio)):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"sched.{name} must be between 0 and 1, got {value}")
        self.warmup_fraction = warmup_fraction
        self.final_ratio = final_ratio

    def factor(self, step: int, total_steps: int) -> float:
        """Learning rate at a step, relative to the optimiser's own."""
        warmup = self.warmup_fraction * total_steps
        if step < warmup:
            return (step + 1) / (warmup + 1)
        progress = min(1.0, (step - warmup) / max(1.0, total_steps - warmup))
        cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
        return self.final_ratio + (1.0 - self.final_ratio) * cosine

    def __call__(self, optimizer: torch.optim.Optimizer, total_steps: int) -> LambdaLR:
        return LambdaLR(optimizer, lambda step: self.factor(step, total_steps))


class Exponential:
    """A factor of `gamma` from each of `periods` equal parts of the training to the next."""

    def __init__(self, *, gamma: float = 0.8, periods: int = 10) -> None:
        check_value("sched.gamma", gamma, PositiveShare)
        check_value("sched.periods", periods, Count)
        self.gamma = gamma
        self.periods = periods

    def factor(self, step: int, total_steps: int) -> float:
        """Learning rate at a step, relative to the optimiser's own."""
        return self.gamma ** (min(step, total_steps - 1) * self.periods // total_steps)

    def __call__(self, optimizer: torch.optim.Optimizer, total_steps: int) -> LambdaLR:
        return LambdaLR(optimizer, lambda step: self.factor(step, total_steps))


class Constant:
    """The optimiser's own learning rate throughout."""

    def __call__(self, optimizer: torch.optim.Optimizer, total_steps: int) -> LambdaLR:
        return LambdaLR(optimizer, lambda step: 1.0)
