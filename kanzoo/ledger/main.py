"""The command for ledgers: add finished runs, check, merge, show, and one page of all."""

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from kanzoo.ledger.page import write_page
from kanzoo.ledger.store import add, check_ledger, merge, read_ledger
from kanzoo.study.record import read_record
from kanzoo.study.verdict import interval_text

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
    chosen = parser.parse_args(words)
    try:
        _run(
            chosen,
            Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 140),
        )
    except (ValueError, OSError) as error:
        sys.stderr.write(f"kanzoo: {' '.join(str(error).split())}\n")
        raise SystemExit(2) from None


def _run(chosen: argparse.Namespace, console: Console) -> None:
    if chosen.command == "add":
        folder = chosen.ledger or ROOT / read_record(chosen.study).study.name
        console.print(f"{add(chosen.study, folder)} runs added to {folder}")
    elif chosen.command == "check":
        for folder in chosen.ledgers or sorted(path.parent for path in ROOT.glob("*/runs.csv")):
            console.print(f"{folder}: {check_ledger(folder)} runs, all conclusions follow")
    elif chosen.command == "merge":
        console.print(f"{merge(chosen.ledgers, chosen.out)} runs in {chosen.out}")
    elif chosen.command == "show":
        _show(chosen.ledger, console)
    else:
        out = chosen.out or chosen.folder / "index.html"
        write_page(chosen.folder, out)
        console.print(f"{out}")


def _show(folder: Path, console: Console) -> None:
    ledger = read_ledger(folder)
    table = Table(box=None, pad_edge=False, title=ledger.study.title, title_justify="left")
    names = ("data", "model", "match", "arm", "contrast", "verdict", "n_seeds")
    for name in (*names, "difference"):
        table.add_column(name.replace("n_seeds", "seeds"), overflow="fold")
    for row in json.loads((folder / "verdicts.json").read_text(encoding="utf-8")):
        ends = interval_text(row["ci_low"], row["ci_high"], "{:+.4g}".format)
        mean = "" if row["mean_difference"] is None else f"{row['mean_difference']:+.4g}"
        table.add_row(*(str(row[name]) for name in names), f"{mean} {ends}".strip())
    console.print(table)
    console.print(f"{len(ledger.runs)} runs", *ledger.record.lines, sep="\n")


if __name__ == "__main__":
    main()
