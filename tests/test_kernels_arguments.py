"""No tensor that a caller can pass makes compiled code read or write what it must not."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import wrong_arguments
from kernel_cases import make_case, needs_compiler

from kanzoo import kernels
from kanzoo.data import csv_file
from kanzoo.kernels.native import enumerations
from kanzoo.kernels.native.build import SOURCES

SCRIPT = Path(wrong_arguments.__file__)


@needs_compiler
def test_tensors_that_do_not_fit_are_refused() -> None:
    """In a process of its own, which a crash ends; without asserts, which are no checks."""
    operators = wrong_arguments.OPERATORS
    command = [sys.executable, "-O", str(SCRIPT), *operators]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]
    counts = dict(line.split() for line in done.stdout.splitlines())
    assert counts.keys() == set(operators)
    assert min(map(int, counts.values())) > 50


@needs_compiler
def test_a_weight_that_changed_before_the_backward_is_refused() -> None:
    x, weight, _, knots = make_case(20, 6, 5, 4, 3, "uniform")
    weight = torch.nn.Parameter(weight)
    y = kernels.direct_linear(x, weight, None, "silu", knots, 3, "zero")
    weight.data = weight.data[:3, :4, :2].contiguous()
    with pytest.raises(ValueError, match="must be contiguous"):
        y.sum().backward()


def test_names_in_sources_are_those_of_python() -> None:
    text = "".join(path.read_text() for path in SOURCES.glob("*.[hc]pp"))
    defined = {flag.removeprefix("-D").split("=")[0] for flag in enumerations.macros()}
    used = {
        word
        for word in text.replace("(", " ").replace(":", " ").replace(")", " ").split()
        if word.startswith(tuple(f"{kind}_" for kind in enumerations.NUMBERS))
    }
    used = {word.rstrip(",;") for word in used}
    assert used <= defined
    assert {name for name in defined if name.startswith("FAMILY_")} <= used


def test_checks_of_data_hold_without_asserts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code as `python -O` compiles it."""
    table = tmp_path / "table.csv"
    table.write_text("a,b\n1,2\n3,4\n")
    path = str(csv_file.__file__)
    module = ModuleType("csv_file_optimised")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(Path(path).read_text(), path, "exec", optimize=1), module.__dict__)
    with pytest.raises(ValueError, match="'c'"):
        module.CSV(path=str(table), target="c").check()
