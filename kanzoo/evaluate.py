"""The command that evaluates a finished run again from its folder."""

import logging
from pathlib import Path

from kanzoo import registry
from kanzoo.run.config import Config, run_command, user_errors
from kanzoo.run.load import SPLITS, load_run


def main() -> None:
    """Entry of `scripts/evaluate.py`."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run_command("evaluate", _job)


def _job(config: Config) -> None:
    split = config["split"]
    with user_errors():
        registry.check_name("split", split, SPLITS)
        run = load_run(Path(config["run"]), config["checkpoint"], config["root"])
        scores = run.evaluate(split)
    from rich.console import Console
    from rich.table import Table

    title = f"{config['run']}, checkpoint {config['checkpoint']}"
    table = Table(title=title, title_justify="left", show_header=False)
    for name, value in scores.items():
        table.add_row(f"{split} {name}", f"{value:.4g}")
    Console().print(table)
