"""Several starts of a run, of which the best goes on, and a line where a fit misses its data."""

import logging
import math
from typing import TYPE_CHECKING

from kanzoo.errors import DivergedError
from kanzoo.run.prepare import Prepared

if TYPE_CHECKING:
    from kanzoo.data.base import Dataset
    from kanzoo.training.task import Task

log = logging.getLogger("kanzoo")


def best_start(prepared: Prepared) -> int:
    """Which of `callbacks.starts` initial weights is best on validation data.

    Each is trained for `callbacks.start_epochs` by a recipe of that length, and forgotten: the best
    one begins again. Start 0 is what the seed alone gives.
    """
    callbacks, mode = prepared.config.callbacks, prepared.objective.mode
    if callbacks.starts == 1:
        return 0
    scores = [_score(prepared, start) for start in range(callbacks.starts)]
    sign = 1 if mode == "min" else -1
    best = min(range(len(scores)), key=lambda start: sign * scores[start])
    metric = prepared.objective.monitor
    values = ", ".join(f"{score:.3g}" for score in scores)
    log.info("%s of the starts: %s; number %d goes on", metric, values, best)
    return best


def _score(prepared: Prepared, start: int) -> float:
    """The monitored metric of a start after its epochs; the worst value if it diverges."""
    from lightning.pytorch import Trainer

    from kanzoo.run.fit import make_task
    from kanzoo.training.data import DataModule
    from kanzoo.training.finite import StopWhenDiverged
    from kanzoo.training.grid import GridSchedule
    from kanzoo.training.optim import is_lbfgs
    from kanzoo.training.trainer import products_of, quieten

    config, objective = prepared.config, prepared.objective
    quieten()
    grid = config.callbacks.grid
    options = {**config.trainer.lightning, "max_epochs": config.callbacks.start_epochs}
    if is_lbfgs(config.optim):
        options["gradient_clip_val"] = None
    trainer = Trainer(
        **options,
        logger=False,
        callbacks=[StopWhenDiverged(), *([GridSchedule(grid)] if grid else [])],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    worst = math.inf if objective.mode == "min" else -math.inf
    try:
        with products_of(config.trainer.precision):
            trainer.fit(make_task(prepared, start), DataModule(prepared.dataset, config.seed))
    except DivergedError:
        return worst
    score = float(trainer.callback_metrics[f"val/{objective.monitor}"])
    return score if math.isfinite(score) else worst


def training_doubt(task: "Task", dataset: "Dataset") -> str | None:
    """One line where a network misses the training data of a table by far more than their noise."""
    import torch

    from kanzoo.fit.noise import ROWS, poor_fit

    split = (getattr(dataset, "splits", None) or {}).get("train")
    if dataset.spec.task != "regression" or dataset.spec.kind != "table" or split is None:
        return None
    parameter = next(task.net.parameters())
    x, y = split.x[:ROWS].to(parameter), split.y[:ROWS].double().cpu()
    if x.ndim != 2 or y.ndim != 2 or len(x) < 2:
        return None
    with torch.no_grad():
        output = task.objective.output(task.net.eval(), x).double().cpu()
    deviation = y.std(0).clamp(min=1e-300)
    error = float(((output - y) / deviation).square().mean().sqrt())
    spans = x.double().cpu()
    spans = spans / spans.std(0).clamp(min=1e-300)
    remedy = "callbacks.starts=5, wider layers or finer grids may fit them"
    return poor_fit(spans.numpy(), (y / deviation).numpy(), error, remedy)
