"""Memory that a thread uses again from call to call: fresh pages cost more than filling them."""

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

MOST_BYTES = 2**25  # larger buffers are not kept
_thread = threading.local()


def scratch(name: str, like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """An uninitialised contiguous buffer, valid until this thread asks for the same name again.

    Device and, unless given, dtype are those of ``like``.
    """
    dtype = like.dtype if dtype is None else dtype
    size = math.prod(shape)
    saved = type(like) in (Tensor, torch.nn.Parameter) and not torch.compiler.is_compiling()
    if not saved or like.device.type != "cpu" or size * dtype.itemsize > MOST_BYTES:
        return like.new_empty(shape, dtype=dtype)
    buffers = _thread.__dict__
    key = f"{name} {dtype}"
    if key not in buffers or buffers[key].numel() < size:
        with torch.inference_mode(False):  # else training could not write to it afterwards
            buffers[key] = torch.empty(size, dtype=dtype)
    buffer: Tensor = buffers[key][:size].view(shape)
    return buffer


@contextmanager
def fresh_scratch() -> Iterator[None]:
    """Buffers of its own for a while, so that what they take can be measured."""
    buffers = _thread.__dict__
    saved = dict(buffers)
    buffers.clear()
    try:
        yield
    finally:
        buffers.clear()
        buffers.update(saved)
