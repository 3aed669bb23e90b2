"""Networks as solutions of differential equations: the loss of the residual, and where it is asked.

Axes: B points.
"""

import logging
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from kanzoo.checks import check_whole
from kanzoo.data.base import Dataset
from kanzoo.data.collocation import Collocation
from kanzoo.data.seeding import keyed_generator
from kanzoo.layers.expansion import Expansion
from kanzoo.training.objective import Objective

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

log = logging.getLogger("kanzoo")


def derivatives(net: Any, points: Tensor, second: tuple[int, ...] = (0, 1)) -> tuple[Tensor, ...]:
    """u `(B,)`, its gradient `(B, 2)` and pure second derivatives `(B, 2)`, all differentiable.

    Second derivatives are zero for the variables that `second` does not name.
    """
    points = points.detach().clone().requires_grad_()
    u = net(points).squeeze(1)
    (first,) = torch.autograd.grad(u.sum(), points, create_graph=True)
    columns = [torch.zeros_like(u)] * 2
    for axis in second:
        (row,) = torch.autograd.grad(
            first[:, axis].sum(), points, create_graph=True, materialize_grads=True
        )
        columns[axis] = row[:, axis]
    return u, first, torch.stack(columns, 1)


def has_kinks(function: Any, features: int) -> bool:
    """Whether a function `(N, C) -> (K, N, C)` is made of straight pieces somewhere, but no line.

    Second derivatives are then zero wherever they exist, and a residual cannot be minimised.
    """
    x = torch.linspace(-2.51, 2.5, 400, dtype=torch.float64)[:, None].repeat(1, features)
    x.requires_grad_()
    with torch.enable_grad():
        for values in function(x):
            (first,) = torch.autograd.grad(values.sum(), x, create_graph=True)
            is_straight = not first.requires_grad
            if not is_straight:
                (second,) = torch.autograd.grad(
                    first.sum(), x, allow_unused=True, retain_graph=True
                )
                is_straight = second is None or not second.any()
            span = first.detach().amax(0) - first.detach().amin(0)
            if is_straight and float(span.max()) > 1e-9:
                return True
    return False


class PDE(Objective):
    """Mean square of the residual inside, times `residual_weight`, and of the error on the border.

    Outputs are `(B, 4)`: u, its first derivatives and the residual; targets `(B, 4)`: 1 on the
    border, u and its first derivatives. `l2` and `h1` are errors against the solution relative to
    its own norm, over a split; `l2` on validation points selects, for both arms alike. Every
    `resample_every` epochs, 0 for never, the points inside are drawn anew from `candidates` times
    as many, with probabilities proportional to |r| / mean |r| + 1 for the residual r (RAD,
    2207.10289, with k = c = 1).
    """

    task: ClassVar[str] = "pde"
    monitor: ClassVar[str] = "l2"
    further: ClassVar[tuple[str, ...] | None] = ("h1",)
    mode: ClassVar[str] = "min"
    needs_net: ClassVar[bool] = True

    def __init__(
        self,
        *,
        residual_weight: float | None = None,
        resample_every: int = 0,
        candidates: int = 10,
    ) -> None:
        if residual_weight is not None and not residual_weight > 0:
            raise ValueError(f"task.residual_weight must be positive, got {residual_weight}")
        check_whole("task.resample_every", resample_every, 0)
        check_whole("task.candidates", candidates, 2)
        self.residual_weight = residual_weight
        self.resample_every = resample_every
        self.candidates = candidates
        self.dataset: Collocation | None = None

    def use_data(self, dataset: Dataset) -> None:
        if isinstance(dataset, Collocation):
            self.dataset = dataset

    def check_net(self, net: nn.Module, *, compiled: bool) -> None:
        if compiled:
            raise ValueError("trainer.compile=true has no second derivatives, which task=pde needs")
        kinds = {"zero"}
        for module in net.double().modules():
            if not isinstance(module, Expansion):
                continue
            if module.basis.num_functions and has_kinks(module.basis, module.basis.in_features):
                name = module.factory.name
                raise ValueError(f"task=pde needs second derivatives, and {name!r} has none")
            kinds.add(getattr(module.basis, "extrapolation", "zero"))
            if module.residual == "relu":
                raise ValueError("task=pde needs second derivatives: layers.residual=relu has none")
        if len(kinds) > 1:
            log.warning(
                "basis.extrapolation=%s: second derivatives jump at the ends of a grid: LBFGS "
                "may stall; take zero, and let grids move (callbacks=grid)",
                max(kinds - {"zero"}),
            )

    def output(self, net: Any, x: Tensor) -> Tensor:
        assert self.dataset is not None
        equation, training = self.dataset.equation, torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            x = x.clone()
            u, first, second = derivatives(net, x, equation.second)
            residual = equation.residual(x, u, first, second)
            output = torch.cat([u[:, None], first, residual[:, None]], 1)
        return output if training else output.detach()

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        assert self.dataset is not None
        weight = self.residual_weight or self.dataset.equation.residual_weight
        border = target[:, 0]
        inside = 1 - border
        residual = (inside * output[:, 3].square()).sum() / inside.sum().clamp(min=1)
        error = (border * (output[:, 0] - target[:, 1]).square()).sum() / border.sum().clamp(min=1)
        return weight * residual + error

    def items(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Squared and absolute error of u at every point, `(B,)` each."""
        error = output[:, 0] - target[:, 1]
        return {"loss": error.square(), "absolute": error.abs()}

    def metrics(self, num_outputs: int) -> "MetricCollection":
        from torchmetrics import MetricCollection

        from kanzoo.training.norms import RelativeNorm

        return MetricCollection(
            {"l2": RelativeNorm(1), "h1": RelativeNorm(3)}, compute_groups=False
        )

    def callbacks(self) -> list[Callback]:
        if not self.resample_every:
            return []
        assert self.dataset is not None
        return [Resampling(self, self.dataset)]


class Resampling(Callback):
    """Moves the training points inside to where the residual is large; resumed exactly."""

    def __init__(self, objective: PDE, dataset: Collocation) -> None:
        self.objective, self.dataset = objective, dataset
        self.points: Tensor | None = None
        self.epoch = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loader = trainer.datamodule.train_dataloader()  # type: ignore[attr-defined]
        loader.x = loader.x.clone()  # the data set stays as it was drawn
        if self.points is not None:
            self._move(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch, every = trainer.current_epoch, self.objective.resample_every
        if not epoch or epoch % every or epoch == self.epoch:
            return
        count = self.dataset.n_inside
        pool = self.dataset.candidates(self.objective.candidates * count, epoch)
        x = trainer.precision_plugin.convert_input(pool.to(pl_module.device))
        with torch.no_grad():
            size = self.objective.output(pl_module, x)[:, 3].abs().double().cpu()
        share = size / size.mean().clamp(min=1e-300) + 1
        generator = keyed_generator("resampling", self.dataset.split_seed or 0, epoch)
        self.points = pool[torch.multinomial(share, count, generator=generator)]
        self.epoch = epoch
        self._move(trainer)

    def _move(self, trainer: Trainer) -> None:
        assert self.points is not None
        x = trainer.datamodule.train_dataloader().x  # type: ignore[attr-defined]
        x[: len(self.points)] = self.points.to(x)

    def state_dict(self) -> dict[str, Any]:
        return {"points": self.points, "epoch": self.epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.points, self.epoch = state_dict["points"], state_dict["epoch"]
