"""Everything that only a GPU can show, in ten minutes: python scripts/gpu.py

Writes `docs/benchmarks/gpu.json`: layers, networks and loops as `python -m kanzoo.benchmark`
measures them, and under "checks" the tests of bases, layers and networks on the device, MNIST
beside the CPU, and ten repeats of a run. `--device cpu --small` tries the script itself.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from kanzoo.benchmark.__main__ import as_lines, reachable_device  # noqa: E402

ON_DEVICE = ("bases", "layers", "models", "conv", "grids", "squash")
SHORT = ["logger=csv", "callbacks.progress=false", "match=none", "model=mlp", "layers=kan"]
SMALL = {
    "layers": ["--rows", "64", "--features", "16", "--grid-sizes", "5", "--rounds", "2"],
    "models": ["--rounds", "1"],
    "loop": ["--grid-sizes", "5", "--rounds", "2"],
}
FULL = {"layers": ["--rounds", "5"], "models": ["--rounds", "5"], "loop": []}


def call(*words: str, seconds: float, **variables: str) -> tuple[bool, str]:
    """Whether a command worked, and the last line of what it said."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **variables}
    print("$", *words, flush=True)
    try:
        done = subprocess.run(
            [sys.executable, *words],
            cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return False, f"took longer than {seconds:g} s"
    lines = (done.stdout + done.stderr).strip().splitlines()
    print("  " + (lines[-1] if lines else ""), flush=True)
    return done.returncode == 0, lines[-1] if lines else ""


def train(folder: str, name: str, *words: str) -> Path:
    """The folder of a run."""
    options = [*SHORT, f"runs={folder}", f"name={name}", *words]
    worked, said = call("scripts/train.py", *options, seconds=200)
    if not worked:
        raise RuntimeError(said)
    return next((Path(folder) / name).rglob("result.json")).parent


def accuracy(data: list[str], trainers: list[list[str]]) -> dict[str, float]:
    """Test accuracies of the same run by several trainers."""
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for number, trainer in enumerate(trainers):
            run = train(folder, f"accuracy{number}", *data, *trainer)
            found[" ".join(trainer)] = json.loads((run / "result.json").read_text())["test"]
    return {name: scores["accuracy"] for name, scores in found.items()}


def repeats(trainer: list[str], count: int) -> int:
    """How many different weights so many repeats of a run end with."""
    ends: list[dict[str, torch.Tensor]] = []
    words = ["data=digits", "trainer.max_epochs=2", *trainer]
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            run = train(folder, f"repeat{number}", *words)
            state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
            if not any(all(torch.equal(v, end[k]) for k, v in state.items()) for end in ends):
                ends.append(state)
    return len(ends)


def main() -> None:
    """Run all, part by part; what fails is written down too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", type=reachable_device, default="cuda")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--json", type=Path, default=ROOT / "docs" / "benchmarks" / "gpu.json")
    options = parser.parse_args()
    began, checks = time.monotonic(), {}
    small, device = options.small, str(options.device)
    tests = [str(file) for name in ON_DEVICE for file in ROOT.glob(f"tests/test_{name}*.py")]
    chosen = ["-k", "edges and bspline"] if small else []
    words = ["-m", "pytest", "-q", "-n", "0", "-m", "not slow", *chosen, *tests]
    worked, said = call(*words, seconds=300, KANZOO_TEST_DEVICE=device)
    checks["tests"] = said if worked else f"failed: {said}"
    for part, sizes in (SMALL if small else FULL).items():
        words = ["-m", "kanzoo.benchmark", part, "--device", device, "--json", str(options.json)]
        worked, said = call(*words, *sizes, seconds=150)
        if not worked:
            checks[part] = f"failed: {said}"
    on_device = ["trainer=cpu"] if device == "cpu" else ["trainer=gpu"]
    data = ["data=digits" if small else "data=mnist", "trainer.max_epochs=2"]
    pairs = [["trainer=cpu"], on_device, [*on_device, "trainer.precision=bf16-mixed"]]
    for name, check in (
        ("accuracy", lambda: accuracy(data, pairs)),
        ("different_repeats", lambda: repeats(on_device, 2 if small else 10)),
    ):
        try:
            found: Any = check()
        except RuntimeError as error:
            found = f"failed: {error}"
        checks[name] = found
    card = torch.cuda.get_device_name(options.device) if options.device.type == "cuda" else device
    hardware = {"card": card, "torch": torch.__version__, "seconds": time.monotonic() - began}
    content = json.loads(options.json.read_text()) if options.json.is_file() else {}
    rows = [{"check": name, "found": found} for name, found in checks.items()]
    options.json.write_text(as_lines({**content, "checks": {"hardware": hardware, "rows": rows}}))


if __name__ == "__main__":
    main()
