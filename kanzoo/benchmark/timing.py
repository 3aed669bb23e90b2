"""Alternated timing of two functions, and what autograd saves."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

WARMUP = 3
ROUNDS = 15


@dataclass(frozen=True)
class Times:
    """Median seconds of two functions, and the median of the ratios of neighbours."""

    candidate: float
    limit: float
    ratio: float


def compare(
    candidate: Callable[[], object],
    limit: Callable[[], object],
    rounds: int,
    warmup: int = WARMUP,
) -> Times:
    """Times over `rounds` of the candidate and the limit, one after the other.

    The machine's speed drifts; two neighbours in time see the same machine.
    """
    for _ in range(warmup):
        candidate()
        limit()
    pairs = [(_seconds(candidate), _seconds(limit)) for _ in range(rounds)]
    ours, theirs = zip(*pairs, strict=True)
    quotients = [one / other for one, other in pairs]
    return Times(*(statistics.median(values) for values in (ours, theirs, quotients)))


def ratio(candidate: Callable[[], object], limit: Callable[[], object], rounds: int) -> float:
    """The candidate's time over the limit's, as `compare` measures it."""
    return compare(candidate, limit, rounds).ratio


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def training_step(net: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor) -> Callable[[], None]:
    """Forward and backward, with the gradients of the input and of all parameters."""

    def step() -> None:
        x.grad = None
        if isinstance(net, nn.Module):
            net.zero_grad()
        net(x).backward(grad)

    return step


def optimizer_step(
    forward: Callable[[Tensor], Tensor],
    loss: Callable[[Tensor, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    batch: tuple[Tensor, Tensor],
) -> Callable[[], None]:
    """Forward, backward and a step of the optimiser, as in training."""
    x, y = batch

    def step() -> None:
        optimizer.zero_grad()
        loss(forward(x), y).backward()
        optimizer.step()

    return step


def saved_bytes(net: nn.Module, x: Tensor) -> int:
    """Bytes that autograd keeps between forward and backward, parameters and buffers aside."""
    stored = {t.untyped_storage()._cdata for t in (*net.parameters(), *net.buffers())}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in stored:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = net(x)
    del y
    return sum(kept.values())
