"""Every architecture trained in one of several processes: `torchrun ... processes.py FOLDER ...`.

python processes.py FOLDER STRATEGY PRECISION STOP [ARCHITECTURES ...]

A run that is stopped before its epoch STOP (0: never) is gone on with by the next call, by however
many processes.
"""

import sys
from pathlib import Path
from typing import Any

from kanzoo.run.config import compose
from kanzoo.run.fit import train
from kanzoo.training.task import Task

EPOCHS = 5  # of ten steps
ARCHITECTURES = {
    "mlp": ["layers=kan", "model.width=8"],
    "resmlp": ["layers=kan", "model.width=8", "model.depth=1"],
    "convnet": ["layers=kan", "model.width=4"],
    "resnet": ["layers=kan", "model.width=4"],
    "vit": ["layers=kan_ffn", "model.width=8", "model.heads=2", "model.depth=2"],
    "mixer": ["layers=kan", "model.width=8", "model.depth=2"],
    "graph": ["layers=kan", "model.width=8", "model.depth=2", "data=digits_graph"],
    "unet": ["layers=kan", "model.width=4", "data=digits_segment"],
    "rnn": ["layers=kan", "model.width=8", "data=digits_rows"],
    "gpt": [
        *("layers=kan_ffn", "model.width=8", "model.heads=2", "model.depth=2", "data=python_docs"),
        *("data.block_size=8", "data.limit_val=32", "data.limit_test=32"),
    ],
    "linear": ["layers=kan"],
}


class StoppedError(Exception):
    """As if the machine had gone."""


def words_of(name: str, runs: Path, strategy: str, precision: str) -> list[str]:
    """The overrides of a run of 50 steps."""
    return [
        *(f"model={name}", *ARCHITECTURES[name], f"runs={runs}", "match=none", "logger=csv"),
        *("callbacks.progress=false", f"trainer.max_epochs={EPOCHS}", "data.limit_train=160"),
        *("data.batch_size=16", "optim=sgd", "optim.lr=0.005", f"trainer.precision={precision}"),
        *("trainer.accelerator=cpu", f"trainer.strategy={strategy}"),
    ]


def train_all(
    runs: Path, strategy: str, precision: str, stop: int, names: list[str], *devices: str
) -> None:
    """Train architectures one after the other."""
    plain = Task.on_train_epoch_start

    def stopping(self: Any) -> None:
        if stop and self.current_epoch == stop:
            raise StoppedError
        plain(self)

    Task.on_train_epoch_start = stopping  # type: ignore[method-assign]
    try:
        for name in names:
            try:
                train(compose("train", [*words_of(name, runs, strategy, precision), *devices]))
            except StoppedError:
                continue
    finally:
        Task.on_train_epoch_start = plain  # type: ignore[method-assign]


if __name__ == "__main__":
    import os

    folder, strategy, precision, stop, *names = sys.argv[1:]
    count = f"trainer.devices={os.environ.get('LOCAL_WORLD_SIZE', '1')}"
    train_all(Path(folder), strategy, precision, int(stop), names or list(ARCHITECTURES), count)
