"""Triton kernels without a GPU: in the interpreter, compiled for GPUs that are not there."""

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import triton_compiled as compiled

from kanzoo.kernels.gpu.layout import FAMILIES
from kanzoo.layers import KANConv2d, KANLinear

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
TESTS = Path(__file__).parent
natively = pytest.mark.skipif(
    "TRITON_INTERPRET" in os.environ, reason="TRITON_INTERPRET is set: nothing is compiled"
)


def test_kernels_in_the_interpreter() -> None:
    """In a process of its own: the variable counts before Triton is imported."""
    words = ["-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "triton_interpreted.py"]
    done = subprocess.run(
        [sys.executable, *words],
        cwd=TESTS,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


@natively
def test_the_cpu_is_refused_outside_of_the_interpreter() -> None:
    with pytest.raises(ValueError, match="interpreter only: TRITON_INTERPRET=1") as refusal:
        KANLinear(3, 2, backend="triton")
    assert "\n" not in str(refusal.value)
    line = KANConv2d(3, 2, 3).explain_backend(torch.randn(1, 3, 4, 4))
    assert "not triton: no device that Triton compiles for" in line


@natively
@pytest.mark.parametrize("capability", compiled.SHARED)
@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("uniform_spline", "bf16"),
        ("rational", "fp32"),
        *(
            pytest.param(family, "tf32x3", marks=pytest.mark.slow)
            for family in dict.fromkeys(FAMILIES)
        ),
    ],
)
def test_every_kernel_compiles_for_gpus(
    family: str,
    kind: str,
    capability: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    """To machine code without a driver: tiles fit in shared memory, registers hardly spill."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for use in compiled.usage(family, kind, capability):
        record_property(use.kernel, str(use))
        assert use.shared <= compiled.SHARED[capability], use
        assert use.spilled <= compiled.MAX_SPILLED, use
