"""Ways in which a run can fail that whoever runs many of them treats apart."""

import signal
from typing import NoReturn

BUSY_CODE = 75  # exit code for `BusyError`: try again later (EX_TEMPFAIL)


class BusyError(RuntimeError):
    """Another process is training this run."""


DIVERGED = "diverged: "


class DivergedError(ArithmeticError):
    """Training reached a value that is not finite; the same again would end the same.

    The message begins with `DIVERGED`, by which a study knows this outcome from a failure.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(DIVERGED + reason.removeprefix(DIVERGED))


OUT_OF_MEMORY = "out of memory"
_MEMORY = ("can't allocate memory", OUT_OF_MEMORY, "cannot allocate memory", "bad_alloc")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory was not enough, of this machine or of a device."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(word in text for word in _MEMORY)


class EngineError(RuntimeError):
    """The engine that runs cells cannot go on, whatever the cells do."""


class SeparateError(RuntimeError):
    """Runs that were to be trained together have to be trained one by one."""


class Stopped(SystemExit):
    """A signal asked this process to end; the exit code is that of a shell, 128 and the signal."""

    def __init__(self, number: int, detail: str = "") -> None:
        super().__init__(128 + number)
        self.code: int = 128 + number
        self.number = number
        self.detail = detail

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.number).name}{self.detail}"


def stop_at_once(number: int, *_: object) -> NoReturn:
    """Handle a signal where there is nothing to save."""
    raise Stopped(number)
