"""The benchmark of accelerators, without one: what it counts, and that it runs from the package."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kanzoo.bases.base import get_basis
from kanzoo.benchmark import device, textbook
from kanzoo.benchmark.__main__ import NOT_MEASURED, main
from kanzoo.benchmark.roofline import CARDS, Layer
from kanzoo.layers import KANLinear
from kanzoo.registry import conf_dir

MISSING = [
    *("hydra", "omegaconf", "wandb", "lightning", "rich", "torchmetrics", "torchvision"),
    *("scipy", "sklearn", "pandas", "matplotlib", "optuna", "pebble", "PIL"),
]
BARE = f"""
import runpy, sys
for name in {MISSING}:
    sys.modules[name] = None
from kanzoo.benchmark import device
device.KINDS = ("bf16",)
runpy.run_module("kanzoo.benchmark", run_name="__main__")
"""


def run(*words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BARE, *words],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_command_needs_the_package_alone(tmp_path: Path) -> None:
    """On the CPU, with Triton's interpreter; parts of the file are replaced one by one."""
    file = tmp_path / "gpu.json"
    sizes = ("--rows", "8", "--features", "4", "--grid-sizes", "5")
    run("layers", "--roofline", "H100", *sizes, "--json", str(file))
    content = json.loads(file.read_text())
    assert content["layers"] == content["models"] == content["loop"] == NOT_MEASURED
    assert [row["kind"] for row in content["estimates"]["rows"]] == ["bf16", "tf32", "fp32"]
    run("loop", "--device", "cpu", *sizes, "--rounds", "1", "--json", str(file))
    assert json.loads(file.read_text())["estimates"] == content["estimates"]
    rows = json.loads(file.read_text())["loop"]["rows"]
    assert [row["what"] for row in rows] == ["loop"]
    run("models", "--device", "cpu", "--rows", "2", "--rounds", "1", "--json", str(file))
    more = json.loads(file.read_text())["models"]["rows"]
    assert {"chebyshev", "unet, bspline", "vit, rational"} <= {row["name"] for row in more}
    assert all(row["step_ratio"] > 0 for row in (*rows, *more))


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--device", "cuda:99"], "PyTorch finds no 'cuda:99' on this machine, only cpu"),
        (["--device", "cdua"], "PyTorch finds no 'cdua'"),
        (["--device", "cpu", "--rows", "0"], "must be a whole number from 1, got '0'"),
        (["--device", "cpu", "--json", "docs/benchmarks/gpu.json"], "is for what GPUs measure"),
        (["--device", "cpu", "--json", __file__], "is no file of this command"),
        (["--device", "cpu", "--roofline"], "not allowed with"),
        (["--roofline", "V1000"], "invalid choice: 'V1000'"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    words: list[str],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark", "layers", *words])
    with pytest.raises(SystemExit):
        main()
    *_, line = capsys.readouterr().err.splitlines()
    assert reason in line


@pytest.mark.parametrize(
    ("functions", "kind", "milliseconds"),
    [(8, "bf16", 6.8), (23, "bf16", 19.5), (53, "bf16", 44.8), (8, "tf32", 13.7)],
)
def test_estimates_of_products(functions: int, kind: str, milliseconds: float) -> None:
    """2^20 rows, 512 to 512 features: 2 N C O T operations at 65 % of an H100's peak."""
    forward, step = Layer(CARDS["H100"], kind, 2**20, 512, functions).fused()
    assert 1e3 * forward == pytest.approx(milliseconds, rel=0.02)
    assert 3 * forward <= step


def test_features_that_are_never_read_cost_no_bytes() -> None:
    """Few outputs: memory bounds ready-made features, and the fused kernel gains."""
    layer = Layer(CARDS["H100"], "bf16", 65_536, 64, 24)
    assert layer.fused()[0] < layer.ready()[0]
    assert layer.one_product() > layer.ready()[1]


def test_textbook_layers_are_layers_of_the_zoo() -> None:
    """The same functions and weights, so that times are of the same thing."""
    x = torch.linspace(-2.9, 2.9, 60).view(20, 3)
    bells = {"grid_size": 8, "grid_range": (-3.0, 3.0)}
    for usual, basis in (
        (textbook.Recursion(3, 5, torch.device("cpu")), get_basis("bspline")),
        (textbook.Gaussians(3, 5, torch.device("cpu")), get_basis("rbf", **bells)),
    ):
        layer = KANLinear(3, 3, basis=basis)
        with torch.no_grad():
            local = usual.local.weight.view(3, 3, -1)  # (O, C, K)
            layer.weight.copy_(
                torch.cat([local, usual.base.weight.unsqueeze(-1)], -1).permute(1, 2, 0)
            )
            layer.bias.copy_(usual.local.bias)
        torch.testing.assert_close(usual(x), layer(x))


def test_every_asked_size_has_an_estimate_until_it_is_measured() -> None:
    """In the table of the documentation: three cards, 256 to 65,536 rows, 64 to 4,096 features."""
    file = conf_dir().parent / "docs" / "benchmarks" / "gpu.json"
    if not file.is_file():
        pytest.skip("installed without docs/")
    content = json.loads(file.read_text(encoding="utf-8"))
    for part in ("layers", "models", "loop"):
        assert content[part] == NOT_MEASURED or content[part]["hardware"]["device"] != "cpu"
    sizes = [(n, c, g) for n in (256, 4096, 65_536) for c in (64, 512, 4096) for g in (5, 20, 50)]
    sizes += device.FIGURES
    asked = {
        (card, kind, *s) for card in ("H100", "H200") for kind in ("bf16", "fp32") for s in sizes
    }
    keys = ("card", "kind", "rows", "features", "grid_size")
    assert asked <= {tuple(row[key] for key in keys) for row in content["estimates"]["rows"]}
