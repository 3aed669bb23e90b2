"""Processes that train together look after each other: where one is gone, all end, with one line.

A process that waits for one that is gone may otherwise wait for half an hour, or end in a
traceback. On one machine the first process watches those that it has started, and they watch it;
elsewhere torchrun or SLURM does, and what is left to do is to say why training has ended.
"""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import NoReturn

LOOK = 0.5  # seconds between two looks
GRACE = 3.0  # seconds in which others that are gone for the same reason, or done, are noticed
LOST_CODE = 70  # of a process that ended because another one was gone
GOES_ON = "the same command goes on from the last checkpoint"
_done = threading.Event()  # of what processes do together: from then on they end when they like
_LOST = re.compile(
    r"gloo|nccl|connection (was )?(closed|reset|refused)|broken pipe|tcpstore|recvvalue failed",
    re.IGNORECASE,
)


def is_lost_contact(error: BaseException) -> bool:
    """Whether an exception says that another process could not be reached."""
    if not isinstance(error, RuntimeError | OSError):
        return False
    return bool(_LOST.search(str(error))) or type(error).__name__.startswith("Dist")


def end_without_contact() -> NoReturn:
    """End a process whose collective has failed; the first one of a machine says so."""
    time.sleep(2 * GRACE)  # whoever watches knows more
    if os.environ.get("LOCAL_RANK", "0") == "0" and os.environ.get("SLURM_LOCALID", "0") == "0":
        _say(f"another process of this training is gone; {GOES_ON}")
    os._exit(LOST_CODE)


def end_watch() -> None:
    """Take it as normal from now on that other processes end."""
    _done.set()


def watch_children(children: Sequence["subprocess.Popen[bytes]"]) -> None:
    """End this process and its children once one of these has ended before its time."""
    _done.clear()
    threading.Thread(target=_watch_children, args=[children], daemon=True).start()


def watch_parent(local_rank: int) -> None:
    """End this process once the one that started it has ended before its time."""
    _done.clear()
    threading.Thread(target=_watch_parent, args=[os.getppid(), local_rank], daemon=True).start()


def _watch_children(children: Sequence["subprocess.Popen[bytes]"]) -> None:
    while all(child.poll() is None for child in children):
        time.sleep(LOOK)
    if _done.wait(GRACE):
        return
    ends = ((rank, child.poll()) for rank, child in enumerate(children, start=1))
    codes = {rank: code for rank, code in ends if code is not None}
    # Whoever ended only because another one was gone is not the reason.
    rank, code = min(codes.items(), key=lambda end: (end[1] == LOST_CODE, end[1] == 0, end[1] > 0))
    for child in children:
        child.kill()
    if code != LOST_CODE:
        _say(f"process {rank} of {len(children) + 1} {_end(code)}, so all end; {GOES_ON}")
    else:
        _say(f"a process of this training is gone; {GOES_ON}")
    os._exit(LOST_CODE)


def _watch_parent(parent: int, local_rank: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK)
    if _done.wait(GRACE):
        return
    if local_rank == 1:
        _say(f"process 0, which started this one, is gone, so all end; {GOES_ON}")
    os._exit(LOST_CODE)


def _end(code: int) -> str:
    if code >= 0:
        return f"ended early with exit code {code}"
    return f"was killed by {signal.Signals(-code).name}"


def _say(text: str) -> None:
    sys.stderr.write(f"kanzoo: {text}\n")
    sys.stderr.flush()
