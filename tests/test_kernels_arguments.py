"""No tensor that a caller can pass makes compiled code read or write what it must not."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import wrong_arguments
from kernel_cases import make_case, needs_compiler

from kanzoo import kernels
from kanzoo.kernels.native import enumerations
from kanzoo.kernels.native.build import SOURCES

SCRIPT = Path(wrong_arguments.__file__)


@needs_compiler
@pytest.mark.parametrize("part", [slice(0, 5), slice(5, None)], ids=["splines", "families"])
def test_tensors_that_do_not_fit_are_refused(part: slice) -> None:
    """In a process of its own, which a crash ends; without asserts, which are no checks."""
    operators = wrong_arguments.OPERATORS[part]
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


def test_checks_of_data_hold_without_asserts(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("a,b\n1,2\n3,4\n")
    code = (
        "from kanzoo.data.csv_file import CSV\n"
        "try:\n"
        f"    CSV(path={str(table)!r}, target='c').check()\n"
        "except ValueError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-O", "-c", code], capture_output=True, text=True, check=False
    )
    assert "'c'" in done.stdout, done.stdout + done.stderr
