"""What is known of a published figure: its runs by seed, from here or from an earlier page."""

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from kanzoo.files import read_json
from kanzoo.reproduce.figures import REPRODUCTIONS

Key = tuple[str, str]  # an experiment and its row
LEAST = 5  # seeds that say where a single run may lie


@dataclass(frozen=True)
class SeedRun:
    """A finished run of a row.

    score: of the test set, of the epoch that validation chose. by_test: that of the best epoch by
    the test set, None where it was not followed. seconds: of training.
    """

    score: float
    seconds: float
    machine: str
    by_test: float | None = None


@dataclass(frozen=True)
class Outcome:
    """A row beside its published figure; `runs` by seed, empty where it was not run.

    recipe: tells a row from one of the same name whose recipe was another. base: the mean of the
    row that the figure is a ratio to.
    """

    experiment: str
    row: str
    published: float | None
    recipe: str
    command: str
    params: int
    runs: Mapping[int, SeedRun] = field(default_factory=dict)
    base: float = 1.0

    @property
    def scores(self) -> list[float]:
        """Scores by seed."""
        return [run.score for run in self.runs.values()]

    @property
    def measured(self) -> float:
        """What the published figure is held against."""
        return statistics.fmean(self.scores) / self.base

    @property
    def single(self) -> tuple[float, float] | None:
        """Where 95 % of single runs are expected, by Student's t, of errors by their logarithms.

        None for a source of more runs than one, or of less than five here.
        """
        about = REPRODUCTIONS[self.experiment]
        if not about.one_seed or len(self.runs) < LEAST:
            return None
        scores = np.log(self.scores) if about.is_factor else np.array(self.scores)
        deviation = scores.std(ddof=1) * np.sqrt(1 + 1 / len(scores))
        low, high = scores.mean() + deviation * stats.t.ppf([0.025, 0.975], len(scores) - 1)
        ends = np.exp([low, high]) if about.is_factor else np.array([low, high])
        return float(ends[0]), float(ends[1])

    @property
    def verdict(self) -> str:
        """ "agrees", "within seeds", "better", "worse", "not run", or empty without a figure."""
        if not self.runs:
            return "not run"
        if self.published is None:
            return ""
        about = REPRODUCTIONS[self.experiment]
        verdict = about.verdict(self.published, self.measured, about.is_error)
        low, high = self.single or (math.inf, -math.inf)
        is_within = verdict != "agrees" and low <= self.published <= high
        return "within seeds" if is_within else verdict

    def joined(self, earlier: "Outcome | None") -> "Outcome":
        """With the runs of other seeds that an earlier page has of the same recipe."""
        if earlier is None or earlier.recipe != self.recipe:
            return self
        return replace(self, runs=dict(sorted({**earlier.runs, **self.runs}.items())))

    def record(self) -> dict[str, Any]:
        """The outcome as it is kept beside the page."""
        return {**asdict(self), "verdict": self.verdict}


def read_records(file: Path) -> dict[Key, Outcome]:
    """The outcomes beside an earlier page, none where there is no file."""
    outcomes = {}
    for record in read_json(file) if file.is_file() else []:
        values = {key: value for key, value in record.items() if key != "verdict"}
        values["runs"] = {int(seed): SeedRun(**run) for seed, run in record["runs"].items()}
        outcomes[record["experiment"], record["row"]] = Outcome(**values)
    return outcomes


def with_bases(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """The outcomes, those that are ratios to another row with the mean of that row."""
    rows = {(o.experiment, o.row): o for o in outcomes}
    result = []
    for outcome in rows.values():
        base = rows.get((outcome.experiment, REPRODUCTIONS[outcome.experiment].beside))
        known = base is not None and base.runs
        result.append(
            replace(outcome, base=statistics.fmean(base.scores) if base and known else 1.0)
        )
    return result
