"""Compiles the Triton kernels for NVIDIA GPUs without one, and reads what they use.

`python tests/triton_compiled.py [FAMILY ...]` prints registers, spilled bytes and shared memory.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanzoo.kernels.gpu.launch import functions_of
from kanzoo.kernels.gpu.layout import FAMILIES, TRAINED, Layout
from kanzoo.kernels.gpu.linear import tiles_of

SHARED = {80: 163 * 1024, 90: 227 * 1024}  # bytes of a block
MAX_SPILLED = 512
ROWS, INPUTS, OUTPUTS = 65_536, 512, 512
TENSORS = {"x", "weight", "bias", "table", "y", "out", "above", "below", "sums"}
MULTIPLES = ("inputs", "outputs", "weight_in", "channels", "inner")  # of 16, as Triton is told


@dataclass(frozen=True)
class Use:
    """What a block of a kernel takes: registers and spilled bytes of a thread, shared bytes."""

    kernel: str
    registers: int
    spilled: int
    shared: int


def usage(family: str, kind: str, capability: int) -> Iterator[Use]:
    """Every kernel of a family, or "rational"; kind is "bf16", "tf32" or "tf32x3"."""
    from kanzoo.kernels.gpu import expand_kernels, linear_kernels, rational_kernels

    if family == "rational":
        for kernel in (rational_kernels.forward, rational_kernels.backward):
            sizes = {"LAST": True, "ROWS": 32, "COLUMNS": 64}
            yield _compile(kernel, sizes, "fp32", capability, 4)
        return
    layout = Layout(family, 2 if family == "ramps" else 3, "linear", 1.0, "none", "silu")
    constants = functions_of(layout)
    real = "bf16" if kind == "bf16" else "fp32"
    product = {**constants, "PRECISION": "tf32" if kind == "bf16" else kind}
    trained = {"TRAINED": family in TRAINED}
    size = 2 if kind == "bf16" else 4
    forward, back, weight = tiles_of(ROWS, INPUTS, OUTPUTS, size)
    for kernel, options, warps in (
        (linear_kernels.forward, {**product, "HAS_BIAS": True, **forward.sizes}, forward.warps),
        (linear_kernels.input_gradient, {**product, **trained, **back.sizes}, back.warps),
        (linear_kernels.weight_gradient, {**product, **weight.sizes}, weight.warps),
        (expand_kernels.forward, {**constants, "ROWS": 32, "INPUTS": 64}, 4),
        (expand_kernels.backward, {**constants, **trained, "ROWS": 32, "INPUTS": 64}, 4),
    ):
        yield _compile(kernel, options, real, capability, warps)


def _compile(kernel: Any, constants: dict[str, Any], real: str, capability: int, warps: int) -> Use:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names
    lower = {"weight", "grad", "y", "out"}
    signature = {
        name: "constexpr"
        if name in constants
        else "*i64"
        if name == "group_of"
        else f"*{real if name in lower else 'fp32'}"
        if name in TENSORS or name.startswith("grad")
        else "fp32"
        if name == "constant"
        else "i32"
        for name in names
    }
    aligned = [
        number
        for number, name in enumerate(names)
        if signature[name].startswith("*") or name in MULTIPLES
    ]
    source = ASTSource(
        kernel,
        signature=signature,
        constexprs=constants,
        attrs={(number,): [["tt.divisibility", 16]] for number in aligned},
    )
    target = GPUTarget("cuda", capability, 32)
    found = triton.compile(source, target=target, options={"num_warps": warps})
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(found.asm["cubin"])
        file.flush()
        reader = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        words = [reader, "--dump-resource-usage", file.name]
        text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    numbers = re.search(r"REG:(\d+) STACK:(\d+)", text)
    assert numbers is not None
    name = f"{kernel.fn.__module__.rpartition('.')[2]}.{kernel.fn.__name__}"
    return Use(name, int(numbers[1]), int(numbers[2]), found.metadata.shared)


if __name__ == "__main__":
    for family in sys.argv[1:] or (*FAMILIES, "rational"):
        for kind in ("bf16", "tf32", "tf32x3"):
            for capability in SHARED:
                for use in usage(family, kind, capability):
                    print(family, kind, f"sm_{capability}", use)
