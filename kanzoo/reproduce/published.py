"""Published figures repeated: runs of each experiment over seeds, a table beside the source's."""

import argparse
import hashlib
import json
import logging
import shlex
import statistics
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from rich.console import Console

from kanzoo import registry
from kanzoo.checks import check_name
from kanzoo.files import read_yaml, write_atomic
from kanzoo.models.build import build_layers, build_plan
from kanzoo.reproduce.by_test import TestScores, best_by_test
from kanzoo.reproduce.figures import REPRODUCTIONS, Reproduction, Row
from kanzoo.reproduce.outcomes import Key, Outcome, SeedRun, read_records, with_bases
from kanzoo.run.command import user_errors
from kanzoo.run.config import compose
from kanzoo.run.fit import train
from kanzoo.run.prepare import prepare
from kanzoo.rundir import Config, RunDir

RUNS = "runs/reproductions"
PAGE = Path("docs/reproductions.md")
HEAD = """# Published figures, repeated

Written by `make reproduce`, which runs what this page does not have yet. Every row is the mean and
deviation of n seeds; "agrees" is within the tolerance, "better" and "worse" are beyond it. Where
the source has one run, "within seeds" is beyond the tolerance, too, but 95 % of our single runs are
expected in an interval that holds its figure. A network that was not run is composed and counted.
Some sources take the best epoch by their test set: "source's rule" is what that would change here,
in the n runs in which it was followed; all else is of the epoch that validation data chose.
"""
IMAGENET = (3, 224, 224)
DIFFERING = ("better", "worse", "within seeds")


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


def recipe(name: str, row: Row) -> str:
    """What tells the recipe of a row from any other: its file but for comments, its overrides."""
    content = [read_yaml(registry.files("experiment")[f"published/{name}"]), row.overrides]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def parameters(config: Config) -> int:
    """The size of a network, for ImageNet's images also without them."""
    if config["choices"]["data"] != "imagefolder":
        return prepare(config).plan.params
    layers = build_layers(config["layers"], config["basis"])
    return build_plan(config["model"], layers, IMAGENET, 1000).params


def outcome(name: str, label: str, runs: str, earlier: Outcome | None = None) -> Outcome:
    """What finished runs of a row say, and an earlier page; without any, its network is counted."""
    about = REPRODUCTIONS[name]
    row = about.rows[label]
    found = {}
    for seed in range(about.seeds_of(row)):
        folder = RunDir.of(configuration(name, row, seed, runs))
        if (result := folder.result()) is not None:
            found[seed] = SeedRun(
                result["test"][about.metric],
                result["train_seconds"],
                result.get("machine") or "",
                best_by_test(folder.path, about.is_error),
            )
    identity = recipe(name, row)
    known = earlier is not None and earlier.recipe == identity
    size = earlier.params if earlier and known else parameters(configuration(name, row, 0, runs))
    line = command(name, row, about.seeds_of(row))
    return Outcome(name, label, row.published, identity, line, size, found).joined(earlier)


def table(outcomes: Sequence[Outcome]) -> str:
    """The page of all outcomes, a section an experiment."""
    lines = [HEAD]
    for name in dict.fromkeys(o.experiment for o in outcomes):
        about = REPRODUCTIONS[name]
        near = f"x{about.tolerance:g}" if about.is_factor else f"+-{about.tolerance:g}"
        rule = ["source's rule"] if about.by_test else []
        heads = ["network", "parameters", "published", "here", *rule, "n", "difference", "verdict"]
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
            f"| {' | '.join(heads)} | s a run |",
            "|---|" + "--:|" * (len(heads) - 2) + "---|--:|",
        ]
        ours = [o for o in outcomes if o.experiment == name]
        lines += [_line(o) for o in ours]
        differing = [o for o in ours if o.verdict in DIFFERING]
        if differing:
            lines += ["", "Where we differ:", ""]
            lines += [_difference(o) for o in differing]
        machines = ", ".join(sorted({run.machine for o in ours for run in o.runs.values()}))
        lines += ["", f"On {machines}.\n" if machines else "Not run here.\n"]
        lines += ["```bash", *(o.command for o in ours), "```\n"]
    return "\n".join(lines)


def _difference(outcome: Outcome) -> str:
    """A row beyond the tolerance: how far its seeds are apart, and why it differs."""
    reason = REPRODUCTIONS[outcome.experiment].rows[outcome.row].reason or "no cause was found"
    low, high = min(outcome.scores), max(outcome.scores)
    ends = outcome.single
    single = f", 95 % of single runs expected from {ends[0]:.3g} to {ends[1]:.3g}" if ends else ""
    return f"- {outcome.row}: seeds from {low:.3g} to {high:.3g}{single}; {reason}."


def _line(outcome: Outcome) -> str:
    about = REPRODUCTIONS[outcome.experiment]
    published = "-" if outcome.published is None else f"{outcome.published:.4g}"
    here, difference, seconds = "-", "-", "-"
    if outcome.runs:
        here = _mean(outcome.scores)
        seconds = f"{statistics.median(run.seconds for run in outcome.runs.values()):.0f}"
        if outcome.published is not None:
            difference = (
                f"x{outcome.measured / outcome.published:.2f}"
                if about.is_factor
                else f"{outcome.measured - outcome.published:+.4f}"
            )
    rule = [_changed_by_rule(outcome)] if about.by_test else []
    cells = (outcome.row, f"{outcome.params:,}", published, here, *rule, str(len(outcome.runs)),
             difference, outcome.verdict, seconds)  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _changed_by_rule(outcome: Outcome) -> str:
    """What the best epoch by the test set would change, in the runs in which it was followed."""
    pairs = [(run.by_test, run.score) for run in outcome.runs.values() if run.by_test is not None]
    if not pairs:
        return "-"
    if REPRODUCTIONS[outcome.experiment].is_factor:
        return f"x{statistics.fmean(best / own for best, own in pairs):.2f} (n = {len(pairs)})"
    return f"{statistics.fmean(best - own for best, own in pairs):+.4f} (n = {len(pairs)})"


def _mean(scores: Sequence[float]) -> str:
    deviation = f" ± {statistics.stdev(scores):.2g}" if len(scores) > 1 else ""
    return f"{statistics.fmean(scores):.4g}{deviation}"


def planned(names: Sequence[str]) -> Iterator[tuple[str, str, int]]:
    """Experiment, row and seed of every run that one core can do, one seed of all rows first."""
    for name in names:
        about: Reproduction = REPRODUCTIONS[name]
        if about.minutes:
            for seed in range(max(map(about.seeds_of, about.rows.values()))):
                for label, row in about.rows.items():
                    if seed < about.seeds_of(row):
                        yield name, label, seed


def run(name: str, label: str, seed: int, runs: str) -> None:
    """Train a seed of a row, or find it finished."""
    about = REPRODUCTIONS[name]
    config = configuration(name, about.rows[label], seed, runs)
    folder = RunDir.of(config).path
    train(config, [TestScores(folder, about.metric)] if about.by_test else [])


def main(argv: Sequence[str] | None = None) -> None:
    """Entry of `scripts/reproduce.py`: run what is missing, write the page."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    parser = argparse.ArgumentParser(description="Repeat published figures; finished runs stay.")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(REPRODUCTIONS)}; default: all")
    parser.add_argument("--runs", default=RUNS, help="folder of the runs")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--show", action="store_true", help="write the page of what has finished")
    parser.add_argument("--again", action="store_true", help="run what the page has already, too")
    options = parser.parse_args(argv)
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    file = options.page.with_suffix(".json")
    with user_errors():
        for name in options.names:
            check_name("reproduction", name, REPRODUCTIONS)
        earlier = read_records(file)
        outcomes: dict[Key, Outcome] = {
            (name, label): outcome(name, label, options.runs, earlier.get((name, label)))
            for name, about in REPRODUCTIONS.items()
            for label in about.rows
        }
        _write(options.page, list(outcomes.values()))
        todo = [] if options.show else list(planned(options.names or list(REPRODUCTIONS)))
        todo = [t for t in todo if options.again or t[2] not in outcomes[t[:2]].runs]
        for i, (name, label, seed) in enumerate(todo):
            console.print(f"{i + 1}/{len(todo)}: {name}: {label}, seed {seed}")
            run(name, label, seed, options.runs)
            outcomes[name, label] = outcome(name, label, options.runs, outcomes[name, label])
            _write(options.page, list(outcomes.values()))
        judged = with_bases(outcomes.values())
        console.print(f"{options.page}: " + _summary(judged))
        worse = [f"{o.experiment}: {o.row}" for o in judged if o.verdict == "worse"]
        if worse:
            raise ValueError(f"worse than published, beyond the tolerance: {'; '.join(worse)}")


def _write(page: Path, outcomes: Sequence[Outcome]) -> None:
    """Write the page, and beside it what the next call goes on from."""
    judged = with_bases(outcomes)
    write_atomic(page, table(judged))
    text = json.dumps([outcome.record() for outcome in judged], indent=1)
    write_atomic(page.with_suffix(".json"), text)


def _summary(outcomes: Sequence[Outcome]) -> str:
    verdicts = [o.verdict or "without a figure" for o in outcomes]
    return ", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts))
