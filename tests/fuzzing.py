"""What the fuzz tests share: how much is tried, and commands run in this process."""

import contextlib
import io
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import pytest
from hydra.core.singleton import Singleton
from hypothesis import HealthCheck, settings

LIMIT = 20  # seconds of the processor for one command


class TooLong(BaseException):
    """A command that nothing ends; no `except Exception` stops it."""


def tried(usual: int) -> settings:
    """Settings of a fuzz test: as many examples as `KANZOO_FUZZ` says, or `usual`.

    They are the same every time, unless `KANZOO_FUZZ_FRESH` is set: then `--hypothesis-seed` says
    which. There is no database of them.
    """
    return settings(
        max_examples=int(os.environ.get("KANZOO_FUZZ", usual)),
        deadline=None,
        database=None,
        derandomize="KANZOO_FUZZ_FRESH" not in os.environ,
        suppress_health_check=list(HealthCheck),
    )


@contextlib.contextmanager
def time_limit(seconds: float = LIMIT) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise TooLong(f"more than {seconds} s of the processor")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its code, what it wrote, and the files it left."""

    code: object
    output: str
    error: str
    files: list[str]

    def check(self) -> None:
        """It succeeded, or said in one line what was wrong and left nothing."""
        if self.code in (0, None):
            return
        assert self.code == 2, self.error
        assert self.error.count("\n") == 1, self.error
        assert self.error.startswith("kanzoo: "), self.error
        assert len(self.error) < 4000
        assert not self.files, (self.error, self.files)


def in_process(main: Callable[[], None], words: list[str], folder: Path) -> Outcome:
    """Run a command's entry in an empty folder, as a shell would, without a new process."""
    state, where, argv = Singleton.get_state(), Path.cwd(), sys.argv
    handler = signal.getsignal(signal.SIGTERM)
    level, before = logging.root.level, set(folder.rglob("*"))
    output, said, code = io.StringIO(), io.StringIO(), object()
    os.chdir(folder)
    sys.argv = ["command", *words]
    try:
        with (
            time_limit(),
            contextlib.redirect_stderr(said),
            contextlib.redirect_stdout(output),
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.setenv("HYDRA_FULL_ERROR", "1")
            main()
            code = 0
    except SystemExit as end:
        code = end.code
    except (Exception, TooLong):
        said.write(traceback.format_exc())
        code = "traceback"
    finally:
        sys.argv = argv
        os.chdir(where)
        Singleton.set_state(state)
        signal.signal(signal.SIGTERM, handler)
        logging.root.setLevel(level)
    files = [str(path) for path in set(folder.rglob("*")) - before]
    return Outcome(code, output.getvalue(), said.getvalue(), files)
