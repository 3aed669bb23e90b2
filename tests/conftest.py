"""What several test files share: commands as processes, and short real runs."""

import functools
import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import torch

    from kanzoo.run.config import Composer

# Workers share the cores: threads of one that wait must not keep those of another from running.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# A shell lets what it starts in the background ignore Ctrl-C, and all that this starts in turn:
# tests of interrupts would wait in vain.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]
# A run of about a second: 128 real digits, two epochs, nothing but metrics.csv.
SHORT = ("logger=csv", "callbacks.progress=false", "trainer.max_epochs=2", "data.limit_train=128")
SMALL = ("model=mlp", "model.width=16", "match=none", *SHORT)

# What `KANZOO_TEST_DEVICE=cuda` moves there: tests of the arithmetic of bases, layers and models.
ON_DEVICE = ("test_bases", "test_layers", "test_models", "test_conv", "test_grids", "test_squash")

Run = Callable[..., dict[str, Any]]


def pytest_collection_finish() -> None:
    """What is imported by then stays: the garbage collector need not go through it every time."""
    gc.freeze()


@pytest.fixture(autouse=True)
def _quick_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """PDF files of figures take half the time of a report: only tests marked `pdf` write them."""
    if "pdf" not in request.keywords and "kanzoo.page.style" in sys.modules:
        monkeypatch.setattr("kanzoo.page.style.pdf_of", lambda figure: b"%PDF-")


def environment() -> dict[str, str]:
    """Variables for a command that must find this checkout and leave the cores to others."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "OMP_NUM_THREADS": "1",
        "WANDB_SILENT": "true",
    }


def command(script: str, *words: str) -> list[str]:
    """The command line of one of `scripts/`."""
    return [sys.executable, str(ROOT / "scripts" / f"{script}.py"), *words]


def run_script(script: str, *words: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run one of `scripts/` in a folder and return what it said."""
    return subprocess.run(
        command(script, *words),
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(autouse=True)
def device(request: pytest.FixtureRequest) -> Iterator["torch.device"]:
    """Where tensors are made that say nothing else; see `ON_DEVICE`."""
    import torch

    chosen = os.environ.get("KANZOO_TEST_DEVICE", "cpu")
    moved = chosen != "cpu" and request.module.__name__.startswith(ON_DEVICE)
    if not moved:
        yield torch.device("cpu")
        return
    from drawn import DrawnOnTheCPU

    torch.set_default_device(chosen)
    try:
        with DrawnOnTheCPU():
            yield torch.device(chosen)
    finally:
        torch.set_default_device(None)


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Studies train their cells in this process, whatever engine they name."""
    from crash import inline_engine

    monkeypatch.setattr("kanzoo.compare.build_engine", lambda config: inline_engine())


@pytest.fixture
def train_run(tmp_path: Path) -> Run:
    """Train a small network on a few digits below `tmp_path`; returns `result.json`'s content."""
    from kanzoo.run.fit import train

    def run(*words: str) -> dict[str, Any]:
        return train(compose("train", [*SMALL, f"runs={tmp_path}", *words]))

    return run


@functools.cache
def composer() -> "Composer":
    from kanzoo.run.config import Composer

    return Composer("train")


def compose(config_name: str, overrides: list[str]) -> dict[str, Any]:
    """As `kanzoo.run.config.compose`, from files that are read once."""
    from kanzoo.run import config

    if config_name == "train":
        return composer()(overrides)
    return config.compose(config_name, overrides)


def folder_of(*words: str) -> Path:
    """Folder of the run that these overrides describe."""
    from kanzoo.rundir import RunDir

    return RunDir.of(compose("train", list(words))).path


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel."""
    target = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", target, ROOT],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = target.glob("kanzoo-*.whl")
    return path


@pytest.fixture(scope="session")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the built wheel is installed, without what it depends on."""
    target = tmp_path_factory.mktemp("site")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target, wheel],
        check=True,
    )
    return target
