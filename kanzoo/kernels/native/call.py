"""Calls into the compiled library: pointers, threads, forked processes."""

import ctypes
import os

import torch
from torch import Tensor

from kanzoo.kernels.native.build import load

REALS = {torch.float32: "float", torch.float64: "double"}
SERIAL_WORK = 60_000  # below this many weighted rows a second thread costs more than it gives
_forked = False


def _after_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def thread_count(work: int) -> int:
    """Threads for a call: PyTorch's number, but one for little work and in forked children.

    A forked child lacks its parent's threads, and a parallel region would wait for them.
    """
    return 1 if _forked or work < SERIAL_WORK else torch.get_num_threads()


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def call(name: str, order: int | None, tensors: list[Tensor | None], sizes: list[int]) -> None:
    """Run a C function on contiguous tensors of one dtype."""
    first = next(t for t in tensors if t is not None)
    function = load(name, order, REALS[first.dtype])
    numbers = (ctypes.c_int64 * len(sizes))(*sizes)
    if function(*map(_pointer, tensors), numbers):
        raise MemoryError(f"{name}: no memory for tables of sizes {sizes}")


def in_float32(
    x: Tensor, weight: Tensor, residual: Tensor | None, knots: Tensor
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Half precisions (and, under autocast, what meets them) as float32."""
    halves = (torch.bfloat16, torch.float16)
    if x.dtype not in halves and not torch.is_autocast_enabled("cpu"):
        return x, weight, residual, knots
    wide = [
        t if t is None or t.dtype == torch.float64 else t.float()
        for t in (x, weight, residual, knots)
    ]
    return wide[0], wide[1], wide[2], wide[3]  # type: ignore[return-value]
