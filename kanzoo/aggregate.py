"""The command that aggregates several finished studies over their tasks."""

import argparse
import json
import sys
from pathlib import Path

COLUMNS = {
    "group": "tasks of", "arm": "arm", "tasks": "k", "mean": "mean effect", "tau": "tau",
    "p": "p", "new": "new task", "p_new": "P(new > 0)", "iqm": "IQM",
    "wins": "won / tied / lost / open",
}  # fmt: skip


def main(words: list[str] | None = None) -> None:
    """Entry of `scripts/aggregate.py`."""
    from kanzoo.files import write_atomic
    from kanzoo.page.style import save
    from kanzoo.run.command import stops, user_errors
    from kanzoo.study.pool import aggregate_effects, pooled_rows, read_effects
    from kanzoo.study.report.tasks import picture

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("studies", nargs="+", type=Path, help="folders of finished studies")
    parser.add_argument("--alpha", type=float, default=0.05, help="level of intervals")
    parser.add_argument(
        "--out", type=Path, default=Path("aggregate.json"), help="the file to write"
    )
    parser.add_argument("--picture", type=Path, help="also draw all effects: a .svg, .png or .pdf")
    chosen = parser.parse_args(words)
    with stops("nothing is aggregated"), user_errors():
        if not 0 < chosen.alpha < 1:
            raise ValueError(f"--alpha must lie between 0 and 1, got {chosen.alpha}")
        if chosen.picture is not None and chosen.picture.suffix not in (".svg", ".png", ".pdf"):
            raise ValueError(f"--picture must end in .svg, .png or .pdf, got {chosen.picture}")
        effects = [effect for folder in chosen.studies for effect in read_effects(folder)]
        if not effects:
            raise ValueError("these studies have no finished primary comparison")
        record = aggregate_effects(effects, chosen.alpha)
        if chosen.picture is not None:
            save(picture(effects, record["arms"]), chosen.picture)
        record["studies"] = [str(folder) for folder in chosen.studies]
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(chosen.out, json.dumps(record, indent=1, allow_nan=False) + "\n")
    _print(pooled_rows(record["arms"]), record["ranks"])


def _print(rows: list[dict[str, str]], ranks: dict[str, dict[str, object] | None]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in COLUMNS.values():
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(row[name] for name in COLUMNS))
    console = Console(markup=False, width=None if sys.stdout.isatty() else 140)
    console.print(table)
    for group, ranking in ranks.items():
        if ranking is not None:
            console.print(f"average ranks, tasks of {group}: {ranking}", highlight=False)


if __name__ == "__main__":
    main()
