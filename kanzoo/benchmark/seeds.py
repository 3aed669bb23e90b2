"""Seeds of one cell trained together against the same seeds one after the other.

Both ways write complete runs on digits, in one process, alternately: data, networks, training,
evaluation and files are part of the time.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from kanzoo.benchmark.rows import empty_table
from kanzoo.benchmark.timing import compare
from kanzoo.run.config import compose
from kanzoo.run.fit import train
from kanzoo.run.seeds import train_seeds

NUM_SEEDS = 8
CELLS = {
    "MLP 64": ("layers=mlp", "model.width=64"),
    "MLP 256": ("layers=mlp",),
    "KAN at the parameters of MLP 256": ("layers=kan_activated", "basis=bspline"),
}
# As in `study=demo`.
RECIPE = ("data=digits", "model=mlp", "data.batch_size=64", "optim.lr=0.005", "logger=csv")


@dataclass(frozen=True)
class Row:
    """Median seconds of `num_seeds` runs, and the median of the ratios of neighbours."""

    cell: str
    num_seeds: int
    epochs: int
    together_s: float
    separate_s: float
    speedup: float


def measure(rounds: int, epochs: int = 12) -> Iterator[Row]:
    """Time every cell in `rounds` pairs, after one of each to warm up."""
    for name, words in CELLS.items():
        with tempfile.TemporaryDirectory() as folder:
            yield _row(name, words, folder, rounds, epochs)


def _row(name: str, words: tuple[str, ...], folder: str, rounds: int, epochs: int) -> Row:
    common = ("callbacks.progress=false", "overwrite=true", f"trainer.max_epochs={epochs}")
    config = compose("train", [*RECIPE, *words, *common])

    def configs(way: str) -> list[dict[str, Any]]:
        return [{**config, "runs": f"{folder}/{way}", "seed": seed} for seed in range(NUM_SEEDS)]

    def separate() -> None:
        for one in configs("separate"):
            train(one)

    def together() -> None:
        if any(train_seeds(configs("together"))):
            raise RuntimeError(f"seeds of {name} cannot be trained together")

    times = compare(separate, together, rounds, warmup=1)
    return Row(name, NUM_SEEDS, epochs, times.limit, times.candidate, times.ratio)


def shown(rows: Sequence[Row]) -> Table:
    """A row a cell."""
    numbers = ("together s", "one by one s", "times faster")
    table = empty_table(f"{rows[0].num_seeds} runs on digits", ["cell"], numbers)
    for row in rows:
        values = (row.together_s, row.separate_s, row.speedup)
        table.add_row(row.cell, *(f"{value:.2f}" for value in values))
    return table
