"""Whether a network fits into the memory of this machine, decided before anything is allocated."""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.nn.modules.module import register_module_parameter_registration_hook

from kanzoo.layers.memory import check_memory

MAX_TENSORS = 10_000  # parameters of a network that are counted: seconds


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
