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
from kernel_cases import EXTRAPOLATIONS
from pairwise import pairwise

import kanzoo
from kanzoo.layers import KANConv2d, KANLinear

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
TESTS = Path(__file__).parent
natively = pytest.mark.skipif(
    "TRITON_INTERPRET" in os.environ, reason="TRITON_INTERPRET is set: nothing is compiled"
)


@pytest.mark.parametrize("chosen", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_kernels_in_the_interpreter(chosen: str) -> None:
    """In a process of its own: the variable counts before Triton is imported."""
    words = ["-q", "-n", "0", "-p", "no:cacheprovider", "-m", chosen, "triton_interpreted.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words],
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


FAMILIES = [
    *("bernstein", "bspline", "bspline_adaptive", "bspline_rbf", "chebyshev", "dog", "fourier"),
    *("mexican_hat", "morlet", "random", "rbf", "relu_kan", "rswaf"),
]  # a basis of each
Note = Callable[[str, object], None]


@pytest.fixture(autouse=True)
def _nothing_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))


def check_uses(target: str, run: Callable[[], None], record: Note) -> None:
    """Launches compile to machine code; tiles fit in shared memory, registers hardly spill."""
    with compiled.compiling(target) as uses:
        run()
    assert uses
    for use in uses:
        record(use.kernel, str(use))
        assert use.shared <= compiled.SHARED[target], use
        assert use.spilled <= compiled.MAX_SPILLED, use


@natively
@pytest.mark.parametrize("target", ["sm_90", pytest.param("gfx942", marks=pytest.mark.slow)])
def test_layers_compile_for_gpus(target: str, record_property: Note) -> None:
    def run() -> None:
        compiled.launch_layer(compiled.LARGE, torch.bfloat16)
        compiled.launch_features(compiled.SMALL)
        compiled.launch_rational((4, 6, 7, 7))

    check_uses(target, run, record_property)


@natively
@pytest.mark.slow
@pairwise(
    basis=FAMILIES,
    target=["sm_90", "gfx942"],
    sizes=[(1, 1, 1), compiled.LARGE],
    dtype=[torch.float16, torch.float32],
    precision=["highest", "high"],
    branches=[("tanh", "sigmoid"), ("gelu", "tanh")],
)
def test_every_layer_compiles_for_gpus(
    basis: str,
    target: str,
    sizes: tuple[int, int, int],
    dtype: torch.dtype,
    precision: str,
    branches: tuple[str, str],
    record_property: Note,
) -> None:
    options = {"basis": basis, "residual": branches[0], "squash": branches[1]}

    def run() -> None:
        compiled.launch_layer(sizes, dtype, **options)
        compiled.launch_features(sizes, dtype, **options)

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        check_uses(target, run, record_property)
    finally:
        torch.set_float32_matmul_precision(before)


@natively
@pytest.mark.slow
@pairwise(
    basis=["bspline", "bspline_adaptive"],
    spline_order=[1, 2, 3, 4, 5],
    extrapolation=EXTRAPOLATIONS,
    target=["sm_80", "sm_90", "gfx942"],
)
def test_every_spline_compiles_for_gpus(
    basis: str, spline_order: int, extrapolation: str, target: str, record_property: Note
) -> None:
    options = {"spline_order": spline_order, "extrapolation": extrapolation}
    kind = kanzoo.get_basis(basis, **options)
    check_uses(target, lambda: compiled.launch_layer(compiled.SMALL, basis=kind), record_property)
