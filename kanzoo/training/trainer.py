"""The Lightning trainer of a run: its callbacks, loggers and checkpoints."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import PassThroughProfiler

from kanzoo.rundir import Config, RunDir, is_first_process
from kanzoo.settings import RunConfig
from kanzoo.training.checkpoints import (
    Checkpoints,
    EpochCheckpoint,
    LastCheckpoint,
    RandomState,
    Resume,
)
from kanzoo.training.grid import GridSchedule
from kanzoo.training.interrupt import StopBetweenBatches
from kanzoo.training.loggers import LogSteps, MetricsCSV
from kanzoo.training.loop import EpochLoop
from kanzoo.training.objective import Objective
from kanzoo.training.optim import is_lbfgs
from kanzoo.training.progress import ProgressBar, ProgressLines
from kanzoo.training.services import loggers_beside
from kanzoo.training.strategy import strategy_of
from kanzoo.training.sync_norm import SyncNorms

log = logging.getLogger("kanzoo")


def build_trainer(
    config: RunConfig,
    folder: RunDir,
    objective: Objective,
    facts: Config,
    resume: Resume | None,
    interrupt: StopBetweenBatches,
    extra: list[Callback],
) -> Trainer:
    """The trainer of a configuration, writing into the folder of its run.

    `extra` are callbacks that the caller needs to keep hold of.
    """
    quieten()
    loggers: list[Logger] = [MetricsCSV(folder.path, resume.step if resume else 0)]
    if is_first_process():
        loggers += loggers_beside(config, folder, facts)
    callbacks: list[Callback] = [
        RandomState(),
        interrupt,
        *extra,
        LogSteps(),
        EpochCheckpoint(
            folder.path / "checkpoints",
            filename="best",
            monitor=f"val/{objective.monitor}",
            mode=objective.mode,
            enable_version_counter=False,
        ),
        # Of its own: `save_last` writes only when the best epoch changes. After "best", so that
        # it holds what is the best so far.
        LastCheckpoint(folder, interrupt, config.callbacks.checkpoint_minutes),
    ]
    if config.callbacks.patience is not None:
        callbacks.append(
            EarlyStopping(
                f"val/{objective.monitor}",
                mode=objective.mode,
                patience=config.callbacks.patience,
            )
        )
    if config.callbacks.grid is not None:
        callbacks.append(GridSchedule(config.callbacks.grid))
    progress = config.callbacks.progress and sys.stderr.isatty()
    if config.callbacks.progress:
        callbacks.append(ProgressBar() if progress else ProgressLines())
    options = config.trainer
    if is_lbfgs(config.optim) and options.gradient_clip_val is not None:
        log.info("LBFGS: gradients are not clipped, which would mislead its line search")
        options = replace(options, gradient_clip_val=None)
    on_gpus = torch.cuda.is_available() and options.accelerator in ("auto", "gpu")
    trainer = Trainer(
        **{**options.lightning, "strategy": strategy_of(options)},
        plugins=[
            SyncNorms(options.sync_batchnorm, on_gpus=on_gpus),
            Checkpoints(folder, resume),
        ],
        logger=loggers,
        callbacks=callbacks,
        default_root_dir=folder.path,
        profiler=NoProfiler(),
        enable_progress_bar=progress,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        barebones=False,
    )
    EpochLoop.install(trainer, cuda_graph=options.cuda_graph)
    leave_signals(trainer)
    return trainer


def leave_signals(trainer: Trainer) -> None:
    """Keep Lightning from handling signals, which would save nothing and exit as if all went well.

    It would also requeue jobs of SLURM whose checkpoint nobody looks for.
    """
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]


def dtype_of(precision: str) -> torch.dtype:
    """The dtype of weights that a precision of Lightning's means, as "64-true" or "16-mixed"."""
    kinds = {"64-true": torch.float64, "16-true": torch.float16, "bf16-true": torch.bfloat16}
    return kinds.get(precision, torch.float32)


@contextmanager
def products_of(precision: str) -> Iterator[None]:
    """Inside, products of float32 are as a precision wants them: by TF32 for "tf32"."""
    before = torch.get_float32_matmul_precision()
    if precision == "tf32":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class NoProfiler(PassThroughProfiler):
    """Profiles nothing, also in time: Lightning enters a profile about a hundred times a step."""

    NOTHING = nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        return self.NOTHING


def quieten() -> None:
    """Leave out what Lightning tells at every start and a user cannot act on."""
    for name in (
        "pytorch.utilities.rank_zero",
        "fabric.utilities.rank_zero",
        "fabric.utilities.distributed",
    ):
        logging.getLogger(f"lightning.{name}").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*The number of training batches.*is smaller than the logging interval.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*GPU available but not used.*",
        ".*treespec.*",
        ".*It is recommended to use .*sync_dist=True.*",  # metrics are those of all processes
        ".*FSDP2-wrapped module .* returned a view tensor.*",  # which nothing changes in place
        ".*The `srun` command is available.*",
        ".*The `srun` command is available on your system but is not used.*",
    ):
        warnings.filterwarnings("ignore", message)
