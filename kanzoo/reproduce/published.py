"""Published figures repeated: runs of each experiment over seeds, a table beside the source's."""

import argparse
import json
import logging
import shlex
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from rich.console import Console

from kanzoo.checks import check_name
from kanzoo.files import read_json, write_atomic
from kanzoo.models.build import build_layers, build_plan
from kanzoo.reproduce.figures import REPRODUCTIONS, Reproduction, Row
from kanzoo.run.command import user_errors
from kanzoo.run.config import compose
from kanzoo.run.fit import train
from kanzoo.run.prepare import prepare
from kanzoo.rundir import Config, RunDir

RUNS = "runs/reproductions"
PAGE = Path("docs/reproductions.md")
HEAD = """# Published figures, repeated

Written by `make reproduce`. Every row is the mean and deviation of n seeds; "agrees" is within the
tolerance, "better" and "worse" are beyond it. A network that was not run is composed and counted.
"""
IMAGENET = (3, 224, 224)
ERRORS = ("mae", "mse", "rmse", "l2", "bits_per_char")


@dataclass(frozen=True)
class Outcome:
    """A row beside its published figure: scores by seed, empty where it was not run."""

    experiment: str
    row: str
    published: float | None
    scores: tuple[float, ...]
    params: int
    seconds: float
    machine: str
    command: str
    base: float = 1.0  # the mean of the row that the figure is a ratio to

    @property
    def measured(self) -> float:
        """What the published figure is held against."""
        return statistics.fmean(self.scores) / self.base

    @property
    def verdict(self) -> str:
        """ "agrees", "better", "worse", "not run", or empty without a published figure."""
        if not self.scores:
            return "not run"
        if self.published is None:
            return ""
        about = REPRODUCTIONS[self.experiment]
        return about.verdict(self.published, self.measured, about.metric in ERRORS)


@cache
def _composed(name: str, row: Row, runs: str) -> Config:
    words = [f"experiment=published/{name}", *row.overrides, f"runs={runs}"]
    return compose("train", [*words, "callbacks.progress=false"])


def configuration(name: str, row: Row, seed: int, runs: str) -> Config:
    """The configuration of a seed of a row."""
    return {**_composed(name, row, runs), "seed": seed}


def command(name: str, row: Row, seeds: int) -> str:
    """What repeats a row."""
    words = [shlex.quote(word) for word in row.overrides]
    seed = f"seed={','.join(map(str, range(seeds)))}"
    return " ".join(["python scripts/train.py -m", f"experiment=published/{name}", *words, seed])


def parameters(config: Config) -> int:
    """The size of a network, for ImageNet's images also without them."""
    if config["choices"]["data"] != "imagefolder":
        return prepare(config).plan.params
    layers = build_layers(config["layers"], config["basis"])
    return build_plan(config["model"], layers, IMAGENET, 1000).params


def outcome(name: str, label: str, runs: str) -> Outcome:
    """What finished runs of a row say; without any, its network is counted only."""
    about = REPRODUCTIONS[name]
    row = about.rows[label]
    configs, results = _finished(name, label, runs)
    base = _finished(name, about.beside, runs)[1] if about.beside else []
    known = results or [{"params": parameters(configs[0])}]
    return Outcome(
        name,
        label,
        row.published,
        tuple(r["test"][about.metric] for r in results),
        known[0]["params"],
        statistics.median([r["train_seconds"] for r in results]) if results else 0.0,
        known[0].get("machine") or "",
        command(name, row, about.seeds),
        statistics.fmean(r["test"][about.metric] for r in base) if base else 1.0,
    )


def _finished(name: str, label: str, runs: str) -> tuple[list[Config], list[dict[str, Any]]]:
    """The configurations of all seeds of a row, and the results of those that have finished."""
    about = REPRODUCTIONS[name]
    configs = [configuration(name, about.rows[label], s, runs) for s in range(about.seeds)]
    return configs, [r for c in configs if (r := RunDir.of(c).result()) is not None]


def with_known(outcome: Outcome, record: dict[str, Any] | None) -> Outcome:
    """The outcome, or what the page knew before where more seeds had run, elsewhere perhaps."""
    if not record or len(record["scores"]) <= len(outcome.scores):
        return outcome
    if (record["command"], record["published"]) != (outcome.command, outcome.published):
        return outcome
    kept = {key: record[key] for key in ("params", "seconds", "machine")}
    base = record.get("base", 1.0)
    return replace(outcome, scores=tuple(record["scores"]), base=base, **kept)


def table(outcomes: Sequence[Outcome]) -> str:
    """The page of all outcomes, a section an experiment."""
    lines = [HEAD]
    for name in dict.fromkeys(o.experiment for o in outcomes):
        about = REPRODUCTIONS[name]
        near = f"x{about.tolerance:g}" if about.is_factor else f"+-{about.tolerance:g}"
        lines += [
            f"## {name}\n",
            f"Source: {about.source}. Metric: test {about.metric}, tolerance {near}. "
            + (f"Figures are ratios to {about.beside}. " if about.beside else "")
            + (f"Differences: {about.note}. " if about.note else "")
            + (
                f"About {about.minutes:g} min a seed on one core. "
                if about.minutes
                else "For a GPU. "
            )
            + f"Recipe: `conf/experiment/published/{name}.yaml`.\n",
            "| network | parameters | published | here | n | difference | verdict | s a run |",
            "|---|--:|--:|--:|--:|--:|---|--:|",
        ]
        ours = [o for o in outcomes if o.experiment == name]
        lines += [_line(o) for o in ours]
        machines = ", ".join(sorted({o.machine for o in ours if o.machine}))
        lines += ["", f"On {machines}.\n" if machines else "Not run here.\n"]
        lines += ["```bash", *(o.command for o in ours), "```\n"]
    return "\n".join(lines)


def _line(outcome: Outcome) -> str:
    published = "-" if outcome.published is None else f"{outcome.published:.4g}"
    here, difference, seconds = "-", "-", "-"
    if outcome.scores:
        mean = statistics.fmean(outcome.scores)
        several = len(outcome.scores) > 1
        here = f"{mean:.4g}" + (f" ± {statistics.stdev(outcome.scores):.2g}" if several else "")
        seconds = f"{outcome.seconds:.0f}"
        if outcome.published is not None:
            difference = (
                f"x{outcome.measured / outcome.published:.2f}"
                if REPRODUCTIONS[outcome.experiment].is_factor
                else f"{outcome.measured - outcome.published:+.4f}"
            )
    cells = (outcome.row, f"{outcome.params:,}", published, here, str(len(outcome.scores)),
             difference, outcome.verdict, seconds)  # fmt: skip
    return f"| {' | '.join(cells)} |"


def planned(names: Sequence[str]) -> Iterator[tuple[str, str, int]]:
    """Experiment, row and seed of every run that one core can do, one seed of all rows first."""
    for name in names:
        about: Reproduction = REPRODUCTIONS[name]
        if about.minutes:
            for seed in range(about.seeds):
                yield from ((name, label, seed) for label in about.rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry of `scripts/reproduce.py`: run what is missing, write the page."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    parser = argparse.ArgumentParser(description="Repeat published figures; finished runs stay.")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(REPRODUCTIONS)}; default: all")
    parser.add_argument("--runs", default=RUNS, help="folder of the runs")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--show", action="store_true", help="write the page of what has finished")
    options = parser.parse_args(argv)
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    with user_errors():
        for name in options.names:
            check_name("reproduction", name, REPRODUCTIONS)
        todo = [] if options.show else list(planned(options.names or list(REPRODUCTIONS)))
        try:
            for i, (name, label, seed) in enumerate(todo):
                console.print(f"{i + 1}/{len(todo)}: {name}: {label}, seed {seed}")
                train(configuration(name, REPRODUCTIONS[name].rows[label], seed, options.runs))
        finally:
            file = options.page.with_suffix(".json")
            records = read_json(file) if file.is_file() else []
            known = {(record["experiment"], record["row"]): record for record in records}
            outcomes = [
                with_known(outcome(name, label, options.runs), known.get((name, label)))
                for name, about in REPRODUCTIONS.items()
                for label in about.rows
            ]
            write_atomic(options.page, table(outcomes))
            record = [{**vars(o), "verdict": o.verdict} for o in outcomes]
            write_atomic(file, json.dumps(record, indent=1))
            console.print(f"{options.page}: " + _summary(outcomes))
        if any(o.verdict == "worse" for o in outcomes):
            raise ValueError("a figure is worse than published, beyond its tolerance")


def _summary(outcomes: Sequence[Outcome]) -> str:
    verdicts = [o.verdict or "without a figure" for o in outcomes]
    return ", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts))
