"""Which GPUs cells get, on a machine whose GPUs are but names: parts of one, one each, several."""

import importlib.util
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import engine_study
import pytest
from conftest import compose

from kanzoo.study.comparison import build_engine, plan
from kanzoo.study.engines.gpus import gpus_of, room
from kanzoo.study.engines.local import LocalEngine


def notes(config: dict[str, Any]) -> dict[str, Any]:
    """A cell that writes down what it sees, while others run."""
    folder = Path(config["runs"])
    folder.mkdir(exist_ok=True)
    began = time.time()
    time.sleep(2)
    text = f"{os.environ['CUDA_VISIBLE_DEVICES']} {os.getpid()} {began} {time.time()}\n"
    with (folder / "notes").open("a") as file:
        file.write(text)
    return {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("share", "seen", "workers"),
    [
        (0.5, {"a", "GPU-7"}, 4),
        (2, {"a,GPU-7"}, 1),
    ],
)
def test_cells_share_gpus(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    share: float,
    seen: set[str],
    workers: int,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "a, GPU-7")
    cells = plan(engine_study.configured(tmp_path / "runs", seeds=2))
    engine = LocalEngine(gpus_per_cell=share)
    engine.check(cells)
    assert engine.shares(len(cells))[0] == workers
    with engine.session(len(cells), tmp_path, notes) as session:
        session.run(cells, lambda _, reason: None)
    rows = [line.split() for line in (tmp_path / "runs" / "notes").read_text().splitlines()]
    assert len(rows) == len(cells) == 4
    assert {gpus for gpus, *_ in rows} <= seen
    spans = [(gpus, float(a), float(b)) for gpus, _, a, b in rows]
    most = max(1, round(1 / share))
    for _, began, _ in spans:  # nowhere more at once than there is room for
        busy = Counter(gpus for gpus, a, b in spans if a <= began < b)
        assert max(busy.values()) <= most


def test_every_slot_has_its_place() -> None:
    names = ["0", "1", "2", "3"]
    assert Counter(gpus_of(i, 0.25, names) for i in range(16)) == dict.fromkeys(names, 4)
    assert Counter(gpus_of(i, None, names) for i in range(8)) == dict.fromkeys(names, 2)
    assert [gpus_of(i, 2, names) for i in range(2)] == ["0,1", "2,3"]
    assert gpus_of(0, 0.5, ["0"]) is None
    assert [room(share, names) for share in (0.25, 1 / 3, 1, 2, 3, 5)] == [16, 12, 4, 2, 1, 0]


@pytest.mark.parametrize(
    ("words", "trainer", "reason"),
    [
        (["engine.gpus_per_cell=1.5"], [], "at most 1 or whole"),
        (["engine.gpus_per_cell=8"], [], "this machine has 2 GPUs"),
        (["engine.gpus_per_cell=1"], ["trainer=ddp", "trainer.devices=2"], "devices=2, but"),
        (["engine=slurm", "engine.gpus_per_cell=0.25"], [], "cells_per_job must be at least 4"),
    ],
)
def test_what_cannot_be_shared_is_refused(
    words: list[str],
    trainer: list[str],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    overrides = [*engine_study.SHORT, *trainer]
    cells = plan(engine_study.configured(tmp_path / "runs", overrides=overrides))
    with pytest.raises(ValueError, match=reason):
        build_engine(compose("compare", words)).check(cells)


def test_jobs_of_slurm_hold_the_cells_of_a_gpu(tmp_path: Path) -> None:
    words = ["engine=slurm", "engine.gpus_per_cell=0.25", "engine.cells_per_job=8"]
    words += ["engine.cpus_per_cell=2", "engine.memory_limit_gb=1"]
    (cell, *_) = plan(engine_study.configured(tmp_path / "runs"))
    engine: Any = build_engine(compose("compare", words))
    request = engine.request(cell)
    assert (request["gpus_per_node"], request["cpus_per_task"]) == (1, 8)
    assert request["mem"] == "4096M"
    assert engine.at_once == 4


@pytest.mark.engines
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_actors_of_ray_share_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    plain = ray.init
    monkeypatch.setattr(ray, "init", lambda **options: plain(**{**options, "num_gpus": 2}))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *os.sys.path]))
    cells = plan(engine_study.configured(tmp_path / "runs", seeds=2))
    words = ["engine=ray", "engine.gpus_per_cell=0.5"]
    with build_engine(compose("compare", words)).session(4, tmp_path, notes) as session:
        session.run(cells, lambda _, reason: None)
    rows = [line.split() for line in (tmp_path / "runs" / "notes").read_text().splitlines()]
    assert {gpus for gpus, *_ in rows} <= {"0", "1"}
