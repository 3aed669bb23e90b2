"""Building the kernels at first use: the cache, broken binaries, processes, forks."""

import ctypes
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kernel_cases import make_case, needs_compiler

from kanzoo import kernels
from kanzoo.kernels.native import build as compile
from kanzoo.kernels.native import call as runtime
from kanzoo.kernels.spline.calls import bind_forward, sizes_of

pytestmark = needs_compiler


def forget() -> None:
    """Load libraries again."""
    compile._outcome.cache_clear()
    compile.load.cache_clear()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KANZOO_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.slow
def test_damaged_binary_is_built_again(cache: Path) -> None:
    binary = compile.build("linear", 1, "float")
    assert binary.parent == cache
    whole, checksum = binary.read_bytes(), binary.with_suffix(".sha256")
    built = binary.stat().st_mtime_ns
    assert compile.build("linear", 1, "float").stat().st_mtime_ns == built  # an intact one is kept
    stored = checksum.read_bytes()
    checksum.unlink()
    assert not compile.is_intact(binary)
    checksum.write_bytes(stored)
    for damaged in (whole[: len(whole) // 2], b"", whole[:-1] + b"\1\2"):
        binary.write_bytes(damaged)
        assert not compile.is_intact(binary)
    assert compile.build("linear", 1, "float") == binary
    assert compile.is_intact(binary)
    assert len(binary.read_bytes()) == len(whole)


def test_key_depends_on_what_the_binary_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = compile.find_compiler()
    key = compile._key(compiler, ("-O3",))
    assert key != compile._key(compiler, ("-O2",))
    monkeypatch.setattr(compile, "cpu_features", lambda: "another machine")
    assert key != compile._key(compiler, ("-O3",))


def build_and_load() -> None:
    assert ctypes.CDLL(str(compile.build("linear", 0, "double"))).kanzoo_linear_forward


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore")
def test_processes_build_at_once(cache: Path) -> None:
    fork = multiprocessing.get_context("fork")
    both = [fork.Process(target=build_and_load) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(timeout=120)
        assert process.exitcode == 0
    assert len(list(cache.glob("*.so"))) == 1
    assert compile.is_intact(next(cache.glob("*.so")))
    assert not list(cache.glob("build-*"))


def test_no_compiler_says_what_is_missing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    forget()
    try:
        assert not kernels.is_available()
        assert "no-such-compiler" in str(kernels.unavailable_reason())
        x, weight, residual, knots = make_case(2, 3, 4, 5, 3, "uniform")
        with pytest.raises(kernels.CompileError, match="no C\\+\\+ compiler"):
            kernels.spline_linear(x, weight, residual, knots, 3, "zero")
    finally:
        forget()


@pytest.mark.slow
def test_compiler_from_a_python_package(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ziglang", reason="pip install kanzoo[fast]")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(compile, "COMPILERS", ())
    assert Path(compile.find_compiler()[0]).stem == "zig"
    x, weight, residual, knots = make_case(400, 20, 40, 5, 3, "random")
    want = kernels.dense_linear(x, weight, residual, knots, 3, "linear")
    forget()
    try:
        found = kernels.spline_linear(x, weight, residual, knots, 3, "linear")
    finally:
        forget()
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)
    assert list(cache.glob("linear-*.so"))


def test_threads_of_a_process_without_pytorch(tmp_path: Path) -> None:
    """Where there is no libgomp to be found, threads are started for the call."""
    x, weight, _, knots = make_case(4000, 20, 40, 5, 3, "uniform", residual=False)
    want = kernels.spline_linear(x, weight, None, knots, 3, "zero")
    for name, tensor in (("x", x), ("weight", weight), ("knots", knots)):
        (tmp_path / name).write_bytes(tensor.numpy().tobytes())
    sizes = [4000, 20, 40, 5, 8, 1, 0, 3, 0]
    code = f"""
import ctypes, pathlib
folder = pathlib.Path({str(tmp_path)!r})
library = ctypes.CDLL({str(compile.build("linear", 3, "float"))!r})
try:
    ctypes.CDLL(None).GOMP_parallel
    raise SystemExit("libgomp is there")
except AttributeError:
    pass
x, weight, knots = ((folder / name).read_bytes() for name in ("x", "weight", "knots"))
y = ctypes.create_string_buffer(4 * 4000 * 40)
sizes = (ctypes.c_int64 * 9)(*{sizes})
assert library.kanzoo_linear_forward(x, weight, None, knots, y, None, sizes) == 0
(folder / "y").write_bytes(y.raw)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    found = torch.frombuffer(bytearray((tmp_path / "y").read_bytes()), dtype=torch.float32)
    torch.testing.assert_close(found.view(4000, 40), want)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore")
def test_forked_child_does_not_hang() -> None:
    x, weight, _, knots = make_case(400, 20, 40, 5, 3, "uniform", residual=False)
    want = kernels.spline_linear(x, weight, None, knots, 3, "zero")  # the parent's threads exist
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)

    def work() -> None:
        y = torch.zeros(400, 40)
        shapes = (x.shape, weight.shape, knots.shape)
        sizes = sizes_of(*shapes, 3, "zero", None, runtime.max_threads())
        bind_forward(sizes, x, weight, None, knots, y, None)()
        send.send((runtime.thread_count(10**9), y.numpy().tobytes()))

    child = context.Process(target=work)
    child.start()
    assert receive.poll(60)
    threads, found = receive.recv()
    child.join(10)
    assert threads == 1
    assert found == want.numpy().tobytes()
