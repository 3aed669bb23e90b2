"""Whether a network fits into the memory of this machine, decided before anything is allocated."""

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.module import register_module_parameter_registration_hook

MAX_TENSORS = 10_000  # parameters of a network that are counted: seconds


def available_memory() -> int:
    """Bytes that processes of this machine can still get."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("MemAvail")) * 1024
    except (OSError, StopIteration, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check_memory(params: int, *, training: bool = False) -> None:
    """Raise `ValueError` of one line unless so many parameters fit into memory.

    In training there are gradients and two moments of the optimiser beside the weights.
    """
    each = torch.get_default_dtype().itemsize * (4 if training else 1)
    free = available_memory()
    if params * each > free:
        what = "weights, gradients and two moments" if training else "weights"
        raise ValueError(
            f"a network of {params:,} parameters needs {params * each / 2**30:,.1f} GiB of memory "
            f"({what}); {free / 2**30:,.1f} GiB are free, for {free // each:,} parameters"
        )


@contextmanager
def counting(options: dict[str, Any]) -> Iterator[None]:
    """Sizes that no memory holds, and more tensors than can be counted, as a `ValueError`."""
    tensors = 0

    def count(*_: object) -> None:
        nonlocal tensors
        tensors += 1
        if tensors > MAX_TENSORS:
            raise ValueError(f"the network has more than {MAX_TENSORS:,} tensors of weights")

    depth = options.get("depth", 0)
    if isinstance(depth, int) and depth > MAX_TENSORS:
        raise ValueError(f"model.depth={depth} is above {MAX_TENSORS}, more than fits into memory")
    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    except RuntimeError as error:
        sizes = re.search(r"sizes=\[([\d, ]+)\]", str(error))
        if sizes is None:
            raise
        check_memory(math.prod(map(int, sizes[1].split(","))))  # of one tensor alone
        raise
    finally:
        handle.remove()
