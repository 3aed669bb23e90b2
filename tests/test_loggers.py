"""Loggers beside `metrics.csv`: several at once, and services that fail while training goes on."""

import contextlib
import importlib.util
import logging
import os
import signal
from pathlib import Path

import pandas as pd
import pytest
from conftest import Run, compose
from lightning.pytorch.loggers import Logger

from kanzoo.run.prepare import prepare
from kanzoo.training.services import Beside


class Failing(Logger):
    name = version = "failing"

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def log_hyperparams(self, *args: object, **kwargs: object) -> None: ...

    def log_metrics(self, *args: object, **kwargs: object) -> None:
        self.calls += 1
        raise BrokenPipeError("gone")


def test_a_service_that_fails_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    service = Failing()
    logger = Beside(service, "W&B")
    with caplog.at_level(logging.WARNING, "kanzoo"):
        for step in range(3):
            logger.log_metrics({"loss": 1.0}, step)
            logger.flush()
        logger.finalize("success")
    assert service.calls == 1
    assert [record.message for record in caplog.records] == [
        "W&B does not answer (gone): training goes on without it"
    ]


def test_a_service_that_does_not_start(
    train_run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import wandb

    def refuse(**options: object) -> None:
        raise wandb.errors.CommError("service is down")

    monkeypatch.setattr(wandb, "init", refuse)
    with caplog.at_level(logging.WARNING, "kanzoo"):
        result = train_run("logger=wandb")
    assert result["status"] == "finished"
    assert sum("W&B does not answer" in record.message for record in caplog.records) == 1


def test_online_runs_go_on_and_are_offline_where_nobody_answers(
    train_run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    import wandb

    seen, plain = [], wandb.init

    def init(**options: object) -> object:
        seen.append(options)
        if options["mode"] == "online":
            raise wandb.errors.CommError("no")
        return plain(**options)

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr("kanzoo.training.services._down_until", 0.0)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    with caplog.at_level(logging.WARNING, "kanzoo"):
        for seed in (0, 1):
            train_run("logger=wandb", "logger.wandb.mode=online", f"seed={seed}")
    assert [options["mode"] for options in seen] == ["online", "offline", "offline"]
    assert seen[0]["resume"] == "allow"
    assert seen[0]["tags"] == ["bspline"]
    assert "bspline" in str(seen[0]["name"])
    assert sum("logging offline" in record.message for record in caplog.records) == 1
    assert len(list(tmp_path.glob("*/*/*/seed*/wandb/offline-run-*"))) == 2


@pytest.mark.parametrize("package", ["tensorboard", "mlflow"])
def test_a_package_that_is_not_there(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "kanzoo.run.prepare.find_spec", lambda name: None if name == package else find(name)
    )
    with pytest.raises(ValueError, match=rf"pip install 'kanzoo\[{package}\]'"):
        prepare(compose("train", [f"logger={package}"]))


def test_tensorboard_beside_csv(train_run: Run, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train_run("logger=csv", "logger.tensorboard=true")
    (folder,) = tmp_path.glob("*/*/*/seed0/tensorboard")
    events = EventAccumulator(str(folder)).Reload()
    table = pd.read_csv(folder.parent / "metrics.csv").dropna(subset="val/accuracy")
    logged = [scalar.value for scalar in events.Scalars("val/accuracy")]
    assert logged == pytest.approx(table["val/accuracy"].tolist(), rel=1e-6)


@pytest.mark.filterwarnings("ignore")  # of its libraries, about themselves
def test_mlflow_keeps_one_run(train_run: Run, tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    train_run("logger=mlflow")
    (file,) = tmp_path.glob("*/*/*/seed0/mlflow_run_id")
    (file.parent / "result.json").unlink()
    train_run("logger=mlflow")  # goes on
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'train'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == file.read_text()
    assert "bspline" in str(run.info.run_name)
    assert "val/accuracy" in run.data.metrics


@pytest.mark.slow
def test_the_service_of_wandb_is_killed(
    train_run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Offline and real: its process is killed between two epochs."""
    write, killed = Beside.write, []

    def kill(self: Beside) -> None:
        write(self)
        if not killed:
            killed.extend(services())
            for number in killed:
                os.kill(number, signal.SIGKILL)

    monkeypatch.setattr(Beside, "write", kill)
    monkeypatch.setattr("kanzoo.training.loggers.DELAY", 0.0)
    with caplog.at_level(logging.WARNING, "kanzoo"):
        result = train_run("logger=wandb", "trainer.log_every_n_steps=1", "trainer.max_epochs=4")
        following = train_run("logger=wandb", "seed=1")  # with a service of its own
    assert killed
    assert result["status"] == following["status"] == "finished"
    assert sum("W&B does not answer" in record.message for record in caplog.records) == 1
    (folder,) = tmp_path.glob("*/*/*/seed1")
    assert list(folder.glob("wandb/offline-run-*"))


def services() -> list[int]:
    """The processes of W&B that this one has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = path.read_text().partition("(")[2].rpartition(")")
            if name.startswith(("wandb", "gpu_stats")) and int(rest.split()[1]) == os.getpid():
                found.append(int(path.parent.name))
    return found
