"""Networks that differ in their seed alone, trained side by side in one loop.

Their weights are stacked, so that one step of the optimiser, the schedule and the trainer serves
all of them. Networks of ordinary layers are computed at once by `torch.func.vmap`, others one after
another in their fast paths, which `vmap` could not use.

Axes: S seeds, B batch.
"""

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import chain
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.func import functional_call, vmap

from kanzoo.errors import DivergedError, SeparateError
from kanzoo.layers.inputs import evaluating
from kanzoo.rundir import SeedsDir
from kanzoo.settings import RunConfig
from kanzoo.training.checkpoints import Checkpoints, LastCheckpoint, Resume
from kanzoo.training.data import Batches
from kanzoo.training.finite import divergence
from kanzoo.training.interrupt import StopBetweenBatches
from kanzoo.training.loop import EpochLoop
from kanzoo.training.objective import Objective
from kanzoo.training.task import Task
from kanzoo.training.trainer import NoProfiler, leave_signals, quieten

State = dict[str, Tensor]  # parameters and buffers by name
TOLERANCE = 1e-4  # relative, of outputs by `vmap`: another order of sums


class SeedsTask(Task):
    """Trains the networks of several tasks; `net` holds their parameters and buffers `(S, ...)`.

    Of every task it keeps what a run of its own would have: `rows` are the logged metrics with
    their steps, `best` the weights of the best epoch, with its number and step, and `diverged` the
    error of what is not finite any more, which leaves the others alone.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        num_outputs: int,
        make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
        sample: Tensor,
    ) -> None:
        first = tasks[0]
        net = stacked([task.net for task in tasks])
        super().__init__(net, first.objective, num_outputs, make_optimizer, first.make_schedule)
        self.tasks = cast(Sequence[Task], nn.ModuleList(tasks))
        self.is_vmapped = self._can_vmap(sample)
        self.rows: list[list[tuple[dict[str, float], int]]] = [[] for _ in tasks]
        self.best: dict[int, tuple[State, int, int]] = {}
        self.diverged: dict[int, DivergedError] = {}
        self._best_scores: dict[int, float] = {}
        self._losses: Tensor | None = None
        self._sums = torch.zeros(len(tasks))
        self._last_step = 0
        self._outputs: list[tuple[list[Tensor], Batches]] = []

    def training_step(self, batches: Batches, batch_index: int) -> Tensor:  # type: ignore[override]
        if self.is_vmapped:
            x, y = (torch.stack(parts) for parts in zip(*batches, strict=True))  # (S, B, ...)
            losses = totals = vmap(self._loss)(self.state(), x, y)
        else:
            pairs = [self._step(task, *b) for task, b in zip(self.tasks, batches, strict=True)]
            losses, totals = map(torch.stack, zip(*pairs, strict=True))  # (S,)
        self._losses = losses.detach()
        self._sums = self._sums + totals.detach()
        total: Tensor = totals.sum()
        return total

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm of every seed's gradients by itself, as `clip_grad_norm_` does."""
        if not self.is_vmapped:
            self._collect_gradients()
        if gradient_clip_val is None:
            return
        params = (p for group in optimizer.param_groups for p in group["params"])
        grads = [p.grad for p in params if p.grad is not None]
        norms = torch.stack([g.flatten(1).norm(dim=1) if g.dim() > 1 else g.abs() for g in grads])
        factor = (gradient_clip_val / (norms.norm(dim=0) + 1e-6)).clamp(max=1.0)  # (S,)
        torch._foreach_mul_(grads, [factor.view(-1, *[1] * (g.dim() - 1)) for g in grads])

    def after_batch(self, batch_idx: int) -> None:
        """Keep what is logged of a batch, and what has diverged by then."""
        trainer, step = self.trainer, self.global_step
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if step != self._last_step and step % every == 0:
            assert self._losses is not None
            for rows, loss in zip(self.rows, self._losses.tolist(), strict=True):
                rows.append(({"train/loss": loss, "epoch": self.current_epoch}, step - 1))
        self._last_step = step
        if (batch_idx + 1) % every and not trainer.is_last_batch:
            return
        for seed in (~self._sums.isfinite()).nonzero().flatten().tolist():
            self.diverged.setdefault(seed, divergence(float(self._sums[seed]), trainer))
        self._sums = torch.zeros_like(self._sums)
        if len(self.diverged) == len(self.rows):
            trainer.should_stop = True

    def validation_step(self, batches: Batches, batch_index: int) -> None:  # type: ignore[override]
        if self.is_vmapped:
            x = torch.stack([x for x, _ in batches])
            outputs = list(vmap(self._output)(self.state(), x).unbind())  # (B, ...) a seed
        else:
            pairs = zip(self.tasks, batches, strict=True)
            outputs = [task.objective.output(task, x) for task, (x, _) in pairs]
        self._outputs.append((outputs, batches))

    def on_validation_epoch_end(self) -> None:
        monitor, sign = self.objective.monitor, 1 if self.objective.mode == "max" else -1
        lr = self.optimizers().param_groups[0]["lr"]  # type: ignore[union-attr]
        step, epoch = self.global_step, self.current_epoch
        for seed, task in enumerate(self.tasks):
            if seed in self.diverged:
                continue
            output = torch.cat([outputs[seed] for outputs, _ in self._outputs])
            target = torch.cat([batches[seed][1] for _, batches in self._outputs])
            task.add_scores(output, target, "val")
            scores = {name: float(value) for name, value in task.pop_scores("val").items()}
            row = {f"val/{name}": value for name, value in scores.items()}
            self.rows[seed].append(({**row, "train/lr": lr, "epoch": epoch}, step - 1))
            score = sign * scores[monitor]
            if seed not in self.best or score > self._best_scores[seed]:
                self.best[seed] = self.state_of(seed), epoch, step
                self._best_scores[seed] = -torch.inf if math.isnan(score) else score
        self._outputs = []

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["seeds"] = {
            "rows": self.rows,
            "best": self.best,
            "best_scores": self._best_scores,
            "diverged": {seed: str(error) for seed, error in self.diverged.items()},
            "sums": self._sums,
            "last_step": self._last_step,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint["seeds"]
        self.rows, self.best, self._best_scores = saved["rows"], saved["best"], saved["best_scores"]
        self.diverged = {seed: DivergedError(text) for seed, text in saved["diverged"].items()}
        self._sums, self._last_step = saved["sums"], saved["last_step"]

    def on_validation_epoch_start(self) -> None:
        self._outputs = []  # what a run that was stopped in validation has seen of it

    def state(self) -> State:
        """Parameters and buffers of all seeds, `(S, ...)` each."""
        return state_of(self.net)

    def state_of(self, seed: int) -> State:
        """A copy of the parameters and buffers of one seed."""
        if self.is_vmapped:
            return {name: value[seed].detach().clone() for name, value in self.state().items()}
        state = state_of(self.tasks[seed].net)
        return {name: value.detach().clone() for name, value in state.items()}

    def _output(self, state: State, x: Tensor) -> Tensor:
        output: Tensor = functional_call(self.net, state, (x,))
        return output

    def _loss(self, state: State, x: Tensor, y: Tensor) -> Tensor:
        return self.objective.loss(self._output(state, x), y)

    def _step(self, task: Task, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of one seed, without and with penalties."""
        with task.regulariser.watching(task.net):
            loss = task.objective.loss(task.objective.output(task, x), y)
        return loss, loss + task.regulariser.penalty()

    def _collect_gradients(self) -> None:
        """Stack the gradients of the networks, which get none until the next step."""
        for name, parameter in self.net.named_parameters():
            each = [task.net.get_parameter(name) for task in self.tasks]
            grads = [p.grad for p in each if p.grad is not None]
            if grads:
                parameter.grad = torch.stack(grads)
            for p in each:
                p.grad = None

    @torch.no_grad()
    def _can_vmap(self, x: Tensor) -> bool:
        """Whether all networks at once give what each one does, and no fast path is lost by it.

        Raises `SeparateError` where training draws random numbers, which would be others than in a
        run of its own.
        """
        nets = [task.net for task in self.tasks]
        with torch.random.fork_rng(devices=[]):
            before = torch.get_rng_state()
            copy.deepcopy(nets[0]).train()(x)
            if not torch.equal(before, torch.get_rng_state()):
                raise SeparateError("training draws random numbers, as for dropout")
        if type(self.objective).output is not Objective.output:
            return False
        if any(getattr(module, "has_edges", False) for module in self.net.modules()):
            return False
        with ExitStack() as stack, warnings.catch_warnings():
            warnings.simplefilter("error")  # of operators that vmap runs one by one
            for net in (self.net, *nets):
                stack.enter_context(evaluating(net))
            each = torch.stack([net(x) for net in nets])
            try:
                outputs = vmap(self._output)(self.state(), x.expand(len(nets), *x.shape))
            except (RuntimeError, Warning):
                return False
        return torch.allclose(outputs, each, TOLERANCE, TOLERANCE)


class AfterBatch(Callback):
    """Calls `SeedsTask.after_batch`: a hook of the module itself comes after the checkpoint."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        assert isinstance(pl_module, SeedsTask)
        pl_module.after_batch(args[-1])


def state_of(net: nn.Module) -> State:
    """Parameters and buffers by name."""
    return dict(chain(net.named_parameters(), net.named_buffers()))


def stacked(nets: Sequence[nn.Module]) -> nn.Module:
    """A copy of the first network that holds the parameters and buffers of all, `(S, ...)` each.

    The parameters of the networks become views of it.
    """
    net = copy.deepcopy(nets[0])
    for name, parameter in net.named_parameters():
        each = [other.get_parameter(name) for other in nets]
        parameter.data = torch.stack([p.detach() for p in each])
        for p, values in zip(each, parameter.data.unbind(), strict=True):
            p.data = values
    for name, _ in list(net.named_buffers()):
        path, _, key = name.rpartition(".")
        values = torch.stack([other.get_buffer(name) for other in nets])
        net.get_submodule(path)._buffers[key] = values
    return net


def seeds_trainer(
    config: RunConfig, folder: SeedsDir, resume: Resume | None, interrupt: StopBetweenBatches
) -> Trainer:
    """A trainer that trains and validates; all that it writes is the state of training."""
    quieten()
    minutes = config.callbacks.checkpoint_minutes
    trainer = Trainer(
        **config.trainer.lightning,
        callbacks=[interrupt, AfterBatch(), LastCheckpoint(folder, interrupt, minutes)],
        plugins=[Checkpoints(folder, resume)],
        default_root_dir=folder.path,
        profiler=NoProfiler(),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    EpochLoop.install(trainer)
    leave_signals(trainer)
    return trainer
