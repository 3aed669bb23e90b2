"""Ways in which a run can fail that whoever runs many of them treats apart."""

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


class EngineError(RuntimeError):
    """The engine that runs cells cannot go on, whatever the cells do."""


class SeparateError(RuntimeError):
    """Runs that were to be trained together have to be trained one by one."""
