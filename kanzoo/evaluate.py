"""Evaluate a finished run again from its folder, and the command that does so."""

import logging
from pathlib import Path
from typing import Any

from kanzoo import registry
from kanzoo.run.config import Config, run_command, user_errors
from kanzoo.run.load import find_checkpoint, load_net

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
