"""Whether weights fit into the memory of this machine, decided before anything is allocated."""

import math
import os
from pathlib import Path

import torch
from torch import Tensor

SURE = 2**26  # bytes for which nobody needs to be asked


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


def check_samples(count: int, numbers: int) -> None:
    """Raise `ValueError` of one line unless so many samples of so many numbers can be drawn.

    They are drawn in double precision, put in order and scaled, so that there are three at a time.
    """
    each, free = 3 * 8 * numbers, available_memory()
    if count * each > free:
        raise ValueError(
            f"{count:,} samples need {count * each / 2**30:,.1f} GiB of memory; "
            f"{free / 2**30:,.1f} GiB are free, for {free // each:,} samples"
        )


def check_tensor(shape: tuple[int, ...], like: Tensor) -> None:
    """Raise `ValueError` of one line unless weights of a shape fit where a tensor is."""
    dtype = like.dtype
    size = math.prod(shape) * dtype.itemsize
    if like.is_cpu and size > SURE and size > (free := available_memory()):
        raise ValueError(
            f"weights {shape} need {size / 2**30:,.1f} GiB of memory; {free / 2**30:,.1f} GiB are "
            f"free, for {free // dtype.itemsize:,} numbers of {dtype}"
        )
