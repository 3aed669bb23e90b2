"""The command for ledgers: add runs, check, merge, show, repeat, release; one page of all."""

import argparse
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from kanzoo.errors import BUSY_CODE, BusyError
from kanzoo.ledger.grow import add, merge
from kanzoo.ledger.missing import missing
from kanzoo.ledger.page import write_page
from kanzoo.ledger.release import release
from kanzoo.ledger.repeat import draw, repeat
from kanzoo.ledger.store import Ledger, read_ledger, read_verdicts
from kanzoo.ledger.verify import check_ledger
from kanzoo.run.command import shown, stops, user_errors
from kanzoo.study.plan import active_axes
from kanzoo.study.record import read_record
from kanzoo.study.verdict import interval_text
from kanzoo.zoo import RELEASE

ROOT = Path("docs/studies")


def main(words: list[str] | None = None) -> None:
    """Entry of `scripts/ledger.py`."""
    parser = argparse.ArgumentParser(prog="ledger.py", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    each = commands.add_parser("add", help="add the finished runs of a study to its ledger")
    each.add_argument("study", type=Path, help="the study's folder, as runs/demo")
    each.add_argument("--ledger", type=Path, help="default: docs/studies/NAME")
    each = commands.add_parser("check", help="recompute every verdict and aggregate")
    each.add_argument("ledgers", type=Path, nargs="*", help="default: all below docs/studies")
    each = commands.add_parser("merge", help="join ledgers of one protocol")
    each.add_argument("ledgers", type=Path, nargs="+")
    each.add_argument("--out", type=Path, required=True)
    each = commands.add_parser("show", help="print the verdicts of a ledger")
    each.add_argument("ledger", type=Path)
    each = commands.add_parser("page", help="render all ledgers to one page")
    each.add_argument("folder", type=Path, nargs="?", default=ROOT)
    each.add_argument("--out", type=Path, help="default: FOLDER/index.html")
    each = commands.add_parser("repeat", help="train random runs of ledgers again, and compare")
    each.add_argument("ledgers", type=Path, nargs="*", help="default: all below docs/studies")
    each.add_argument("--cells", type=int, default=10, help="how many")
    each.add_argument("--seed", type=int, default=0, help="of the draw")
    each.add_argument("--runs", default="runs/repeated", help="folder of the runs")
    each = commands.add_parser("release", help="release the best networks as members of the zoo")
    each.add_argument("ledgers", type=Path, nargs="*", help="default: all below docs/studies")
    each.add_argument("--runs", type=Path, default=Path("runs"), help="folder of their studies")
    each.add_argument("--out", type=Path, default=RELEASE)
    chosen = parser.parse_args(words)
    width = None if sys.stdout.isatty() else 140
    try:
        with stops(), user_errors():
            _run(chosen, Console(highlight=False, markup=False, width=width))
    except BusyError as error:
        sys.stderr.write(f"kanzoo: {shown(error)}\n")
        raise SystemExit(BUSY_CODE) from None


def _run(chosen: argparse.Namespace, console: Console) -> None:
    known = sorted(path.parent for path in ROOT.glob("*/runs.csv"))
    if chosen.command in ("check", "repeat", "release") and not (chosen.ledgers or known):
        raise ValueError(f"there is no ledger below {ROOT}: name some, or add one")
    if chosen.command == "add":
        folder = chosen.ledger or ROOT / read_record(chosen.study).study.name
        console.print(f"{add(chosen.study, folder)} runs added to {folder}")
    elif chosen.command == "check":
        for folder in chosen.ledgers or known:
            console.print(f"{folder}: {check_ledger(folder)} runs, all conclusions follow")
    elif chosen.command == "merge":
        console.print(f"{merge(chosen.ledgers, chosen.out)} runs in {chosen.out}")
    elif chosen.command == "show":
        _show(chosen.ledger, console)
    elif chosen.command == "repeat":
        _repeat(draw(chosen.ledgers or known, chosen.cells, chosen.seed), chosen.runs, console)
    elif chosen.command == "release":
        count = release(chosen.ledgers or known, chosen.runs, chosen.out)
        console.print(f"{count} members in {chosen.out}")
    else:
        out = chosen.out or chosen.folder / "index.html"
        write_page(chosen.folder, out)
        console.print(f"{out}")


def _show(folder: Path, console: Console) -> None:
    ledger = read_ledger(folder)
    table = Table(box=None, pad_edge=False, title=ledger.study.title, title_justify="left")
    axes = active_axes(ledger.study)
    names = ("data", "model", "match", *axes, "arm", "contrast", "verdict", "n_seeds")
    for name in (*names, "difference"):
        table.add_column(name.replace("n_seeds", "seeds"), overflow="fold")
    for row in read_verdicts(folder):
        ends = interval_text(row["ci_low"], row["ci_high"], "{:+.4g}".format)
        mean = "" if row["mean_difference"] is None else f"{row['mean_difference']:+.4g}"
        table.add_row(*(str(row[name]) for name in names), f"{mean} {ends}".strip())
    console.print(table)
    console.print(f"{len(ledger.runs)} runs", *missing(ledger), *ledger.record.lines, sep="\n")


def _repeat(rows: list[tuple[str, Ledger, dict[str, Any]]], runs: str, console: Console) -> None:
    verdicts = []
    for name, ledger, row in rows:
        found = repeat(name, ledger, row, runs)
        ours, theirs = found.machines
        where = "" if ours == theirs else f"; there {ours}, here {theirs}"
        console.print(
            f"{found.verdict}: {found.name}: {found.committed:.6g} in the ledger, {found.here:.6g} "
            f"here, {found.deviations:+.2g} deviations over seeds{where}",
            soft_wrap=True,
        )
        verdicts.append(found.verdict)
    console.print(", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts)))
    if "differs" in verdicts:
        raise ValueError("a run differs from the ledger beyond the noise of its seeds")


if __name__ == "__main__":
    main()
