"""What a task asks for: a loss and its metrics.

Axes: B batch, T positions, V vocabulary, C channels or classes, H height, W width.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from kanzoo.checks import check_init
from kanzoo.data.base import IGNORE, Dataset

if TYPE_CHECKING:
    from lightning.pytorch import Callback
    from torchmetrics import MetricCollection

# torchmetrics takes seconds to import and is not needed to check options: `metrics` imports it.


class Objective(ABC):
    """A loss, its metrics, and which of them selects the best epoch on validation data."""

    task: ClassVar[str]
    monitor: ClassVar[str]
    mode: ClassVar[str]
    further: ClassVar[tuple[str, ...] | None] = None
    """Its metrics beside `monitor`, by which studies check names; None where that is unknown."""
    needs_net: ClassVar[bool] = False
    """Whether `check_net` has to see the network."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        check_init(cls)

    def use_data(self, dataset: Dataset) -> None:  # noqa: B027
        """Learn which data it is for; before anything else is asked."""

    def check_net(self, net: nn.Module, *, compiled: bool) -> None:  # noqa: B027
        """Raise `ValueError` of one line for a network that cannot be trained for it."""

    def callbacks(self) -> "list[Callback]":
        """Callbacks of a training for it."""
        return []

    def output(self, net: Any, x: Tensor) -> Tensor:
        """What `loss`, `items` and `metrics` take of a network at inputs x."""
        values: Tensor = net(x)
        return values

    @abstractmethod
    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean loss of a batch."""

    def weight(self, target: Tensor) -> Tensor | int:
        """How many terms the mean of `loss` has, or a number proportional to it."""
        return len(target)

    @abstractmethod
    def metrics(self, num_outputs: int) -> "MetricCollection":
        """Metrics over a whole split, each updated with (output, target)."""

    @abstractmethod
    def items(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        """What statistics keep of every sample of a batch, each `(B,)`: its loss among it."""


class Classification(Objective):
    """Cross-entropy on logits `(B, num_outputs)` and classes `(B,)`; accuracy selects.

    `ece` is the expected calibration error over 15 bins of confidence (Guo et al., 2017).
    """

    task: ClassVar[str] = "classification"
    monitor: ClassVar[str] = "accuracy"
    further: ClassVar[tuple[str, ...] | None] = ("ece",)
    mode: ClassVar[str] = "max"

    def __init__(self, *, label_smoothing: float = 0.0) -> None:
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"task.label_smoothing must be in [0, 1), got {label_smoothing}")
        self.label_smoothing = label_smoothing

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target, label_smoothing=self.label_smoothing)

    def items(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        smoothing = self.label_smoothing
        loss = F.cross_entropy(output, target, reduction="none", label_smoothing=smoothing)
        return {"loss": loss, "correct": output.argmax(1) == target}

    def metrics(self, num_outputs: int) -> "MetricCollection":
        from torchmetrics import MetricCollection
        from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

        return MetricCollection(
            {
                "accuracy": MulticlassAccuracy(num_outputs, average="micro", validate_args=False),
                "ece": MulticlassCalibrationError(num_outputs, n_bins=15, validate_args=False),
            },
            compute_groups=False,
        )


class Language(Objective):
    """Cross-entropy in nats on logits `(B, T, V)` and symbols `(B, T)`; bits per character select.

    Targets of `IGNORE` do not count. Both metrics come from the mean over all positions of a split:
    bits are nats / ln 2, perplexity is exp(nats).
    """

    task: ClassVar[str] = "language"
    monitor: ClassVar[str] = "bits_per_char"
    further: ClassVar[tuple[str, ...] | None] = ("perplexity",)
    mode: ClassVar[str] = "min"

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output.flatten(0, 1), target.flatten())

    def weight(self, target: Tensor) -> Tensor | int:
        return (target != IGNORE).sum()

    def items(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        nats = F.cross_entropy(output.transpose(1, 2), target, reduction="none")  # (B, T)
        count = (target != IGNORE).sum(1)
        return {"loss": nats.sum(1) / count, "count": count}

    def metrics(self, num_outputs: int) -> "MetricCollection":
        from torchmetrics import MetricCollection

        from kanzoo.training.entropy import BitsPerCharacter, Perplexity

        return MetricCollection({"bits_per_char": BitsPerCharacter(), "perplexity": Perplexity()})


class SquaredError(Objective):
    """What all objectives of real values share: the mean of squares, over all values of a batch."""

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(output, target)

    def items(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Mean squared and absolute error of every sample, `(B,)` each."""
        error = (output - target).flatten(1)
        return {"loss": error.square().mean(1), "absolute": error.abs().mean(1)}


class Regression(SquaredError):
    """Squared error of `(B, num_outputs)`; the root of its mean over a split selects."""

    task: ClassVar[str] = "regression"
    monitor: ClassVar[str] = "rmse"
    further: ClassVar[tuple[str, ...] | None] = ("mae", "r2")
    mode: ClassVar[str] = "min"

    def metrics(self, num_outputs: int) -> "MetricCollection":
        from torchmetrics import MeanAbsoluteError, MeanSquaredError, MetricCollection, R2Score

        return MetricCollection(
            {
                "rmse": MeanSquaredError(squared=False),
                "mae": MeanAbsoluteError(),
                "r2": R2Score(),
            }
        )


class Forecast(SquaredError):
    """Squared error of `(B, horizon * channels)`; its mean over all steps and channels selects."""

    task: ClassVar[str] = "forecast"
    monitor: ClassVar[str] = "mse"
    further: ClassVar[tuple[str, ...] | None] = ("mae",)
    mode: ClassVar[str] = "min"

    def metrics(self, num_outputs: int) -> "MetricCollection":
        from torchmetrics import MeanAbsoluteError, MeanSquaredError, MetricCollection

        return MetricCollection({"mse": MeanSquaredError(), "mae": MeanAbsoluteError()})


class Denoise(SquaredError):
    """Squared error of images `(B, C, H, W)`; the peak signal-to-noise ratio in dB selects.

    As usual it is the mean over images of each image's ratio, with a data range of 1.
    """

    task: ClassVar[str] = "denoise"
    monitor: ClassVar[str] = "psnr"
    further: ClassVar[tuple[str, ...] | None] = ()
    mode: ClassVar[str] = "max"

    def metrics(self, num_outputs: int) -> "MetricCollection":
        from torchmetrics import MetricCollection
        from torchmetrics.image import PeakSignalNoiseRatio

        return MetricCollection({"psnr": PeakSignalNoiseRatio(data_range=1.0, dim=(1, 2, 3))})


class Segmentation(Objective):
    """Cross-entropy of logits `(B, C, H, W)` and classes `(B, H, W)`; mean intersection over union.

    Intersections and unions are summed over a split; classes that occur neither in the targets nor
    in the predictions are left out of the mean.
    """

    task: ClassVar[str] = "segmentation"
    monitor: ClassVar[str] = "mean_iou"
    further: ClassVar[tuple[str, ...] | None] = ("accuracy",)
    mode: ClassVar[str] = "max"

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target)

    def items(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        loss = F.cross_entropy(output, target, reduction="none").flatten(1).mean(1)
        return {"loss": loss, "correct": (output.argmax(1) == target).flatten(1).float().mean(1)}

    def metrics(self, num_outputs: int) -> "MetricCollection":
        from torchmetrics import MetricCollection
        from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

        return MetricCollection(
            {
                "mean_iou": MulticlassJaccardIndex(
                    num_outputs, average="macro", validate_args=False
                ),
                "accuracy": MulticlassAccuracy(num_outputs, average="micro", validate_args=False),
            }
        )
