"""Makes chosen runs go wrong: loaded by every Python that has this folder in PYTHONPATH.

SABOTAGE is JSON: {"SEED LAYERS": DEED}, a deed is segfault, hang, stall, memory, nan, slow or
note. What was done is noted in SABOTAGE_LOG, with the SLURM job; "note" does nothing else, "stall"
hangs the first time only, and "slow" takes a second for each of three steps. The package is not
told.
"""

import ctypes
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kanzoo.rundir import RunDir

RESTORE: list[Callable[[], None]] = []  # what undoes the deeds in runs before
PLAN = json.loads(os.environ.get("SABOTAGE", "{}"))
write_config = RunDir.write_config


def sabotage(self: RunDir) -> None:
    """Stands for `RunDir.write_config`, which training calls first."""
    write_config(self)
    while RESTORE:
        RESTORE.pop()()
    deed = PLAN.get(f"{self.config['seed']} {self.config['choices']['layers']}")
    if deed is None:
        return
    log = Path(os.environ["SABOTAGE_LOG"])
    if deed == "slow":
        slow_down(log)
        return
    first = not log.is_file() or deed not in log.read_text()
    with log.open("a") as file:
        file.write(f"{deed} {os.environ.get('SLURM_JOB_ID', '')}\n")
    if deed == "segfault":
        ctypes.string_at(0)
    elif deed == "hang" or (deed == "stall" and first):
        time.sleep(600)
    elif deed == "memory":
        hoard = [bytearray(2**28) for _ in range(400)]
        del hoard
    elif deed == "nan":
        spoil_losses()


def spoil_losses() -> None:
    """Make every loss of this run nan; a worker goes on with other runs."""
    change_steps(lambda loss, step: loss * float("nan"))


def slow_down(log: Path) -> None:
    """Let three steps of this run take a second, and note the first of them."""

    def slow(loss: Any, step: int) -> Any:
        if step == 0:
            log.write_text("slow\n")
        time.sleep(step < 3)
        return loss

    change_steps(slow)


def change_steps(change: Callable[[Any, int], Any]) -> None:
    """Change the losses of the steps of this run."""
    from kanzoo.training.task import Task

    plain, steps = Task.training_step, iter(range(10**9))

    def step(self: Task, batch: Any, batch_index: int) -> Any:
        return change(plain(self, batch, batch_index), next(steps))

    Task.training_step = step  # type: ignore[method-assign]
    RESTORE.append(lambda: setattr(Task, "training_step", plain))


RunDir.write_config = sabotage  # type: ignore[method-assign]
