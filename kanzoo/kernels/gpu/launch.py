"""What all launches of Triton kernels share: tiles, splits, and what happens where they fail.

Nothing here imports Triton until a kernel is launched.
"""

import logging
import os
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, TypeVar

import torch

from kanzoo.kernels.gpu.layout import Layout

log = logging.getLogger("kanzoo")
T = TypeVar("T")
MAX_SPLITS = 32
_failed: dict[str, str] = {}


def is_interpreted() -> bool:
    """Whether Triton's interpreter runs kernels, on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def unavailable_reason(family: str) -> str | None:
    """Why kernels of a family cannot be had, in one line; None if they can."""
    if find_spec("triton") is None:
        return "Triton is not installed"
    return _failed.get(family)


def attempt(family: str, launch: Callable[[], T], otherwise: Callable[[], T]) -> T:
    """A kernel's result; where it cannot be compiled or launched, the other's, from then on."""
    if family in _failed:
        return otherwise()
    try:
        return launch()
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except Exception as error:
        if is_interpreted():
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        _failed[family] = f"Triton failed: {lines[0]}"
        log.warning("kernels of %s are computed by PyTorch: %s", family, _failed[family])
        return otherwise()


@lru_cache
def num_processors(device: torch.device) -> int:
    """How many tiles a device computes at once, about."""
    if device.index is None or device.index >= torch.cuda.device_count():
        return 64  # nothing is known
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def power_of_two(size: int, least: int, most: int) -> int:
    """The smallest power of two that holds a size, within limits."""
    return min(max(1 << max(size - 1, 0).bit_length(), least), most)


def split(size: int, block: int, programs: int, device: torch.device) -> tuple[int, int]:
    """Into how many shares of whole blocks a sum is cut to keep a device busy, and their size."""
    wanted = min(num_processors(device) // max(programs, 1), MAX_SPLITS, ceil_div(size, block))
    share = ceil_div(ceil_div(size, max(wanted, 1)), block) * block
    return ceil_div(size, share), share


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def precision() -> str:
    """How products of float32 are computed: as PyTorch's own; AMD's compiler has no TF32."""
    if torch.version.hip:
        return "ieee"
    return "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def functions_of(layout: Layout) -> dict[str, Any]:
    """Constants of the code of all kernels."""
    return {
        "FAMILY": layout.family,
        "ORDER": layout.order,
        "EXTRAPOLATION": layout.extrapolation,
        "SQUASH": layout.squash,
        "RESIDUAL": layout.residual,
    }
