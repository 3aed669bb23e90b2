"""Two finished studies side by side: what changes from one to the other, arm by arm.

Studies of other data, another recipe or another version of the code are compared after the fact, by
the seeds that they have in common: no look was planned for it, and the report says so.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd
from rich.console import Console

from kanzoo.checks import value_text
from kanzoo.ledger.store import TEXTS, read_ledger, read_table, with_items
from kanzoo.rundir import flatten
from kanzoo.settings import StudyConfig
from kanzoo.study.controls import control_arms
from kanzoo.study.pairs import SCORED
from kanzoo.study.plan import active_axes
from kanzoo.study.record import FILE, read_record
from kanzoo.study.report.write import verdict_table, write_report
from kanzoo.study.stats import verdicts
from kanzoo.study.verdict import Verdict

log = logging.getLogger("kanzoo")

PLACE = ("data", "model", "match", "arm")
MAX_NAMED = 12  # keys in which the studies differ that the report lists


@dataclass(frozen=True)
class Side:
    """A finished study: its name in the comparison, what it declares, and a row a run."""

    name: str
    study: StudyConfig
    runs: pd.DataFrame


def compare_with(other: str, folder: Path, command: str) -> None:
    """Compare the study in a folder with another one, a folder or a name beside it, and show it."""
    second = Path(other) if Path(other).is_dir() else folder.parent / other
    found, page = write_comparison(folder, second, command)
    Console(markup=False, width=None if sys.stdout.isatty() else 100).print(verdict_table(found))
    log.info("report: %s", page)


def write_comparison(first: Path, second: Path, command: str) -> tuple[list[Verdict], Path]:
    """Compare the study in a folder with that in another; the verdicts, and the report's page.

    Both may be folders of reported studies or ledgers. The report is written below the first.
    Raises `ValueError` of one line for studies that have nothing to compare.
    """
    out = first / f"against-{second.name}"
    with tempfile.TemporaryDirectory() as items:
        sides = [_read(path, out, Path(items) / str(i)) for i, path in enumerate((first, second))]
        if sides[0].name == sides[1].name:
            sides = [replace(side, name=str(path)) for side, path in zip(sides, (first, second),
                                                                         strict=True)]  # fmt: skip
        a, b = in_common(*with_common_data(*sides))
        axes = active_axes(a.study)
        table = pd.concat([side.runs.assign(study=side.name) for side in (a, b)])
        table = table.reset_index(drop=True)
        found = changes(table, a, b, axes)
        has_levels = bool(sides[0].runs["data"].isin(sides[1].runs["data"]).any())
        if has_levels:
            found += levels(table, a, b, axes)
    paths = write_report(
        out, table, found, axes=[*axes, "study"], title=f"{a.name} against {b.name}",
        question=f"What changes from {b.name} to {a.name}, in the differences of arms from "
        f"{a.study.baseline}" + (" and in the scores of each arm?" if has_levels else "?"),
        protocol=protocol(a, b, has_levels), settings={"baseline": a.study.baseline},
        environment={a.name: str(first), b.name: str(second)}, command=command, runs=out,
    )  # fmt: skip
    return found, paths["index.html"]


def changes(table: pd.DataFrame, a: Side, b: Side, axes: list[str]) -> list[Verdict]:
    """The differences from the baseline in each study, and how they change."""
    family = table["arm"].isin(control_arms(a.study)).map({True: "secondary", False: "primary"})
    return verdicts(
        table.assign(family=family), a.study.baseline, margin=_margin(table, a.study),
        ratio_margin=a.study.ratio_margin, alpha=a.study.alpha, axes=[*axes, "study"],
        changes={"study": b.name},
    )  # fmt: skip


def levels(table: pd.DataFrame, a: Side, b: Side, axes: list[str]) -> list[Verdict]:
    """Each arm in the first study against itself in the second, by the scores themselves."""
    turned = table.assign(arm=table["study"], of_arm=table["arm"], family="contrasts")
    found = verdicts(
        turned, b.name, margin=_margin(table, a.study), ratio_margin=a.study.ratio_margin,
        alpha=a.study.alpha, axes=[*axes, "of_arm"],
    )  # fmt: skip
    return [
        replace(
            v, arm=v.axes["of_arm"], baseline=a.study.baseline, contrast=f"against {b.name}",
            axes={**{k: x for k, x in v.axes.items() if k != "of_arm"}, "study": a.name},
        )
        for v in found
    ]  # fmt: skip


def with_common_data(a: Side, b: Side) -> tuple[Side, Side]:
    """The studies, their data under one name where each has one data set, and these differ."""
    names = [sorted(set(side.runs["data"])) for side in (a, b)]
    if len(names[0]) == len(names[1]) == 1 and names[0] != names[1]:
        both = f"{names[0][0]} | {names[1][0]}"
        a, b = (replace(side, runs=side.runs.assign(data=both)) for side in (a, b))
    return a, b


def in_common(a: Side, b: Side) -> tuple[Side, Side]:
    """What both studies have in common; `ValueError` where that is nothing to compare."""
    axes, others = (active_axes(side.study) for side in (a, b))
    if set(axes) != set(others):
        named = [", ".join(each) or "none" for each in (axes, others)]
        raise ValueError(f"the studies have other axes: {named[0]} and {named[1]}")
    if a.study.baseline != b.study.baseline:
        raise ValueError(
            f"the studies have other baselines: {a.study.baseline} and {b.study.baseline}"
        )
    places = [side.runs[[*PLACE, *axes]].astype(str).agg(tuple, axis=1) for side in (a, b)]
    metrics = [dict(zip(keys, side.runs["metric"], strict=True))
               for keys, side in zip(places, (a, b), strict=True)]  # fmt: skip
    shared = metrics[0].keys() & metrics[1].keys()
    if all(place[3] == a.study.baseline for place in shared):
        each = [", ".join(sorted({" ".join(p) for p in found})[:3]) for found in metrics]
        raise ValueError(f"the studies have no arm in common: {each[0]} ... and {each[1]} ...")
    for place in sorted(shared):
        one, other = (found[place] for found in metrics)
        if one != other:
            raise ValueError(f"{' '.join(place)} is judged by {one} in one study, by {other} in "
                             "the other")  # fmt: skip
    if not set(a.runs["seed"]) & set(b.runs["seed"]):
        raise ValueError("the studies have no seed in common")
    a, b = (replace(side, runs=side.runs[keys.isin(shared)])
            for side, keys in zip((a, b), places, strict=True))  # fmt: skip
    return a, b


def protocol(a: Side, b: Side, has_levels: bool) -> list[str]:
    """What the comparison stands on, a sentence or two for each point."""
    ours, theirs = (flatten(asdict(side.study)) for side in (a, b))
    keys = [k for k in sorted({*ours, *theirs}) if ours.get(k) != theirs.get(k)]
    keys = [k for k in keys if k not in ("name", "title", "question")]
    named = [f"{k} ({value_text(ours.get(k))} against {value_text(theirs.get(k))})"
             for k in keys[:MAX_NAMED]]  # fmt: skip
    more = f" and {len(keys) - MAX_NAMED} more" if len(keys) > MAX_NAMED else ""
    lines = [
        "Both studies were finished before: no look was planned for this comparison, and it has "
        "families of its own.",
        "Runs of the same seed make pairs; margin and level are those of the first study.",
        f"Rows \"change from study {b.name}\" subtract the arm's difference from its baseline "
        "there from that here.",
        f"The studies declare different {', '.join(named)}{more}." if keys
        else "The studies declare the same: what differs is the code, the machine or chance.",
    ]  # fmt: skip
    if has_levels:
        lines.append(f'Rows "against {b.name}" subtract the arm\'s scores there from those here.')
    else:
        lines.append("The data differ, so that scores themselves are not compared.")
    return lines


def _read(folder: Path, out: Path, items: Path) -> Side:
    report = folder / "report" / "results.csv"
    if (folder / "runs.csv").is_file():
        ledger = read_ledger(folder)
        items.mkdir()
        runs = with_items(ledger, items).assign(run_dir="")
        return Side(folder.name, ledger.study, runs)
    if not report.is_file() or not (folder / FILE).is_file():
        raise ValueError(f"{folder} is neither a reported study nor a ledger")
    study = read_record(folder).study
    runs = read_table(report, [*TEXTS, *active_axes(study)])
    runs = runs[runs["status"].isin(SCORED)].reset_index(drop=True)
    paths = [folder / run for run in runs["run_dir"]]
    runs["items"] = [str(p / "items.npz") if (p / "items.npz").is_file() else "" for p in paths]
    runs["run_dir"] = [os.path.relpath(path, out) for path in paths]
    return Side(folder.name, study, runs)


def _margin(table: pd.DataFrame, study: StudyConfig) -> Mapping[str, float]:
    if isinstance(study.margin, dict):
        return study.margin
    return dict.fromkeys(set(table["metric"]), study.margin)
