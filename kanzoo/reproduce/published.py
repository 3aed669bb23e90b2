"""Published figures repeated: runs of each experiment over seeds, a table beside the source's."""

import argparse
import hashlib
import json
import logging
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from rich.console import Console

from kanzoo import registry
from kanzoo.checks import check_name
from kanzoo.files import read_yaml, write_atomic
from kanzoo.hardware import machine
from kanzoo.models.build import build_layers, build_plan
from kanzoo.reproduce.by_test import TestScores, best_by_test
from kanzoo.reproduce.figures import REPRODUCTIONS, Reproduction, Row
from kanzoo.reproduce.kanbefair import SourceRun
from kanzoo.reproduce.outcomes import Key, Outcome, SeedRun, read_records, with_bases
from kanzoo.reproduce.page import summary, table
from kanzoo.run.command import stops, user_errors
from kanzoo.run.config import compose
from kanzoo.run.fit import train
from kanzoo.run.prepare import prepare
from kanzoo.rundir import Config, RunDir
from kanzoo.study.engines.local import LocalEngine
from kanzoo.study.plan import Cell
from kanzoo.study.run import Runner

RUNS = "runs/reproductions"
PAGE = Path("docs/reproductions.md")
IMAGENET = (3, 224, 224)


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


def planned(names: Sequence[str]) -> Iterator[tuple[str, str, int]]:
    """Experiment, row and seed of every run that one core can do, one seed of all rows first."""
    for name in names:
        about: Reproduction = REPRODUCTIONS[name]
        if about.minutes:
            for seed in range(max(map(about.seeds_of, about.rows.values()))):
                for label, row in about.rows.items():
                    if seed < about.seeds_of(row):
                        yield name, label, seed


def repeat(source_run: SourceRun) -> SeedRun:
    """Take the source's own steps, scored as the source scores: by the best epoch on its tests."""
    began = time.perf_counter()
    best = min(source_run.errors())
    return SeedRun(best, time.perf_counter() - began, machine(torch.device("cpu")))


def train_seed(config: Config) -> Config:
    """Train a run as its source does: with its scores on the test set, where it chooses by them."""
    about = REPRODUCTIONS[config["choices"]["experiment"].removeprefix("published/")]
    return train(config, [TestScores(RunDir.of(config).path, about.metric)] * about.by_test)


def run(todo: Sequence[tuple[str, str, int]], runs: str, workers: int | None) -> list[str]:
    """Train seeds of rows, as many at once as there are workers; what has finished stays.

    Returns a line for each that has no result.
    """
    cells = []
    for name, label, seed in todo:
        config = configuration(name, REPRODUCTIONS[name].rows[label], seed, runs)
        cells.append(Cell(name, label, "", "", seed, config, ()))
    with Runner(LocalEngine(workers=workers), Path(runs), train_seed, len(cells)) as runner:
        runner(cells)
    return [f"{cell.title}: {cell.folder.failure}" for cell in cells if not cell.folder.result()]


def main(argv: Sequence[str] | None = None) -> None:
    """Entry of `scripts/reproduce.py`: run what is missing, write the page."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    parser = argparse.ArgumentParser(description="Repeat published figures; finished runs stay.")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(REPRODUCTIONS)}; default: all")
    parser.add_argument("--runs", default=RUNS, help="folder of the runs")
    parser.add_argument("--workers", type=int, help="runs at once; default: one a core")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--show", action="store_true", help="write the page of what has finished")
    parser.add_argument(
        "--again", action="store_true", help="run what the page has and RUNS has not, too"
    )
    options = parser.parse_args(argv)
    with stops(), user_errors():
        for name in options.names:
            check_name("reproduction", name, REPRODUCTIONS)
        _reproduce(options)


def _reproduce(options: argparse.Namespace) -> None:
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    records = read_records(options.page.with_suffix(".json"))
    outcomes = _write_known(options.page, options.runs, records)
    names = [] if options.show else options.names or list(REPRODUCTIONS)
    todo = [t for t in planned(names) if options.again or t[2] not in outcomes[t[:2]].runs]
    failed: list[str] = []
    if todo:
        try:
            failed = run(todo, options.runs, options.workers)
        finally:
            outcomes = _write_known(options.page, options.runs, outcomes)
    for (name, label), known in outcomes.items():
        source_run = REPRODUCTIONS[name].rows[label].source_run
        if source_run and name in names and (options.again or known.its_seed is None):
            console.print(f"{name}: {label}, by the source's own steps")
            outcomes[name, label] = replace(known, its_seed=repeat(source_run))
            _write(options.page, list(outcomes.values()))
    judged = with_bases(outcomes.values())
    console.print(f"{options.page}: " + summary(judged))
    worse = [f"{o.experiment}: {o.row}" for o in judged if o.verdict == "worse"]
    wrong = [f"{len(failed)} of {len(todo)} runs failed: {'; '.join(failed)}"] * bool(failed)
    wrong += [f"worse than published, beyond the tolerance: {'; '.join(worse)}"] * bool(worse)
    if wrong:
        raise ValueError("; ".join(wrong))


def _write_known(page: Path, runs: str, earlier: Mapping[Key, Outcome]) -> dict[Key, Outcome]:
    """Write what an earlier page and the finished runs say."""
    outcomes = {
        (name, label): outcome(name, label, runs, earlier.get((name, label)))
        for name, about in REPRODUCTIONS.items()
        for label in about.rows
    }
    _write(page, list(outcomes.values()))
    return outcomes


def _write(page: Path, outcomes: Sequence[Outcome]) -> None:
    """Write the page, and beside it what the next call goes on from.

    What another process has written meanwhile stays.
    """
    meanwhile = read_records(page.with_suffix(".json"))
    judged = with_bases(o.joined(meanwhile.get((o.experiment, o.row))) for o in outcomes)
    write_atomic(page, table(judged))
    text = json.dumps([outcome.record() for outcome in judged], indent=1)
    write_atomic(page.with_suffix(".json"), text)
