"""Compiles what layers launch on GPUs, without one, and reads what kernels use.

`python tests/triton_compiled.py [TARGET ...]` prints registers, spilled bytes and shared memory of
all bases, for sm_80, sm_90 and gfx942 unless told otherwise.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import kanzoo
from kanzoo.kernels.gpu import expand, launch, linear, rational
from kanzoo.kernels.gpu.layout import TRAINED, Layout
from kanzoo.layers import KANLinear
from kanzoo.layers.paths.gpu import functions_of, seen

SHARED = {  # bytes of a block
    **{"sm_75": 64 * 1024, "sm_80": 163 * 1024, "sm_86": 99 * 1024, "sm_90": 227 * 1024},
    **{"sm_100": 227 * 1024, "sm_120": 99 * 1024, "gfx942": 64 * 1024},
}
MAX_SPILLED = 512
BASES = [name for name in kanzoo.list_bases() if kanzoo.get_basis(name)(1).num_functions > 1]
SMALL = (33, 5, 3)
LARGE = (65_536, 512, 512)


@dataclass(frozen=True)
class Use:
    """What a block of a kernel takes: registers and spilled bytes of a thread, shared bytes."""

    kernel: str
    registers: int
    spilled: int
    shared: int


class NoDriver:
    """A driver of a GPU that is not there."""

    def __init__(self, name: str) -> None:
        from triton.backends.compiler import GPUTarget

        self.name = name
        self.target = (
            GPUTarget("cuda", int(name.removeprefix("sm_")), 32)
            if name.startswith("sm_")
            else GPUTarget("hip", name, 64)
        )

    def get_current_device(self) -> str:
        return self.name  # which kernels that were compiled are kept for

    def get_current_stream(self, device: str) -> int:
        return 0

    def get_current_target(self) -> Any:
        return self.target


@contextmanager
def compiling(name: str) -> Iterator[list[Use]]:
    """Inside, launches compile what they would start, note what it takes, and start nothing."""
    from triton.runtime.driver import driver
    from triton.runtime.jit import JITFunction

    uses: list[Use] = []
    plain = JITFunction.run

    def run(self: Any, *args: Any, **options: Any) -> None:
        found = plain(self, *args, **{**options, "warmup": True})
        uses.append(_use(f"{self.module.rpartition('.')[2]}.{self.__name__}", found))

    hip = None if name.startswith("sm_") else "7.0"
    with (
        mock.patch.object(driver, "_active", NoDriver(name)),
        mock.patch.object(JITFunction, "run", run),
        mock.patch.object(launch, "is_interpreted", return_value=False),
        mock.patch.object(torch.version, "hip", hip),
    ):
        yield uses


def _use(name: str, found: Any) -> Use:
    import triton

    if "hsaco" in found.asm:
        text = found.asm["amdgcn"]
        numbers = [re.search(rf"\.vgpr_{word}:\s+(\d+)", text) for word in ("count", "spill_count")]
        assert all(numbers)
        registers, spilled = (int(number[1]) for number in numbers if number)
        return Use(name, registers, 4 * spilled, found.metadata.shared)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(found.asm["cubin"])
        file.flush()
        reader = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        words = [reader, "--dump-resource-usage", file.name]
        text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    numbers = re.search(r"REG:(\d+) STACK:(\d+)", text)
    assert numbers is not None
    return Use(name, int(numbers[1]), int(numbers[2]), found.metadata.shared)


def launch_layer(
    sizes: tuple[int, int, int], dtype: torch.dtype = torch.float32, **options: Any
) -> None:
    """Forward and backward of a linear layer in a dtype, without arithmetic."""
    x, weight, functions = _arguments(*sizes, **options)
    bias = torch.empty(sizes[2], device="meta")
    y = linear.forward(x, weight, functions[0], bias, functions[1], dtype)
    linear.backward(y, x, weight, *functions, (True, True, functions[1].family in TRAINED))


def launch_features(
    sizes: tuple[int, int, int], dtype: torch.dtype = torch.float32, **options: Any
) -> None:
    """Features of a convolution as channels, and back."""
    x, _, functions = _arguments(*sizes, **options)
    groups = 1 if sizes[1] % 2 else 2
    channels = expand.forward(x, *functions, groups, dtype)
    expand.backward(channels, x, *functions, groups, (True, functions[1].family in TRAINED))


def _arguments(
    rows: int, inputs: int, outputs: int, **options: Any
) -> tuple[Tensor, Tensor, tuple[Tensor, Layout]]:
    """Input, weight, and functions of a layer as kernels see them."""
    layer = KANLinear(inputs, outputs, device="meta", **options)
    request = layer.request(torch.empty(rows, inputs, device="meta"))
    functions = functions_of(request)
    assert functions is not None
    x, squash, residual, beside = seen(request)
    weight = request.weight[:, : request.weight.shape[1] - len(beside)]
    layout = Layout.of(functions.family, functions.constants, squash, residual or "none")
    return x, weight, (functions.table.to("meta"), layout)


def launch_rational(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> None:
    """Forward and backward of rational functions, channels second if there are more axes."""
    x: Tensor = torch.empty(shape, device="meta", dtype=dtype)
    x = x.movedim(1, -1) if x.dim() > 2 else x
    above, below = torch.empty(6, device="meta"), torch.empty(4, 8, device="meta")
    group_of = torch.zeros(x.shape[-1], device="meta", dtype=torch.int64)
    y = rational.forward(x, above, below, group_of)
    rational.backward(y, x, above, below, group_of, True, True, True)


if __name__ == "__main__":
    for target in sys.argv[1:] or ("sm_80", "sm_90", "gfx942"):
        with compiling(target) as uses:
            launch_rational((65_536, 512))
            print(target, "rational", *uses, sep="\n  ", flush=True)
        for basis in BASES:
            for precision in ("bf16", "tf32", "tf32x3"):
                kind = torch.bfloat16 if precision == "bf16" else torch.float32
                torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
                with compiling(target) as uses:
                    launch_layer(LARGE, kind, basis=basis)
                    launch_features(LARGE, kind, basis=basis)
                print(target, basis, precision, *uses, sep="\n  ", flush=True)
