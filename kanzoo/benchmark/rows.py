"""How the rows of a benchmark are shown."""

from collections.abc import Sequence

from rich.table import Table


def empty_table(title: str, words: Sequence[str], numbers: Sequence[str]) -> Table:
    """A table without rows, of columns of words and then of numbers."""
    table = Table(title=title, title_justify="left")
    for name in words:
        table.add_column(name)
    for name in numbers:
        table.add_column(name, justify="right")
    return table
