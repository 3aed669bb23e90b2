"""What is known of a published figure: its runs by seed, from here or from an earlier page."""

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from kanzoo.files import read_json
from kanzoo.reproduce.figures import REPRODUCTIONS

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
    row that the figure is a ratio to, over the same seeds; None where that has none of them.
    its_seed: the source's own steps with the seed of its figure, scored as it scores, None where
    they were not taken.
    """

    experiment: str
    row: str
    published: float | None
    recipe: str
    command: str
    params: int
    runs: Mapping[int, SeedRun] = field(default_factory=dict)
    base: float | None = 1.0
    its_seed: SeedRun | None = None

    @property
    def scores(self) -> list[float]:
        """Scores by seed."""
        return [run.score for run in self.runs.values()]

    @property
    def measured(self) -> float | None:
        """What the published figure is held against, None where nothing is."""
        if not self.runs or self.base is None:
            return None
        return statistics.fmean(self.scores) / self.base

    @property
    def missing(self) -> int:
        """How many seeds of the row were not run."""
        about = REPRODUCTIONS[self.experiment]
        return about.seeds_of(about.rows[self.row]) - len(self.runs)

    @property
    def verdict(self) -> str:
        """ "agrees", "better", "worse", or why there is none; empty without a figure or its base.

        Seeds may be far apart, so that a row is judged when it has all of them.
        """
        if not self.runs:
            return "not run"
        if self.published is None or self.measured is None:
            return ""
        if self.missing > 0:
            return f"{self.missing} {'seed is' if self.missing == 1 else 'seeds are'} missing"
        about = REPRODUCTIONS[self.experiment]
        return about.verdict(self.published, self.measured, about.is_error)

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
            its_seed=self.its_seed or earlier.its_seed,
        )

    def record(self) -> dict[str, Any]:
        """The outcome as it is kept beside the page."""
        return {**asdict(self), "verdict": self.verdict}


def read_records(file: Path) -> dict[Key, Outcome]:
    """The outcomes beside an earlier page, none where there is no file.

    Raises `ValueError` for a file of another version.
    """
    outcomes = {}
    try:
        for record in read_json(file) if file.is_file() else []:
            values = {key: value for key, value in record.items() if key != "verdict"}
            values["runs"] = {int(seed): SeedRun(**run) for seed, run in record["runs"].items()}
            its_seed = record.get("its_seed")
            values["its_seed"] = its_seed and SeedRun(**its_seed)
            outcomes[record["experiment"], record["row"]] = Outcome(**values)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} holds no records of this version: {error!r}") from error
    return outcomes


def with_bases(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """The outcomes, those that are ratios to another row with the mean of that row."""
    rows = {(o.experiment, o.row): o for o in outcomes}
    result = []
    for outcome in rows.values():
        if beside := REPRODUCTIONS[outcome.experiment].beside:
            other = rows.get((outcome.experiment, beside))
            theirs = other.runs if other else {}
            shared = [run.score for seed, run in theirs.items() if seed in outcome.runs]
            base = statistics.fmean(shared) if shared else None
            outcome = replace(outcome, base=base)
        result.append(outcome)
    return result
