"""Ways in which a run can fail that whoever runs many of them treats apart."""

BUSY_CODE = 75  # exit code for `BusyError`: try again later (EX_TEMPFAIL)


class BusyError(RuntimeError):
    """Another process is training this run."""


class DivergedError(ArithmeticError):
    """Training reached a value that is not finite; the same again would end the same."""


class EngineError(RuntimeError):
    """The engine that runs cells cannot go on, whatever the cells do."""
