"""Loggers of Lightning's beside `metrics.csv`, none of which can stop training."""

import contextlib
import logging
import netrc
import os
import sys
import time
from collections.abc import Callable, Mapping
from operator import methodcaller
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from kanzoo.files import write_atomic
from kanzoo.rundir import Config, RunDir, flatten, is_kan
from kanzoo.settings import RunConfig
from kanzoo.training.loggers import RowLogger

log = logging.getLogger("kanzoo")


class Beside(RowLogger):
    """A logger of Lightning's that gets rows together, and whose faults do not stop training.

    A fault is said once; nothing goes there any more.
    """

    def __init__(self, logger: Logger, title: str) -> None:
        super().__init__()
        self._logger: Logger | None = logger
        self._title = title
        self._rows: list[tuple[dict[str, float], int | None]] = []

    @property
    def name(self) -> str:
        return self._title

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self._try(lambda logger: logger.log_hyperparams(params))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._rows.append((dict(metrics), step))

    @rank_zero_only
    def log_image(self, key: str, images: list[Any]) -> None:
        """Log images where the service shows them."""
        self._try(lambda logger: logger.log_image(key, images))  # type: ignore[attr-defined]

    def write(self) -> None:
        rows, self._rows = self._rows, []
        for metrics, step in rows:
            self._try(methodcaller("log_metrics", metrics, step))

    def finalize(self, status: str) -> None:
        super().finalize(status)
        self._try(lambda logger: logger.finalize(status))

    def _try(self, act: Callable[[Logger], None]) -> None:
        if self._logger is None:
            return
        try:
            act(self._logger)
        except Exception as error:  # whatever a service says that is down, slow or killed
            self._logger = None
            warn_of(self._title, error)


_reported: set[str] = set()  # services that the log of this run has said to be gone


def warn_of(title: str, error: Exception, remedy: str = "training goes on without it") -> None:
    """Say that a service is gone, in one line and once a run."""
    if title not in _reported:
        _reported.add(title)
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        log.warning("%s does not answer (%s): %s", title, reason, remedy)


def close_wandb() -> str | None:
    """End the W&B run of this process, if any, so that the next run gets one of its own.

    Returns its address where it is online.
    """
    wandb = sys.modules.get("wandb")
    if wandb is None:
        return None
    run = wandb.run
    address = None if run is None or run.offline else run.url
    try:
        wandb.finish()
    except Exception as error:  # its service was killed, say
        warn_of("W&B", error)
        _end_service()
    return address or None


def _end_service() -> None:
    """End the process of W&B, which would keep this one at its end until all is uploaded.

    The next run gets a new one.
    """
    import wandb
    from wandb.sdk.lib.module import unset_globals

    with contextlib.suppress(Exception):  # there may be none, or one of another version
        process = wandb.setup()._connection._proc._process  # type: ignore[union-attr]
        process.kill()
        process.wait(10)
    with contextlib.suppress(Exception, SystemExit):  # which says how the process ended
        wandb.teardown()
    unset_globals()


def loggers_beside(config: RunConfig, folder: RunDir, facts: Config) -> list[Logger]:
    """The loggers beside `metrics.csv` that a configuration asks for.

    One whose service does not start is left out, which is said; `facts` are known of the run beside
    its configuration.
    """
    wanted: dict[str, Callable[[RunConfig, RunDir, Config], Logger]] = {}
    if config.logger.wandb is not None and config.logger.wandb.mode != "disabled":
        wanted["W&B"] = _wandb
    if config.logger.tensorboard:
        wanted["TensorBoard"] = _tensorboard
    if config.logger.mlflow:
        wanted["MLflow"] = _mlflow
    _reported.clear()
    loggers: list[Logger] = []
    for title, make in wanted.items():
        try:
            loggers.append(Beside(make(config, folder, facts), title))
        except Exception as error:
            warn_of(title, error)
    return loggers


def _title(config: RunConfig, folder: RunDir) -> str:
    kinds = ("data", "model", "layers", *(["basis"] if is_kan(folder.config) else []))
    return "-".join([*(str(config.choices[kind]) for kind in kinds), f"seed{config.seed}"])


# Seconds for which W&B is waited for: until a run begins, and until it is uploaded at its end.
LIMITS = {"init_timeout": 30.0, "finish_timeout": 60.0, "finish_timeout_raises": True}
ASK_AGAIN = 600.0  # seconds after which a service that was down is asked again
_down_until = 0.0


def _wandb(config: RunConfig, folder: RunDir, facts: Config) -> Logger:
    """A run of W&B, offline where it cannot be online."""
    global _down_until
    import wandb  # seconds to import, and not everyone wants it

    # What it says of itself goes to its own file; of a service that is gone these are tracebacks.
    logging.getLogger("wandb").propagate = False
    options = config.logger.wandb
    assert options is not None
    mode = options.mode
    if mode == "online" and not _logged_in():
        log.warning("not logged in to W&B: logging offline; run `wandb login` first")
        mode = "offline"
    if mode == "online" and time.monotonic() < _down_until:
        mode = "offline"
    basis = [config.choices["basis"]] if is_kan(folder.config) else []
    limits: Config = {
        key: value for key, value in LIMITS.items() if key in wandb.Settings.model_fields
    }

    def start(mode: Literal["online", "offline", "disabled"]) -> Logger:
        run = wandb.init(
            dir=folder.path,
            mode=mode,
            project=options.project,
            entity=options.entity,
            group=options.group or config.name,
            tags=list(dict.fromkeys([*options.tags, *basis])),
            name=_title(config, folder),
            id=f"{config.name}-{folder.config_hash}-seed{config.seed}",
            resume="allow" if mode == "online" else None,  # else history is replaced
            config={**folder.config, **facts},
            # The list of installed packages takes longer than all else, and is in the result.
            settings=wandb.Settings(silent=True, x_save_requirements=False, **limits),
        )
        return WandbLogger(experiment=run)

    try:
        return start(mode)
    except Exception as error:
        if mode != "online":
            raise
        _down_until = time.monotonic() + ASK_AGAIN
        warn_of("W&B", error, "logging offline, which `wandb sync` uploads later")
        _end_service()
        return start("offline")


def _tensorboard(config: RunConfig, folder: RunDir, facts: Config) -> Logger:
    logger = TensorBoardLogger(folder.path, name="tensorboard", version="", default_hp_metric=False)
    logger.log_hyperparams({**flatten(folder.config), **facts})
    return logger


def _mlflow(config: RunConfig, folder: RunDir, facts: Config) -> Logger:
    """One run of MLflow for a run, also where it goes on: its id is kept in the run's folder."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # else minutes for each row
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    where = os.environ.get("MLFLOW_TRACKING_URI")
    logger = MLFlowLogger(
        config.name,
        run_name=_title(config, folder),
        tracking_uri=where or f"sqlite:///{Path(config.runs).absolute()}/mlflow.db",
        tags={"config_hash": folder.config_hash, **{k: str(v) for k, v in config.choices.items()}},
        run_id=_read_id(folder.path / "mlflow_run_id"),
    )
    logger.log_hyperparams({**flatten(folder.config), **facts})
    write_atomic(folder.path / "mlflow_run_id", str(logger.run_id))
    return logger


def _read_id(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _logged_in() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    address = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    try:
        return netrc.netrc().authenticators(urlsplit(address).hostname or address) is not None
    except (FileNotFoundError, netrc.NetrcParseError):
        return False
