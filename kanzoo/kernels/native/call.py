"""Calls into the compiled library: pointers, threads, forked processes."""

import ctypes
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from kanzoo.kernels.native.build import load

Shape = Sequence[int] | int
Argument = tuple[str, Tensor | None, Shape]  # name, tensor or null, shape

REALS = {torch.float32: "float", torch.float64: "double"}
INTEGER_DTYPES = {"group_of": torch.int64, "sorted rows": torch.int16}
WRONG_GROUP = 2  # what a C function returns that found a number of a group out of range
SERIAL_WORK = 60_000  # below this many weighted rows a second thread costs more than it gives
_forked = False


def _after_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def check_features(x: Tensor) -> None:
    """Raise ``ValueError`` for inputs without features."""
    if x.dim() == 0 or x.shape[-1] == 0:
        raise ValueError(f"x must be (..., in) with in from 1, got {tuple(x.shape)}")


def max_threads() -> int:
    """PyTorch's number of threads, but one in forked children.

    A forked child lacks its parent's threads, and a parallel region would wait for them.
    """
    return 1 if _forked else torch.get_num_threads()


def thread_count(work: int) -> int:
    """Threads for a call: one for little work."""
    return 1 if work < SERIAL_WORK else max_threads()


def pointer(name: str, tensor: Tensor | None, shape: Shape, dtype: torch.dtype) -> int | None:
    """Where the numbers of a contiguous tensor begin; ``ValueError`` for any other tensor.

    Where the shape is a number, strides are free and there must be memory for so many numbers.
    """
    if tensor is None:
        return None
    try:
        if tensor.dtype is dtype and tensor.is_cpu:
            if tensor.shape == shape:
                fits = tensor.is_contiguous()
            elif isinstance(shape, int):
                room = tensor.untyped_storage().nbytes() // tensor.element_size()
                fits = bool(room - tensor.storage_offset() >= shape)
            else:
                fits = False
            if fits and ((address := tensor.data_ptr()) or not tensor.numel()):
                return address
    except RuntimeError:  # of tensors without strides
        pass
    wanted = f"memory for {shape} numbers" if isinstance(shape, int) else tuple(shape)
    raise ValueError(
        f"{name} must be contiguous: {wanted} of {dtype} on cpu, got {tuple(tensor.shape)} of"
        f" {tensor.dtype} on {tensor.device}"
    )


def bind(
    name: str, order: int | None, arguments: Sequence[Argument], sizes: "ctypes.Array[Any]"
) -> Callable[[], None]:
    """A call of a C function, to be made any number of times.

    All tensors have the dtype of the first one but those of `INTEGER_DTYPES`. Raises ``ValueError``
    unless each is a contiguous one on the CPU of the given shape.
    """
    first = arguments[0][1]
    if first is None or first.dtype not in REALS:
        given = None if first is None else first.dtype
        raise ValueError(f"{arguments[0][0]} must be float32 or float64, got {given}")
    dtype = first.dtype
    addresses = [
        pointer(label, tensor, shape, INTEGER_DTYPES.get(label, dtype))
        for label, tensor, shape in arguments
    ]
    function = load(name, order, REALS[dtype])

    def run() -> None:
        if code := function(*addresses, sizes):
            raise _failure(name, code, arguments)

    return run


def call(
    name: str, order: int | None, arguments: Sequence[Argument], sizes: "ctypes.Array[Any]"
) -> None:
    """Run a C function once: see `bind`."""
    bind(name, order, arguments, sizes)()


def _failure(name: str, code: int, arguments: Sequence[Argument]) -> Exception:
    shapes = ", ".join(f"{label} {tuple(t.shape)}" for label, t, _ in arguments if t is not None)
    if code == WRONG_GROUP:
        return ValueError(f"{name}: group_of must hold numbers of groups, with {shapes}")
    return MemoryError(f"{name}: no memory for tables, with {shapes}")


def int64_array(*numbers: int) -> "ctypes.Array[Any]":
    """What C functions take as their last argument."""
    return (ctypes.c_int64 * len(numbers))(*numbers)


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
