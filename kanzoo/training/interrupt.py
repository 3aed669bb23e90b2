"""Signals that are never lost: training stops between two batches, not in the middle of one."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Callback, Trainer

from kanzoo.errors import Stopped, stop_at_once

# What each signal means elsewhere; with any other handler it is left to whoever set that.
USUAL: dict[signal.Signals, tuple[Any, ...]] = {
    signal.SIGINT: (signal.default_int_handler,),
    signal.SIGTERM: (signal.SIG_DFL, stop_at_once),
}
if hasattr(signal, "SIGUSR1"):  # by which SLURM announces the end of a job
    USUAL[signal.SIGUSR1] = (signal.SIG_DFL, stop_at_once)


class StopBetweenBatches(Callback):
    """Raises `Stopped` before the next batch once a signal has asked for it.

    An exception that a signal raises at any moment can end up in a destructor or in a callback of
    a C library, where Python drops it: the run then goes on as if nothing had happened. With
    `is_saving`, another callback saves and stops while the network is trained.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self.is_saving = False

    def ask(self, number: int, *_: object) -> None:
        """Handle the signal; a second one does not wait."""
        if self.asked is not None:
            raise Stopped(number)
        self.asked = number

    def on_train_batch_start(self, *_: object, **__: object) -> None:
        if not self.is_saving:
            self._stop_if_asked()

    def on_validation_batch_start(self, trainer: Trainer, *_: object, **__: object) -> None:
        if not self.is_saving or trainer.state.fn != "fit":
            self._stop_if_asked()

    def on_test_batch_start(self, *_: object, **__: object) -> None:
        self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if self.asked is not None:
            raise Stopped(self.asked)


@contextmanager
def stopping_between_batches() -> Iterator[StopBetweenBatches]:
    """A callback for the trainer that handles signals while the context lasts.

    Where a signal does not mean the usual, as Ctrl-C in a worker process that leaves it to its
    parent, and outside the main thread, nothing changes.
    """
    callback = StopBetweenBatches()
    before = {number: signal.getsignal(number) for number in USUAL}
    is_main = threading.current_thread() is threading.main_thread()
    ours = [number for number in USUAL if is_main and before[number] in USUAL[number]]
    for number in ours:
        signal.signal(number, callback.ask)
    try:
        yield callback
    finally:
        for number in ours:
            signal.signal(number, before[number])
