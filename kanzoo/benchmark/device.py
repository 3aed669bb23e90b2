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

from kanzoo import registry
from kanzoo.bases.base import get_basis
from kanzoo.benchmark import peers, textbook
from kanzoo.benchmark.inputs import architecture, inputs_of, plan
from kanzoo.benchmark.timing import saved_bytes, training_step
from kanzoo.layers import KANLinear

KINDS = ("bf16", "tf32", "fp32")
BACKENDS = ("triton", "blocked", "dense")
MOST_BYTES = 20 << 30  # of ready-made features; larger cases are left out
TIMED, MOST_CALLS = 0.01, 20  # seconds of calls in a row, and their number
WARMUP = 3
CLASSES, PIXELS, WIDTH, BATCH = 10, 784, 64, 256
# Rows, features and cells of published figures: a small layer, a large one.
FIGURES = ((256, 784, 5), (2**20, 512, 5))
Size = tuple[int, int, int]
Step = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One measurement; ratios are over the limit, bytes over those of x.

    The limit is `nn.Linear` on ready-made features for layers, the MLP twin of as many parameters
    for networks, the same steps as a CUDA graph for loops. A grid size of 0 stands for none.
    """

    what: str
    name: str
    kind: str
    rows: int
    features: int
    grid_size: int
    step_ms: float
    step_ratio: float
    forward_ms: float | None = None
    forward_ratio: float | None = None
    saved_ratio: float | None = None


def synchronize(device: torch.device) -> None:
    """Wait for all that was started."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def seconds(step: Step, device: torch.device, calls: int = 1) -> float:
    """Time of a call, of several in a row."""
    synchronize(device)
    began = time.perf_counter()
    for _ in range(calls):
        step()
    synchronize(device)
    return (time.perf_counter() - began) / calls


def compare(step: Step, limit: Step, rounds: int, device: torch.device) -> tuple[float, float]:
    """Median seconds of a step, and the median ratio over the limit, measured in turn."""
    both = (step, limit)
    for call in both:
        call()  # what is compiled at the first call
    counts = [round(TIMED / max(seconds(call, device), 1e-9)) for call in both]
    calls = [min(max(count, 1), MOST_CALLS) for count in counts]
    pairs = [
        [seconds(call, device, count) for call, count in zip(both, calls, strict=True)]
        for _ in range(rounds)
    ]
    times, ratios = [one for one, _ in pairs], [one / other for one, other in pairs]
    return statistics.median(times), statistics.median(ratios)


def precision(kind: str, device: torch.device) -> AbstractContextManager[Any]:
    """Autocast for bf16; TF32 or full float32 products, which is set for the process."""
    torch.set_float32_matmul_precision("highest" if kind == "fp32" else "high")
    return torch.autocast(device.type, torch.bfloat16) if kind == "bf16" else nullcontext()


def layers(device: torch.device, sizes: list[Size], rounds: int) -> Iterator[Row]:
    """B-spline layers of every backend that the device has, against ready-made features.

    Beside them layers as they are commonly written, those of installed packages, and layers of
    rational functions.
    """
    for kind in KINDS:
        for n, c, grid_size in sizes:
            if 4 * n * c * (grid_size + 4) <= MOST_BYTES:
                nets = _spline_layers(device, c, grid_size)
                yield from _layers(device, kind, (n, c, grid_size), grid_size + 4, nets, rounds)
        for n, c in dict.fromkeys((n, c) for n, c, _ in sizes):
            nets = _rational_layers(device, c)
            yield from _layers(device, kind, (n, c, 0), 1, nets, rounds)


def _spline_layers(
    device: torch.device, size: int, grid_size: int
) -> Iterator[tuple[str, nn.Module]]:
    basis = get_basis("bspline", grid_size=grid_size)
    for backend in BACKENDS:
        try:
            yield backend, KANLinear(size, size, basis=basis, device=device, backend=backend)
        except ValueError:  # no such backend on this device
            continue
    yield "recursion, dense", textbook.Recursion(size, grid_size, device)
    yield "Gaussians, dense", textbook.Gaussians(size, grid_size, device)
    for peer in peers.installed():
        net = peer.build(size, size, grid_size, conv=False)
        if net is not None:
            yield peer.name, net.to(device)


def _rational_layers(device: torch.device, size: int) -> Iterator[tuple[str, nn.Module]]:
    yield "rational", KANLinear(size, size, basis="rational", device=device)
    yield "rational, dense", textbook.Rational(size, device)


def _layers(
    device: torch.device,
    kind: str,
    sizes: Size,
    functions: int,
    nets: Iterator[tuple[str, nn.Module]],
    rounds: int,
) -> Iterator[Row]:
    rows, size, _ = sizes
    lower: dict[str, Any] = {"device": device, "dtype": torch.float32}
    if kind == "bf16":
        lower["dtype"] = torch.bfloat16
    try:
        x = torch.randn(rows, size, device=device, requires_grad=True)
        limit = nn.Linear(size * functions, size, device=device)
        ready = torch.randn(rows, limit.in_features, **lower, requires_grad=True)
        grad = torch.randn(rows, size, **lower)
    except torch.OutOfMemoryError:  # of a smaller card
        return
    limit_step = training_step(limit, ready, grad)
    for name, net in nets:
        with precision(kind, device):
            try:
                step, over = compare(training_step(net, x, grad), limit_step, rounds, device)
                with torch.no_grad():
                    calls = (lambda: net(x)), (lambda: limit(ready))  # noqa: B023
                    forward, forward_over = compare(*calls, rounds, device)
                saved = saved_bytes(net, x) / x.nbytes
            except torch.OutOfMemoryError:  # of what keeps too much
                continue
        numbers = (1e3 * step, over, 1e3 * forward, forward_over, saved)
        yield Row("layer", name, kind, *sizes, *numbers)


def networks(device: torch.device, rounds: int, batch: int | None = None) -> Iterator[Row]:
    """KANs against MLPs of as many parameters: `[784, 64, 10]` of all bases, all architectures.

    Those have B-splines in all roles; a vision transformer also rational functions in its
    feed-forward blocks.
    """
    for kind in KINDS:
        yield from _bases(device, kind, rounds, batch or BATCH)
        for name in (name for name in registry.names("model") if architecture(name).coarse):
            arms = [("bspline", "kan"), *([("rational", "kan_ffn")] if name == "vit" else [])]
            for basis, where in arms:
                yield from _network(device, kind, name, (basis, where), rounds, batch)


def _network(
    device: torch.device,
    kind: str,
    name: str,
    arm: tuple[str, str],
    rounds: int,
    batch: int | None,
) -> Iterator[Row]:
    inputs = inputs_of(name)
    x, target = (t.to(device) for t in inputs.sample(batch))
    made = plan(name, arm[0], inputs, "params", arm[1])
    twin = plan(name, None, inputs, "params", arm[1])
    with precision(kind, device):
        one, other = (
            step_of(each.build(seed=0).to(device), x, target, inputs.loss) for each in (made, twin)
        )
        step, over = compare(one, other, rounds, device)
    size = x[0].numel()
    yield Row("network", f"{name}, {arm[0]}", kind, len(x), size, 0, 1e3 * step, over)


def _bases(device: torch.device, kind: str, rounds: int, batch: int) -> Iterator[Row]:
    x = torch.randn(batch, PIXELS, device=device)
    target = torch.randint(CLASSES, (batch,), device=device)
    for name in registry.names("basis"):
        if get_basis(name)(1).num_functions < 2:
            continue
        net = kan(get_basis(name), device)
        count = sum(p.numel() for p in net.parameters())
        width = round((count - CLASSES) / (PIXELS + CLASSES + 1))
        twin = nn.Sequential(nn.Linear(PIXELS, width), nn.SiLU(), nn.Linear(width, CLASSES))
        with precision(kind, device):
            one, other = (step_of(n, x, target) for n in (net, twin.to(device)))
            step, over = compare(one, other, rounds, device)
        yield Row("network", name, kind, batch, PIXELS, 0, 1e3 * step, over)


def kan(basis: Any, device: torch.device) -> nn.Module:
    """A network of two layers."""
    sizes = ((PIXELS, WIDTH), (WIDTH, CLASSES))
    return nn.Sequential(*(KANLinear(*s, basis=basis, device=device) for s in sizes))


def step_of(
    net: nn.Module,
    x: Tensor,
    target: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> Step:
    """Forward, backward and AdamW, with numbers that lie on the device."""
    graphs = x.device.type == "cuda"
    optimizer = torch.optim.AdamW(net.parameters(), fused=True, capturable=graphs)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(net(x).float(), target).backward()
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
