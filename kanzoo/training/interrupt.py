"""Ctrl-C that is never lost: training stops between two batches, not in the middle of one."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch import Callback


class StopBetweenBatches(Callback):
    """Raises `KeyboardInterrupt` before the next batch once a stop was asked for.

    An exception that a signal raises at any moment can end up in a destructor or in a callback of
    a C library, where Python drops it: the run then goes on as if nothing had happened.
    """

    def __init__(self) -> None:
        self.asked = False

    def ask(self, *_: object) -> None:
        """Handle the signal; a second one does not wait."""
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def on_train_batch_start(self, *_: object, **__: object) -> None:
        self._stop_if_asked()

    def on_validation_batch_start(self, *_: object, **__: object) -> None:
        self._stop_if_asked()

    def on_test_batch_start(self, *_: object, **__: object) -> None:
        self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if self.asked:
            raise KeyboardInterrupt


@contextmanager
def stopping_between_batches() -> Iterator[StopBetweenBatches]:
    """A callback for the trainer that handles Ctrl-C while the context lasts.

    Where Ctrl-C does not mean `KeyboardInterrupt`, as in a worker process that leaves it to its
    parent, or outside the main thread, nothing changes.
    """
    callback = StopBetweenBatches()
    before = signal.getsignal(signal.SIGINT)
    ours = before is signal.default_int_handler
    ours = ours and threading.current_thread() is threading.main_thread()
    if ours:
        signal.signal(signal.SIGINT, callback.ask)
    try:
        yield callback
    finally:
        if ours:  # Lightning leaves it ignored after an interrupt
            signal.signal(signal.SIGINT, before)
