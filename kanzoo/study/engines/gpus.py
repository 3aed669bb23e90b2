"""Which GPUs the cells of a study get, as `CUDA_VISIBLE_DEVICES` names them."""

import math
import os

from kanzoo.checks import Positive, check_value


def check_share(share: float | None) -> None:
    """Raise `ValueError` unless a cell can take so many GPUs: a part of one, or some."""
    check_value("engine.gpus_per_cell", share, Positive | None)
    if share is not None and share > 1 and share != int(share):
        raise ValueError(f"engine.gpus_per_cell must be at most 1 or whole, got {share}")


def cells_per_gpu(share: float) -> int:
    """How many cells share a GPU of which each takes a part."""
    return max(1, math.floor(1 / share + 1e-9))


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = [name.strip() for name in visible.split(",")]
        return [name for name in names if name not in ("", "-1")]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def room(share: float, names: list[str]) -> int:
    """How many cells have room at once."""
    return len(names) * cells_per_gpu(share) if share <= 1 else len(names) // int(share)


def gpus_of(slot: int, share: float | None, names: list[str]) -> str | None:
    """What the worker in a slot may see; None where all see the same.

    Without a share, workers take turns at the GPUs; with one that is above 1, each gets its own.
    """
    if len(names) < 2:
        return None
    each = int(share) if share is not None and share > 1 else 1
    first = slot % max(1, len(names) // each) * each
    return ",".join(names[first : first + each])
