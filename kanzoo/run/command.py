"""What the commands share: Hydra's command line, and bad input as one line on standard error."""

import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from kanzoo import registry
from kanzoo.errors import BUSY_CODE, OUT_OF_MEMORY, Stopped, is_out_of_memory, stop_at_once
from kanzoo.run.config import (
    Extensions,
    check_overrides,
    parse_overrides,
    selections,
    to_plain,
)
from kanzoo.rundir import Config, is_first_process

MAX_LINE = 2000  # characters of a message
GOES_ON = "the same command goes on from here"


def run_command(config_name: str, job: Callable[[Config], None]) -> None:
    """Run `job` on the configuration of the command line.

    Bad input ends the process with code 2 and one line on standard error that says what was wrong,
    what is allowed and the nearest valid name. Hydra's own flags work: `--cfg job`, `--info`,
    `--help` and so on, and `--config-dir DIR` adds a folder of YAML files to `conf/`.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = get_args_parser()
    parser.error = fail  # type: ignore[assignment,method-assign]
    arguments = parser.parse_intermixed_args()
    flags = [word for word in sys.argv[1:] if word not in arguments.overrides]
    words = selections(config_name, arguments.overrides)
    sys.argv[1:] = [*flags, *words]  # Hydra takes no flag between overrides
    with user_errors():
        if arguments.multirun and config_name != "train":
            raise ValueError("-m is for scripts/train.py only")
        for flag, value in (("-cp", arguments.config_path), ("-cn", arguments.config_name)):
            if value is not None:
                raise ValueError(f"{flag} {value}: the root file is fixed; add files by -cd FOLDER")
        if arguments.config_dir is not None:
            registry.add_conf_dir(Path(arguments.config_dir))
        for folder in search_path(words):
            registry.add_conf_dir(folder)
        check_overrides(config_name, words, multirun=arguments.multirun)

    entered = False
    codes: list[int] = []

    @hydra.main(version_base="1.3", config_path=str(registry.conf_dir()), config_name=config_name)
    def main(config: DictConfig) -> None:
        nonlocal entered
        entered = True
        with user_errors():
            plain = to_plain(config, dict(HydraConfig.get().runtime.choices))
        try:
            job(plain)
        except SystemExit as end:
            if not arguments.multirun or end.code not in (1, BUSY_CODE):
                raise
            codes.append(end.code)  # the other runs of a sweep do not depend on this one
        except OSError as error:  # a disk that is full, a folder that is gone or not writable
            fail(f"{os_error_line(error)}; the same command goes on")
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            fail(f"{OUT_OF_MEMORY}: {error}; less data, batches or networks that are smaller fit")

    Extensions.register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # it raises, where it would print several lines
    try:
        with stops():
            main()
    except (HydraException, OmegaConfBaseException, ValueError, OSError) as error:
        if entered:
            raise
        fail(error)
    if codes:
        raise SystemExit(min(codes))


@contextmanager
def stops(after: str = GOES_ON) -> Iterator[None]:
    """Let signals that ask this process to end do so as `stopped` says, and what comes `after`."""
    for name in ("SIGTERM", "SIGUSR1"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, stop_at_once)
    try:
        yield
    except (KeyboardInterrupt, Stopped) as stop:
        stopped(stop, after)


def stopped(stop: KeyboardInterrupt | Stopped, after: str) -> NoReturn:
    """End a command that a signal has stopped, with the code that a shell would give it."""
    if isinstance(stop, KeyboardInterrupt):
        stop = Stopped(signal.SIGINT)
    if stop.number == getattr(signal, "SIGUSR1", None):
        requeue()
    if is_first_process():
        print(f"kanzoo: {stop}; {after}", file=sys.stderr)
    raise SystemExit(stop.code) from None


def requeue() -> None:
    """Queue this job of SLURM again, which announces by SIGUSR1 that its time is over."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None or not is_first_process():
        return
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or str(error)
        print(f"kanzoo: job {job} is not queued again: {reason.strip()}", file=sys.stderr)


def search_path(words: list[str]) -> list[Path]:
    """The folders that `hydra.searchpath=[...]` adds to those of configuration files."""
    text = next((w for w in reversed(words) if re.match(r"\+*hydra\.searchpath=", w)), None)
    if text is None:
        return []
    (override,) = parse_overrides([text])
    value = override.value()
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise ValueError(f"hydra.searchpath must be a list of folders, got {value!r}")
    folders = []
    for entry in value:
        kind, _, rest = entry.rpartition("://")
        if kind not in ("", "file"):
            raise ValueError(f"hydra.searchpath takes folders, as file://FOLDER, not {entry!r}")
        folders.append(Path(rest))
    return folders


def command_words() -> list[str]:
    """The overrides on the command line of the running command; none outside of one."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def fail(error: object) -> NoReturn:
    """End the process with code 2 and one line on standard error."""
    print(f"kanzoo: {shown(error)}", file=sys.stderr)
    raise SystemExit(2)


def shown(error: object) -> str:
    """A message in one line; what a terminal would obey is shown as what it is."""
    text = " ".join(str(error).split())
    text = text if len(text) <= MAX_LINE else f"{text[: MAX_LINE - 200]} ... {text[-200:]}"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn what a user can mend into one line on standard error and exit code 2.

    That is a `ValueError`, and what the operating system says to folders that are missing, full or
    not writable.
    """
    try:
        yield
    except OSError as error:
        fail(os_error_line(error))
    except ValueError as error:
        fail(error)


def os_error_line(error: OSError) -> str:
    """What the operating system said, and of which file."""
    return f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
