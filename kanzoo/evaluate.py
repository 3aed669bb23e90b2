"""The command that evaluates a finished run again from its folder."""

from pathlib import Path

from kanzoo.checks import build
from kanzoo.run.command import run_command, user_errors
from kanzoo.run.load import load_run
from kanzoo.rundir import Config
from kanzoo.settings import EvaluateConfig


def main() -> None:
    """Entry of `scripts/evaluate.py`."""
    run_command("evaluate", _job)


def _job(config: Config) -> None:
    with user_errors():
        options = build(EvaluateConfig, config)
        run = load_run(Path(options.run), options.checkpoint, options.root)
        scores = run.evaluate(options.split)
    from rich.console import Console
    from rich.table import Table

    title = f"{options.run}, checkpoint {options.checkpoint}"
    table = Table(title=title, title_justify="left", show_header=False)
    for name, value in scores.items():
        table.add_row(f"{options.split} {name}", f"{value:.4g}")
    Console(markup=False, emoji=False).print(table)
