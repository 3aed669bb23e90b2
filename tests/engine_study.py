"""A study of a few cells of a second, as a command that tests start, kill and start again.

python engine_study.py RUNS SEEDS [overrides of conf/compare.yaml]
"""

import copy
import csv
import functools
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from kanzoo.compare import _job
from kanzoo.errors import stop_at_once
from kanzoo.run.config import compose
from kanzoo.settings import StudyConfig
from kanzoo.study.comparison import study_of

SHORT = [
    *("callbacks.progress=false", "logger=csv", "trainer.max_epochs=2"),
    *("data.limit_train=64", "data.batch_size=32"),
]
TIMINGS = {"step_time_ms", "train_seconds", "machine"}
MEASURED = {"step_time_ratio", "memory_ratio"}  # of verdicts
ROOT = Path(__file__).resolve().parents[1]


@functools.cache
def _smoke(*words: str) -> dict[str, Any]:
    return dict(compose("compare", ["study=smoke", *words]))


def configured(runs: Path, *words: str, **study: Any) -> dict[str, Any]:
    """The smoke study cut down to two arms of a small MLP, with some of its keys changed."""
    config = {**copy.deepcopy(_smoke(*words)), "runs": str(runs)}
    tiny = {
        "models": {"mlp": ["model.width=8"]},
        "arms": {"mlp": ["layers=mlp"], "kan": ["layers=kan"]},
        "overrides": SHORT,
    }
    return {**config, "study": {**config["study"], **tiny, **study}}


def declared(name: str = "smoke", **study: Any) -> StudyConfig:
    """A shipped study with some of its keys changed."""
    config = compose("compare", [f"study={name}"])
    return study_of({"study": {**config["study"], **study}})


def start(runs: Path, seeds: int, *words: str, **environment: str) -> "subprocess.Popen[str]":
    """Start the study as a process of its own."""
    path = [str(ROOT), environment.pop("PYTHONPATH", ""), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, __file__, str(runs), str(seeds), *words],
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            **environment,
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(runs: Path, seeds: int, *words: str, **environment: str) -> tuple[int, str]:
    """Run the study; its exit code and what it said."""
    process = start(runs, seeds, *words, **environment)
    said, _ = process.communicate(timeout=400)
    return process.returncode, said


def train_here(runs: Path, seeds: int) -> None:
    """Run the study in this process, cell after cell, on the one thread that workers have too."""
    import pytest
    import torch
    from crash import inline_engine

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("kanzoo.compare.build_engine", lambda config: inline_engine())
            _job(configured(runs, seeds=seeds))
    finally:
        torch.set_num_threads(threads)


def results(runs: Path) -> list[dict[str, str]]:
    """`results.csv` without what differs between two runs of the same."""
    with (runs / "smoke" / "report" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    folder = str(runs)
    return [
        {k: v.replace(folder, "RUNS") for k, v in row.items() if k not in TIMINGS} for row in rows
    ]


def verdicts(runs: Path) -> list[dict[str, Any]]:
    """`verdicts.json` without what is measured by the clock."""
    found = json.loads((runs / "smoke" / "report" / "verdicts.json").read_text())
    return [{k: v for k, v in verdict.items() if k not in MEASURED} for verdict in found]


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop_at_once)  # as the command does
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    _job(configured(Path(sys.argv[1]), *sys.argv[3:], seeds=int(sys.argv[2])))
