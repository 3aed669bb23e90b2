"""Building the kernels at first use: the cache, broken binaries, processes, forks."""

import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kernel_cases import make_case, needs_compiler

from kanzoo.layers import kernels
from kanzoo.layers.kernels import compile, compiled, runtime

pytestmark = needs_compiler


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KANZOO_CACHE", str(tmp_path))
    return tmp_path


def test_damaged_binary_is_built_again(cache: Path) -> None:
    binary = compile.build("linear", 1, "float")
    assert binary.parent == cache
    whole = binary.read_bytes()
    built = binary.stat().st_mtime_ns
    assert compile.build("linear", 1, "float").stat().st_mtime_ns == built  # an intact one is kept
    for damaged in (whole[: len(whole) // 2], b"", whole[:-1] + b"\1\2"):
        binary.write_bytes(damaged)
        assert not compile.is_intact(binary)
        assert compile.build("linear", 1, "float") == binary
        assert compile.is_intact(binary)
        assert len(binary.read_bytes()) == len(whole)
    binary.with_suffix(".sha256").unlink()
    compile.build("linear", 1, "float")
    assert compile.is_intact(binary)


def test_key_depends_on_what_the_binary_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = compile.find_compiler()
    key = compile._key(compiler, ("-O3",))
    assert key != compile._key(compiler, ("-O2",))
    monkeypatch.setattr(compile, "cpu_features", lambda: "another machine")
    assert key != compile._key(compiler, ("-O3",))


def test_processes_build_at_once(cache: Path) -> None:
    code = (
        "from kanzoo.layers.kernels import compile; import ctypes;"
        "ctypes.CDLL(str(compile.build('linear', 0, 'double'))).kanzoo_linear_forward"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(2)
    ]
    for process in both:
        assert process.communicate(timeout=120)[1] == b""
        assert process.returncode == 0
    assert len(list(cache.glob("*.so"))) == 1
    assert compile.is_intact(next(cache.glob("*.so")))
    assert not list(cache.glob("build-*"))


def test_no_compiler_says_what_is_missing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    compile._outcome.cache_clear()
    try:
        assert not kernels.is_available()
        assert "no-such-compiler" in str(kernels.unavailable_reason())
        x, weight, residual, knots = make_case(2, 3, 4, 5, 3, "uniform")
        with pytest.raises(kernels.CompileError, match="no C\\+\\+ compiler"):
            kernels.spline_linear(x, weight, residual, knots, 3, "zero")
    finally:
        compile._outcome.cache_clear()


def test_compiler_without_openmp_builds_one_thread(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapper = cache / "plain-compiler"
    real = shutil.which(compile.find_compiler())
    wrapper.write_text(f'#!/bin/sh\ncase "$*" in *-fopenmp*) exit 1;; esac\nexec {real} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("CXX", str(wrapper))
    assert compile.is_intact(compile.build("linear", 1, "float"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore")
def test_forked_child_does_not_hang() -> None:
    x, weight, _, knots = make_case(400, 20, 40, 5, 3, "uniform", residual=False)
    want = kernels.spline_linear(x, weight, None, knots, 3, "zero")  # the parent's threads exist
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)

    def work() -> None:
        y = torch.zeros(400, 40)
        sizes = compiled._sizes(x, weight, knots, 3, "zero")
        runtime.call("kanzoo_linear_forward", 3, [x, weight, None, knots, y, None], sizes)
        send.send((runtime.thread_count(10**9), y.numpy().tobytes()))

    child = context.Process(target=work)
    child.start()
    assert receive.poll(60)
    threads, found = receive.recv()
    child.join(10)
    assert threads == 1
    assert found == want.numpy().tobytes()
