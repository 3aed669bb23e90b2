"""Train in one of two processes, of which the first ends while a thread waits to drop a tensor.

torchrun ... leaving.py FOLDER STRATEGY
"""

import atexit
import sys
import time
from pathlib import Path

SOON = 2  # seconds
last = 0.0


def keep_the_interpreter() -> None:
    while time.monotonic() < last:
        pass


atexit.register(keep_the_interpreter)  # before all others, so that it is called after them

import processes  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402

folder, strategy = sys.argv[1:]
processes.train_all(Path(folder), strategy, "32-true", 0, ["mlp"], "trainer.devices=2")
values = torch.ones(10)
dist.barrier()
if dist.get_rank() == 0:
    values.note = "known to the interpreter alone"  # type: ignore[attr-defined]
    dist.all_reduce(values, async_op=True)
    del values  # it is with a thread of gloo now
    sys.setswitchinterval(100)
    last = time.monotonic() + 2 * SOON
else:
    time.sleep(SOON)
    dist.all_reduce(values)
    time.sleep(2 * SOON)
