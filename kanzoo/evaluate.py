"""The command that evaluates a finished run again from its folder."""

from pathlib import Path

from kanzoo.checks import build
from kanzoo.run.command import run_command, user_errors
from kanzoo.run.load import load_member, load_run
from kanzoo.rundir import Config
from kanzoo.settings import EvaluateConfig
from kanzoo.zoo import PREFIX


def main() -> None:
    """Entry of `scripts/evaluate.py`."""
    run_command("evaluate", _job)


def _job(config: Config) -> None:
    with user_errors():
        options = build(EvaluateConfig, config)
        is_member = options.run.startswith(PREFIX)
        if is_member:
            run = load_member(options.run, options.root)
        else:
            run = load_run(Path(options.run), options.checkpoint, options.root)
        scores = run.evaluate(options.split)
    from rich.console import Console
    from rich.table import Table

    title = options.run + ("" if is_member else f", checkpoint {options.checkpoint}")
    table = Table(title=title, title_justify="left", show_header=False)
    for name, value in scores.items():
        table.add_row(f"{options.split} {name}", f"{value:.4g}")
    Console(markup=False, emoji=False).print(table)
