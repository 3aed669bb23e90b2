"""A whole training step as one CUDA graph: what is launched once is replayed for every batch."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kanzoo.data.loader import Batch

log = logging.getLogger("kanzoo")

WARMUP = 3
Step = Callable[[], Tensor]


class GraphedStep:
    """A training step of fixed shapes, which begins with the given batch.

    `step` takes a batch to a loss, and updates the network and the optimiser. It is rehearsed and
    captured at the first call; then the network, the optimiser and the random numbers are as
    before, so that all steps of a run are replayed ones. Where a step cannot be captured, steps
    are run one by one, and one line says so.
    """

    def __init__(
        self,
        step: Callable[[Batch], Tensor],
        net: nn.Module,
        optimizer: torch.optim.Optimizer,
        capture: Callable[[Step], Callable[[], object]] | None = None,
    ) -> None:
        self.step, self.net, self.optimizer = step, net, optimizer
        self.capture = capture or capture_cuda
        self._batch: Batch | None = None
        self._loss = torch.empty(0)
        self.rates: list[Tensor] = []  # what the captured step reads instead of numbers
        self._replay: Callable[[], object] | None = None

    def __call__(self, batch: Batch) -> Tensor:
        """Take a step; the loss is overwritten by the next one."""
        if self._batch is None:
            x, y = batch
            self._batch = x.clone(), y.clone()
            self._prepare()
        if self._replay is None:
            return self.step(batch)
        for known, new in zip(self._batch, batch, strict=True):
            known.copy_(new)
        for rate, group in zip(self.rates, self.optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])
        self._replay()
        return self._loss

    def _prepare(self) -> None:
        before, groups = self._state(), self.optimizer.param_groups
        numbers = [group["lr"] for group in groups]
        self.rates = [
            torch.tensor(float(lr), device=g["params"][0].device)
            for lr, g in zip(numbers, groups, strict=True)
        ]
        for group, rate in zip(groups, self.rates, strict=True):
            group["lr"] = rate
        try:
            self._replay = self.capture(self._captured)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            log.warning("trainer.cuda_graph: not captured, steps run one by one: %s", reason)
            self.optimizer.zero_grad()
        for group, lr in zip(groups, numbers, strict=True):
            group["lr"] = lr
        self._restore(*before)

    def _captured(self) -> Tensor:
        assert self._batch is not None
        self._loss = self.step(self._batch)
        return self._loss

    def _tensors(self) -> list[Tensor]:
        return [*self.net.parameters(), *self.net.buffers()]

    def _state(self) -> tuple[Any, ...]:
        numbers = [t.detach().clone() for t in self._tensors()]
        state = [
            {key: value.clone() for key, value in values.items() if isinstance(value, Tensor)}
            for values in self.optimizer.state.values()
        ]
        return numbers, state, _random_state(self._tensors())

    @torch.no_grad()
    def _restore(
        self, numbers: list[Tensor], known: list[dict[str, Tensor]], random: dict[str, Tensor]
    ) -> None:
        """In place, since the graph knows where everything lies."""
        for tensor, number in zip(self._tensors(), numbers, strict=True):
            tensor.copy_(number)
        for index, now in enumerate(self.optimizer.state.values()):
            for key, value in now.items():
                if isinstance(value, Tensor):
                    value.copy_(known[index][key]) if known else value.zero_()
        for kind, values in random.items():
            _generator(kind).set_rng_state(values)


def _random_state(tensors: list[Tensor]) -> dict[str, Tensor]:
    return {kind: _generator(kind).get_rng_state() for kind in {t.device.type for t in tensors}}


def _generator(kind: str) -> Any:
    return torch if kind == "cpu" else torch.get_device_module(kind)


def capture_cuda(step: Step) -> Callable[[], object]:
    """Rehearse a step beside the main stream, and capture it there; undone where that fails."""
    current, stream = torch.cuda.current_stream(), torch.cuda.Stream()
    generator = torch.cuda.default_generators[torch.cuda.current_device()]
    random = generator.clone_state()
    graph = torch.cuda.CUDAGraph()
    stream.wait_stream(current)
    try:
        with torch.cuda.stream(stream):
            for _ in range(WARMUP):
                step()
        current.wait_stream(stream)
        # Other threads, as those of loggers, may use the device meanwhile.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            step()
    except BaseException:
        # A capture that broke off stays on its stream, and its random numbers stay captured.
        torch.cuda.set_stream(current)
        generator.graphsafe_set_state(random)
        raise
    return graph.replay
