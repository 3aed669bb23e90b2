"""Whether other processes slow this one down."""

from pathlib import Path

NOTICED = 1.3  # times as long
ENOUGH = 5e8  # nanoseconds of computing, before which nothing can be said


def slowdown(path: Path = Path("/proc/self/schedstat")) -> float:
    """How many times as long as alone this process has taken so far, 1 where nobody counts.

    Linux counts how long a process that could run had to wait for a core.
    """
    try:
        words = path.read_text(encoding="ascii").split()
        running, waiting = float(words[0]), float(words[1])
    except (OSError, ValueError, IndexError):
        return 1.0
    return (running + waiting) / running if running > ENOUGH else 1.0


def busy_line() -> str:
    """What a user should know where other processes slow this one down, empty where they do not."""
    factor = slowdown()
    if factor < NOTICED:
        return ""
    return (
        f"this machine is busy: everything has taken {factor:.1f} times as long as it would alone"
    )
