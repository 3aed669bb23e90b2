"""The LightningModule that trains every network: any objective, any optimiser."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torchmetrics import MetricCollection

from kanzoo.settings import RegulariseConfig
from kanzoo.training.entropy import MeanLoss
from kanzoo.training.objective import Objective
from kanzoo.training.optim import Schedule
from kanzoo.training.regularise import EdgeRegulariser
from kanzoo.training.strategy import ShardedStrategy

Batch = tuple[Tensor, Tensor]


class Task(LightningModule):
    """A network, an objective and how to optimise it, which evaluation alone does not need.

    Losses and metrics are accumulated over a whole split and all processes, every sample weighing
    the same, however it is cut into batches. `step_loss` is the loss of the last training batch,
    without penalties. `corrupt` changes test inputs, given the number of the batch; `test_title`
    names what then comes of the test. `test_items` is what the objective keeps of every sample of
    the last test, a table a batch, of this process only.
    """

    def __init__(
        self,
        net: nn.Module,
        objective: Objective,
        num_outputs: int,
        make_optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
        make_schedule: Schedule | None = None,
        seed: int = 0,
        regularise: RegulariseConfig | None = None,
        training_net: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.objective = objective
        self.make_optimizer = make_optimizer
        self.make_schedule = make_schedule
        self.seed = seed
        self.step_loss: Tensor | float = math.nan
        self.corrupt: Callable[[Tensor, int], Tensor] | None = None
        self.test_title = "test"
        self.test_items: list[dict[str, Tensor]] = []
        # What a training step calls instead of the network.
        self.__dict__["training_net"] = training_net or net
        self.regulariser = EdgeRegulariser(regularise or RegulariseConfig())
        self.losses = nn.ModuleDict({f"{split}_loss": MeanLoss() for split in SPLITS})
        self.metrics = nn.ModuleDict(
            {f"{split}_metrics": objective.metrics(num_outputs) for split in SPLITS}
        )

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes about 40 times a step which hook runs, and a loss comes every step; a
        # module would go through all of its parameters, buffers and modules each time.
        if name in ("_current_fx_name", "step_loss"):
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def configure_model(self) -> None:
        """Shard the network, where the strategy wants that; Lightning calls it for all of them."""
        strategy = self.trainer.strategy
        if isinstance(strategy, ShardedStrategy):
            strategy.shard(self.net)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def on_train_epoch_start(self) -> None:
        # Dropout then depends on seed and epoch alone, so that a resumed run repeats it exactly.
        torch.manual_seed(self.seed * 100_003 + self.current_epoch)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        x, y = batch
        with self.regulariser.watching(self.net):
            loss = self.objective.loss(self.objective.output(self.__dict__["training_net"], x), y)
        self.step_loss = loss.detach()
        return loss + self.regulariser.penalty()

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_index: int) -> None:
        x, y = batch
        if self.corrupt is not None:
            x = self.corrupt(x, batch_index)
        output = self._evaluate((x, y), "test")
        exact = output if output.dtype == torch.float64 else output.float()
        self.test_items.append(self.objective.items(exact, y))

    def _evaluate(self, batch: Batch, split: str) -> Tensor:
        x, y = batch
        output = self.objective.output(self, x)
        self.add_scores(output, y, split)
        return output

    def add_scores(self, output: Tensor, y: Tensor, split: str) -> None:
        """Let outputs for samples of a split count in its loss and metrics."""
        loss, metrics = self._scores_of(split)
        loss.update(self.objective.loss(output, y), weight=self.objective.weight(y))
        metrics.update(output, y)

    def pop_scores(self, split: str) -> dict[str, Tensor]:
        """Loss and metrics of what was added, which begin anew."""
        loss, metrics = self._scores_of(split)
        values = {"loss": loss.compute(), **metrics.compute()}
        loss.reset()
        metrics.reset()
        return values

    def _scores_of(self, split: str) -> tuple[MeanLoss, MetricCollection]:
        loss, metrics = self.losses[f"{split}_loss"], self.metrics[f"{split}_metrics"]
        assert isinstance(loss, MeanLoss)
        assert isinstance(metrics, MetricCollection)
        return loss, metrics

    def on_test_epoch_start(self) -> None:
        self.test_items = []

    def on_validation_epoch_end(self) -> None:
        # What the best weights reach at the end is no further point of the learning curve.
        fitting = self.trainer.state.fn == TrainerFn.FITTING
        self._log_split("val", "val" if fitting else "best_val")
        if fitting:
            # Here rather than at the end of the training epoch: that comes after the checkpoint is
            # written, and a run killed in between would resume without this row.
            optimizer = self.optimizers()
            self.log("train/lr", optimizer.param_groups[0]["lr"])  # type: ignore[union-attr]

    def on_test_epoch_end(self) -> None:
        self._log_split("test", self.test_title)

    def _log_split(self, split: str, title: str) -> None:
        values = self.pop_scores(split)
        self.log_dict({f"{title}/{name}": value for name, value in values.items()}, prog_bar=True)

    def configure_optimizers(self) -> Any:
        assert self.make_optimizer is not None
        assert self.make_schedule is not None
        optimizer = self.make_optimizer(self.net)
        total_steps = int(self.trainer.estimated_stepping_batches)
        schedule = self.make_schedule(optimizer, total_steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


# Lightning reads the signatures of these hooks for every batch, and of a function anew each time.
for _step in (Task.training_step, Task.validation_step, Task.test_step):
    vars(_step)["__signature__"] = inspect.signature(_step)

SPLITS = ("val", "test")
