"""The section `trainer` of a run's configuration: devices, precision, and how steps are taken."""

from dataclasses import dataclass
from typing import Literal

from kanzoo.checks import Count, Positive
from kanzoo.rundir import Config


@dataclass(frozen=True)
class TrainerConfig:
    """Options of Lightning's trainer, and of how steps run on an accelerator."""

    accelerator: Literal["auto", "cpu", "gpu", "mps", "tpu"]
    devices: Count | list[int] | Literal["auto"]
    num_nodes: Count
    strategy: Literal["auto", "ddp", "fsdp"]
    precision: Literal[
        "16-mixed", "bf16-mixed", "16-true", "bf16-true", "tf32", "32-true", "64-true"
    ]
    max_epochs: Count
    gradient_clip_val: Positive | None
    accumulate_grad_batches: Count
    sync_batchnorm: bool | Literal["auto"]
    log_every_n_steps: Count
    resident_data: bool | Literal["auto"] = "auto"
    compile: bool = False
    cuda_graph: bool = False

    def __post_init__(self) -> None:
        if self.devices == []:
            raise ValueError("trainer.devices lists no device")
        if self.accelerator == "cpu" and isinstance(self.devices, list):
            raise ValueError("lists of trainer.devices need GPUs; with trainer=cpu use a count")
        if self.strategy == "fsdp" and self.precision in ("64-true", "16-mixed"):
            raise ValueError(
                f"trainer.precision={self.precision} cannot be had with fsdp: take ddp"
            )
        obstacles = {
            "trainer.accelerator=cpu": self.accelerator == "cpu",
            "several processes": self.strategy != "auto" or not self.is_one_process,
            "trainer.accumulate_grad_batches": self.accumulate_grad_batches > 1,
            "trainer.precision=16-mixed": self.precision == "16-mixed",
        }
        if self.cuda_graph and any(obstacles.values()):
            reason = next(name for name, holds in obstacles.items() if holds)
            raise ValueError(f"trainer.cuda_graph=true cannot be had with {reason}")

    @property
    def lightning(self) -> Config:
        """What Lightning's trainer takes."""
        ours = ("resident_data", "compile", "cuda_graph")
        options = {name: value for name, value in vars(self).items() if name not in ours}
        options["precision"] = self.precision.replace("tf32", "32-true")
        return {**options, "sync_batchnorm": False}

    @property
    def num_devices(self) -> int | None:
        """Devices on each node, None for all that there are."""
        if isinstance(self.devices, list):
            return len(self.devices)
        return self.devices if isinstance(self.devices, int) else None

    @property
    def is_one_process(self) -> bool:
        return self.num_devices == 1 and self.num_nodes == 1
