"""A trained network from the folder of its run, with what it was trained for."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kanzoo import zoo
from kanzoo.checks import build, check_name
from kanzoo.rundir import Config, read_config
from kanzoo.settings import RunConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kanzoo.data.base import Dataset
    from kanzoo.models.base import Architecture
    from kanzoo.training.objective import Objective

SPLITS = ("val", "test")
MAX_SAMPLES = 1024  # of the validation data, that a network is looked at on
MAX_NUMBERS = 2**21  # in them: large images are few


@dataclass(frozen=True)
class Trained:
    """A network as a checkpoint of a run holds it, on the CPU in evaluation mode."""

    config: RunConfig
    net: "Architecture"
    dataset: "Dataset"
    objective: "Objective"

    def evaluate(self, split: str) -> dict[str, float]:
        """Loss and metrics on the split "val" or "test", every sample once, as in `result.json`."""
        from kanzoo.training.evaluation import scores_of
        from kanzoo.training.task import Task

        check_name("split", split, SPLITS)
        task = Task(self.net, self.objective, self.dataset.spec.num_outputs)
        return scores_of(task, self.dataset, split, self.config.trainer)

    def validation_sample(self) -> "Tensor":
        """Validation inputs, enough to see where data are, in the dtype of the network."""
        return self.validation_pairs()[0]

    def validation_pairs(self) -> "tuple[Tensor, Tensor]":
        """`validation_sample` and the targets of it."""
        import torch

        parts: list[Tensor] = []
        targets: list[Tensor] = []
        for x, y in self.dataset.loaders(seed=0, device=torch.device("cpu")).val:
            parts.append(x)
            targets.append(y)
            count = sum(map(len, parts))
            if count >= MAX_SAMPLES or count * x[0].numel() >= MAX_NUMBERS:
                break
        sample, target = (torch.cat(both)[:MAX_SAMPLES] for both in (parts, targets))
        kept = max(1, MAX_NUMBERS // sample[0].numel())
        dtype = next(p.dtype for p in self.net.parameters() if p.is_floating_point())
        x, y = (
            both[:kept].to(dtype) if both.is_floating_point() else both[:kept]
            for both in (sample, target)
        )
        return x, y

    def monitored(self, net: "nn.Module", x: "Tensor", y: "Tensor") -> float:
        """The metric that selects the best epoch, of a network on inputs and their targets."""
        import torch

        metrics = self.objective.metrics(self.dataset.spec.num_outputs)
        with torch.no_grad():
            metrics.update(self.objective.output(net.eval(), x), y)
        return float(metrics.compute()[self.objective.monitor])


def load_run(folder: Path, checkpoint: str = "best", root: str | None = None) -> Trained:
    """What a run has trained, by the recipe beside its checkpoints: no budget is solved.

    `root` is where the data are now, None for where they were in training. Raises `ValueError` of
    one line for a folder without such a checkpoint.
    """
    from kanzoo.models.weights import find_checkpoint

    find_checkpoint(folder, checkpoint)
    return _trained(read_config(folder / "config.yaml"), folder, root, checkpoint)


def load_member(name: str, root: str | None = None) -> Trained:
    """A member of the zoo with the data and the objective of the run that it comes from.

    Raises `ValueError` of one line for an unknown name. `root` is where data lie that do not come
    with a package.
    """
    from kanzoo.run.config import compose

    words = shlex.split(zoo.card(name)["command"])[2:]
    member = f"{zoo.PREFIX}{name.removeprefix(zoo.PREFIX)}"
    return _trained(compose("train", words), member, root, "best")


def _trained(config: Config, source: str | Path, root: str | None, checkpoint: str) -> Trained:
    from kanzoo.models.weights import load
    from kanzoo.run.prepare import describe_data

    if root is not None:
        check_name("data key", "root", config["data"])
        config["data"]["root"] = root
    settings = build(RunConfig, config)
    dataset, objective = describe_data(settings)
    return Trained(settings, load(source, checkpoint=checkpoint), dataset, objective)
