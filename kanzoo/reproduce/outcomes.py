"""What is known of a published figure: its runs by seed, from here or from an earlier page."""

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from kanzoo.files import read_json
from kanzoo.reproduce.figures import REPRODUCTIONS
from kanzoo.reproduce.kanbefair import SOURCE_SEED

Key = tuple[str, str]  # an experiment and its row


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
    row that the figure is a ratio to. repeated: the source's own steps by seed, its own among them,
    scored as it scores.
    """

    experiment: str
    row: str
    published: float | None
    recipe: str
    command: str
    params: int
    runs: Mapping[int, SeedRun] = field(default_factory=dict)
    base: float = 1.0
    repeated: Mapping[int, SeedRun] = field(default_factory=dict)

    @property
    def scores(self) -> list[float]:
        """Scores by seed."""
        return [run.score for run in self.runs.values()]

    @property
    def measured(self) -> float:
        """What the published figure is held against."""
        return statistics.fmean(self.scores) / self.base

    @property
    def with_its_seed(self) -> float | None:
        """What the source's steps give with its own seed, None where they were not repeated."""
        run = self.repeated.get(SOURCE_SEED)
        return None if run is None else run.score

    @property
    def with_others(self) -> list[float]:
        """What the source's steps give with other seeds."""
        return [run.score for seed, run in self.repeated.items() if seed != SOURCE_SEED]

    @property
    def verdict(self) -> str:
        """ "agrees", "better", "worse", "source's seed", "not run", or empty without a figure.

        It is the source's seed where its steps give its figure with that seed, and our mean in the
        mean of others, both within the tolerance.
        """
        if not self.runs:
            return "not run"
        if self.published is None:
            return ""
        about = REPRODUCTIONS[self.experiment]

        def against(reference: float, score: float) -> str:
            return about.verdict(reference, score, about.is_error)

        verdict = against(self.published, self.measured)
        if verdict == "agrees" or self.with_its_seed is None or not self.with_others:
            return verdict
        parts = {
            against(self.published, self.with_its_seed),
            against(statistics.fmean(self.with_others), self.measured),
        }
        return "source's seed" if parts == {"agrees"} else verdict

    def joined(self, earlier: "Outcome | None") -> "Outcome":
        """With the runs of other seeds that an earlier page has of the same recipe.

        What the source's steps gave stays whatever the recipe here is.
        """
        if earlier is None:
            return self
        runs = earlier.runs if earlier.recipe == self.recipe else {}
        return replace(
            self,
            runs=dict(sorted({**runs, **self.runs}.items())),
            repeated=dict(sorted({**earlier.repeated, **self.repeated}.items())),
        )

    def record(self) -> dict[str, Any]:
        """The outcome as it is kept beside the page."""
        return {**asdict(self), "verdict": self.verdict}


def read_records(file: Path) -> dict[Key, Outcome]:
    """The outcomes beside an earlier page, none where there is no file."""
    outcomes = {}
    for record in read_json(file) if file.is_file() else []:
        values = {key: value for key, value in record.items() if key != "verdict"}
        for part in ("runs", "repeated"):
            values[part] = {int(seed): SeedRun(**run) for seed, run in record.get(part, {}).items()}
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
