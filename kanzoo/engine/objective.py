"""What a task asks for: a loss and its metrics."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


class Objective(ABC):
    """A loss, its metrics, and which of them selects the best epoch on validation data."""

    task: ClassVar[str]
    monitor: ClassVar[str]
    mode: ClassVar[str]

    @abstractmethod
    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean loss of a batch."""

    @abstractmethod
    def metrics(self, num_outputs: int) -> "MetricCollection":
        """Metrics over a whole split, each updated with (output, target)."""


class Classification(Objective):
    """Cross-entropy on logits `(B, num_outputs)` and classes `(B,)`; accuracy selects."""

    task: ClassVar[str] = "classification"
    monitor: ClassVar[str] = "accuracy"
    mode: ClassVar[str] = "max"

    def __init__(self, *, label_smoothing: float = 0.0) -> None:
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"task.label_smoothing must be in [0, 1), got {label_smoothing}")
        self.label_smoothing = label_smoothing

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target, label_smoothing=self.label_smoothing)

    def metrics(self, num_outputs: int) -> "MetricCollection":
        from torchmetrics import MetricCollection  # seconds to import, not needed to check options
        from torchmetrics.classification import MulticlassAccuracy

        return MetricCollection({"accuracy": MulticlassAccuracy(num_outputs, average="micro")})
