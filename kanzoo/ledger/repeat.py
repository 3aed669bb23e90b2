"""Runs of ledgers trained again by their commands: whether they give the committed scores."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kanzoo.checks import check_whole
from kanzoo.errors import DivergedError
from kanzoo.ledger.store import KEY, Ledger, read_ledger, seeds_of
from kanzoo.run.config import compose
from kanzoo.run.fit import train
from kanzoo.rundir import Config, RunDir

MAX_DEVIATIONS = 4.0  # over seeds, within which another machine may end


@dataclass(frozen=True)
class Repeated:
    """A run of a ledger beside the same run trained here.

    is_same: whether all scores agree to the last bit. deviations: between both test scores, in
    deviations of the arm over seeds; infinite where these are not known or do not vary. What
    diverged here has no score, nan.
    """

    name: str
    committed: float
    here: float
    is_same: bool
    deviations: float
    machines: tuple[str, str]

    @property
    def verdict(self) -> str:
        """ "identical", "within seed noise" or "differs"."""
        if self.is_same:
            return "identical"
        return "within seed noise" if abs(self.deviations) <= MAX_DEVIATIONS else "differs"


def draw(
    folders: Sequence[Path], count: int, seed: int
) -> list[tuple[str, Ledger, dict[str, Any]]]:
    """Finished rows of ledgers, drawn without return, and the name and the ledger of each."""
    check_whole("--cells", count, 1)
    check_whole("--seed", seed, 0)
    rows = []
    for path in folders:
        ledger = read_ledger(path)
        finished = ledger.runs[ledger.runs["status"].eq("finished")].drop_duplicates(KEY)
        rows += [
            (path.name, ledger, {str(k): v for k, v in row.items()})
            for row in finished.to_dict("records")
        ]
    chosen = np.random.default_rng(seed).permutation(len(rows))[:count]
    return [rows[i] for i in sorted(chosen)]


def configuration(name: str, row: Mapping[str, Any]) -> Config:
    """What the command of a row of the ledger `name` stands for.

    Raises `ValueError` where that is another configuration than the row's: the ledger is of
    another version, or was edited.
    """
    program, script, *words = shlex.split(row["command"])
    if (program, script) != ("python", "scripts/train.py"):
        raise ValueError(f"{name}: a run is repeated by scripts/train.py, not {row['command']}")
    config = compose("train", words)
    if (digest := RunDir.of(config).config_hash) != row["config_hash"]:
        raise ValueError(
            f"{name}: the command of run {row['config_hash']} stands for {digest} in this "
            f"version: {row['command']}"
        )
    return config


def repeat(name: str, ledger: Ledger, row: dict[str, Any], runs: str) -> Repeated:
    """Train a row's run by its command below a folder, and compare.

    Raises `ValueError` as `configuration` does, and `BusyError` as training does. What an earlier
    call left is trained again, too.
    """
    config = {**configuration(name, row), "runs": runs, "overwrite": True}
    title = f"{name} {row['data']} {row['model']} {row['arm']} seed {row['seed']}"
    committed = json.loads(row["result"])
    there = committed.get("machine") or ""
    try:
        result = train(config)
    except DivergedError:
        return Repeated(title, row["test"], nan, False, inf, (there, there))
    score = result["test"][row["metric"]]
    deviation = _deviation(ledger, row)
    return Repeated(
        title,
        row["test"],
        score,
        all(result[part] == committed[part] for part in ("val", "test")),
        (score - row["test"]) / deviation if deviation > 0 else inf,
        (there, result["machine"]),
    )


def _deviation(ledger: Ledger, row: dict[str, Any]) -> float:
    """The deviation over seeds of the test scores of a row's arm."""
    return float(pd.to_numeric(seeds_of(ledger, row)["test"]).std())
