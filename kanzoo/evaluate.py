"""Evaluate a finished run again from its folder, and the command that does so."""

import logging
from pathlib import Path
from typing import Any

from kanzoo import registry
from kanzoo.config import Config, run_command, user_errors
from kanzoo.rundir import read_config

SPLITS = ("val", "test")


def main() -> None:
    """Entry of `scripts/evaluate.py`."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run_command("evaluate", _job)


def _job(config: Config) -> None:
    with user_errors():
        folder, checkpoint = find_checkpoint(Path(config["run"]), config["checkpoint"])
        registry.check_name("split", config["split"], SPLITS)
        scores = evaluate(folder, checkpoint, config["split"], config["root"])
    from rich.console import Console
    from rich.table import Table

    table = Table(title=str(checkpoint), title_justify="left", show_header=False)
    for name, value in scores.items():
        table.add_row(f"{config['split']} {name}", f"{value:.4f}")
    Console().print(table)


def find_checkpoint(folder: Path, name: str) -> tuple[Path, Path]:
    """The folder of a run and one of its checkpoints; `ValueError` where there is none."""
    if not (folder / "config.yaml").is_file():
        raise ValueError(f"{folder} is not the folder of a run: it holds no config.yaml")
    names = sorted(path.stem for path in (folder / "checkpoints").glob("*.ckpt"))
    registry.check_name("checkpoint", name, names)
    return folder, folder / "checkpoints" / f"{name}.ckpt"


def load_net(folder: Path, checkpoint: Path, root: str | None = None) -> tuple[Any, Any]:
    """The trained network of a run on the CPU, and how it was prepared (`train.Prepared`).

    `root` is where the data are now, None for where they were in training.
    """
    import torch

    from kanzoo.train import prepare

    config = read_config(folder / "config.yaml")
    if root is not None:
        registry.check_name("data key", "root", config["data"])
        config["data"]["root"] = root
    prepared = prepare(config)
    net = prepared.plan.build()
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    own = {k.removeprefix("net."): v for k, v in state.items() if k.startswith("net.")}
    net.load_state_dict(own)
    return net.eval(), prepared


def evaluate(folder: Path, checkpoint: Path, split: str, root: str | None = None) -> dict[str, Any]:
    """Loss and metrics of a checkpoint on one split, every sample once."""
    import torch

    net, prepared = load_net(folder, checkpoint, root)
    dataset = prepared.dataset
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net.to(device)
    metrics = prepared.objective.metrics(dataset.spec.num_outputs).to(device)
    loss, count = 0.0, 0.0
    with torch.no_grad():
        for x, y in getattr(dataset.loaders(seed=0, device=device), split):
            output = net(x)
            metrics.update(output, y)
            weight = float(prepared.objective.weight(y))
            loss += float(prepared.objective.loss(output, y)) * weight
            count += weight
    return {"loss": loss / count, **{k: float(v) for k, v in metrics.compute().items()}}
