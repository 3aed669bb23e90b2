"""What this process computes on, as results and benchmarks name it."""

import os
import platform
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

WORKERS = "KANZOO_WORKERS"  # variable: how many runs an engine trains at once on this machine


@cache
def processor() -> str:
    """The model of the CPU."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def machine(device: "torch.device") -> str:
    """What a run was timed on: its GPU, or its CPU and threads, and what trained beside it.

    A model of CPU may name several generations; their instructions are what sets digits apart.
    """
    import torch

    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        instructions = torch.backends.cpu.get_cpu_capability()
        name = f"{processor()}, {instructions}, threads: {torch.get_num_threads()}"
    workers = os.environ.get(WORKERS)
    return f"{name}, workers: {workers}" if workers else name
