"""What training costs: time of a step, and peak memory."""

import copy
import statistics
import time
import weakref
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from kanzoo.data.loader import Batch
from kanzoo.kernels.native.scratch import fresh_scratch

WARMUP_STEPS = 3
EVERY_STEP, SAMPLED = 50, 10  # so many first steps are timed, then one in so many


class StepTimer(Callback):
    """Time of a sample of the training steps, and `seconds` of training, over interruptions too.

    Accelerators are not waited for: they note themselves when they come by, and are asked later.
    """

    def __init__(self) -> None:
        self._steps: list[float] = []
        self._events: list[tuple[torch.Event, torch.Event]] = []
        self.seconds = 0.0
        self._began = time.perf_counter()
        self._num_steps = 0
        self._step_began: float | torch.Event | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began = time.perf_counter()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        if self._num_steps < EVERY_STEP or self._num_steps % SAMPLED == 0:
            self._step_began = self._now(pl_module)
        self._num_steps += 1

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        began, self._step_began = self._step_began, None
        if began is None:
            return
        now = self._now(pl_module)
        if isinstance(began, torch.Event):
            assert isinstance(now, torch.Event)
            self._events.append((began, now))
        else:
            assert isinstance(now, float)
            self._steps.append(now - began)

    @property
    def steps(self) -> list[float]:
        """Seconds of the timed steps; waits for the last of them."""
        if self._events:
            self._events[-1][1].synchronize()
            self._steps += [began.elapsed_time(ended) / 1000 for began, ended in self._events]
            self._events.clear()
        return self._steps

    def step_ms(self) -> float:
        """Median milliseconds of a training step, the first few left out."""
        steps = self.steps[WARMUP_STEPS:] or self.steps
        return 1000.0 * statistics.median(steps) if steps else 0.0

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._count()

    def state_dict(self) -> dict[str, Any]:
        self._count()
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds = state_dict["seconds"]

    def _count(self) -> None:
        """Add the time since the last count to the seconds of training."""
        now = time.perf_counter()
        self.seconds += now - self._began
        self._began = now

    @staticmethod
    def _now(module: LightningModule) -> float | torch.Event:
        if module.device.type == "cpu":
            return time.perf_counter()
        event = torch.Event(module.device, enable_timing=True)
        event.record()
        return event


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of all live tensors that operations made, on any device.

    The process' resident size says little about a model of a few megabytes; this does, and gives
    the same number on every machine. Scratch space inside an operation is not seen.
    """

    sees_tensors_only = True  # layers are computed as they are without it

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given: set[int] = set()
        tree_map_only(Tensor, lambda t: given.add(t.untyped_storage()._cdata), (args, kwargs))
        result = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, lambda t: self._track(t, given), result)
        return result

    def _track(self, tensor: Tensor, given: set[int]) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in given and storage not in self._known:
            self._known.add(storage)
            size = storage.nbytes()
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.live -= size


def peak_step_memory(
    net: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    batch: tuple[Tensor, Tensor],
    output: Callable[[nn.Module, Tensor], Tensor] = lambda net, x: net(x),
) -> int:
    """Peak bytes of a training step: weights, gradients, optimiser's state and activations.

    Runs two steps on a copy; neither the network nor the random generators notice.
    """
    x, y = batch
    with torch.random.fork_rng(), fresh_scratch(), PeakMemory() as memory:
        copied = copy.deepcopy(net).train()
        optimizer = make_optimizer(copied)

        def closure() -> float:
            optimizer.zero_grad()
            value = loss(output(copied, x), y)
            value.backward()
            return float(value.detach())

        for _ in range(2):
            optimizer.step(closure)
    return memory.peak
