"""Layers, networks and loops on an accelerator, as ratios within one process.

Needs PyTorch and kanzoo's layers alone. Times are of several calls between two synchronisations.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kanzoo.bases.base import get_basis
from kanzoo.benchmark.timing import saved_bytes, training_step
from kanzoo.layers import KANLinear

KINDS = ("bf16", "tf32", "fp32")
MOST_BYTES = 16 << 30  # of ready-made features; larger cases are left out
CALLS = 5
WARMUP = 3
CLASSES, PIXELS, WIDTH, BATCH = 10, 784, 64, 256
Step = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One measurement; ratios are over the limit, bytes over those of x.

    The limit is `nn.Linear` on ready-made features for layers, the MLP twin of as many parameters
    for networks, the same steps as a CUDA graph for loops.
    """

    what: str
    name: str
    kind: str
    rows: int
    features: int
    grid_size: int
    step_ms: float
    step_ratio: float
    forward_ratio: float | None = None
    saved_ratio: float | None = None


def synchronize(device: torch.device) -> None:
    """Wait for all that was started."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def seconds(step: Step, device: torch.device) -> float:
    """Time of a call, of several in a row."""
    synchronize(device)
    began = time.perf_counter()
    for _ in range(CALLS):
        step()
    synchronize(device)
    return (time.perf_counter() - began) / CALLS


def compare(step: Step, limit: Step, rounds: int, device: torch.device) -> tuple[float, float]:
    """Median seconds of a step, and the median ratio over the limit, measured in turn."""
    for _ in range(WARMUP):
        step()
        limit()
    pairs = [(seconds(step, device), seconds(limit, device)) for _ in range(rounds)]
    times, ratios = [one for one, _ in pairs], [one / other for one, other in pairs]
    return statistics.median(times), statistics.median(ratios)


def precision(kind: str, device: torch.device) -> AbstractContextManager[Any]:
    """Autocast for bf16; TF32 or full float32 products, which is set for the process."""
    torch.set_float32_matmul_precision("highest" if kind == "fp32" else "high")
    return torch.autocast(device.type, torch.bfloat16) if kind == "bf16" else nullcontext()


def layers(
    device: torch.device,
    rows: list[int],
    features: list[int],
    grid_sizes: list[int],
    rounds: int,
) -> Iterator[Row]:
    """B-spline layers of every backend that the device has, against ready-made features."""
    for kind in KINDS:
        for n in rows:
            for c in features:
                for grid_size in grid_sizes:
                    if 4 * n * c * (grid_size + 4) <= MOST_BYTES:
                        with precision(kind, device):
                            yield from _layer(device, kind, n, c, grid_size, rounds)


def _layer(
    device: torch.device, kind: str, rows: int, size: int, grid_size: int, rounds: int
) -> Iterator[Row]:
    lower = torch.bfloat16 if kind == "bf16" else torch.float32
    basis = get_basis("bspline", grid_size=grid_size)
    x = torch.randn(rows, size, device=device, requires_grad=True)
    limit = nn.Linear(size * (grid_size + 4), size, device=device)
    ready = torch.randn(rows, limit.in_features, device=device, dtype=lower, requires_grad=True)
    grad = torch.randn(rows, size, device=device, dtype=lower)
    for backend in ("triton", "blocked", "dense"):
        try:
            layer = KANLinear(size, size, basis=basis, device=device, backend=backend)
        except ValueError:  # no such backend on this device
            continue
        step, over = compare(
            training_step(layer, x, grad), training_step(limit, ready, grad), rounds, device
        )
        with torch.no_grad():
            _, forward = compare(lambda: layer(x), lambda: limit(ready), rounds, device)  # noqa: B023
        saved = saved_bytes(layer, x) / x.nbytes
        numbers = (1e3 * step, over, forward, saved)
        yield Row("layer", backend, kind, rows, size, grid_size, *numbers)


def networks(device: torch.device, rounds: int) -> Iterator[Row]:
    """KANs `[784, 64, 10]` of all bases against MLPs of as many parameters."""
    from kanzoo import registry

    x = torch.randn(BATCH, PIXELS, device=device)
    target = torch.randint(CLASSES, (BATCH,), device=device)
    for kind in KINDS:
        for name in registry.names("basis"):
            if get_basis(name)(1).num_functions < 2:
                continue
            net = kan(get_basis(name), device)
            count = sum(p.numel() for p in net.parameters())
            width = round((count - CLASSES) / (PIXELS + CLASSES + 1))
            twin = nn.Sequential(nn.Linear(PIXELS, width), nn.SiLU(), nn.Linear(width, CLASSES)).to(
                device
            )
            with precision(kind, device):
                one, other = (step_of(n, x, target) for n in (net, twin))
                step, over = compare(one, other, rounds, device)
            yield Row("network", name, kind, BATCH, PIXELS, 0, 1e3 * step, over)


def kan(basis: Any, device: torch.device) -> nn.Module:
    """A network of two layers."""
    sizes = ((PIXELS, WIDTH), (WIDTH, CLASSES))
    return nn.Sequential(*(KANLinear(*s, basis=basis, device=device) for s in sizes))


def step_of(net: nn.Module, x: Tensor, target: Tensor) -> Step:
    """Forward, backward and AdamW, with numbers that lie on the device."""
    graphs = x.device.type == "cuda"
    optimizer = torch.optim.AdamW(net.parameters(), fused=True, capturable=graphs)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(net(x).float(), target).backward()
        optimizer.step()

    return step


def loops(device: torch.device, grid_sizes: list[int], rounds: int) -> Iterator[Row]:
    """Steps one by one against the same as a CUDA graph, where there are such graphs."""
    x = torch.randn(BATCH, PIXELS, device=device)
    target = torch.randint(CLASSES, (BATCH,), device=device)
    for kind in KINDS:
        for grid_size in grid_sizes:
            with precision(kind, device):
                step = step_of(kan(get_basis("bspline", grid_size=grid_size), device), x, target)
                limit = step if device.type != "cuda" else captured(step)
                spent, over = compare(step, limit, rounds, device)
            yield Row("loop", "bspline", kind, BATCH, PIXELS, grid_size, 1e3 * spent, over)


def captured(step: Step) -> Step:
    """The step as a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARMUP):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay
