"""Everything that only a GPU can show: python scripts/gpu.py [PART ...]

Parts, all unless named: "tests" of bases, layers and networks on the device; "layers", "models" and
"loop" of `python -m kanzoo.benchmark`; "accuracy", of MNIST beside the CPU, with times of steps;
"repeats", ten of a run. They go to `docs/benchmarks/gpu.json`, "tests", "accuracy" and "repeats"
under "checks". `--device cpu --small` tries the script itself, and writes to `runs/gpu.json`.
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
from kanzoo.benchmark import __main__ as benchmark  # noqa: E402
from kanzoo.benchmark.__main__ import (  # noqa: E402
    PUBLISHED,
    as_lines,
    check_target,
    known_parts,
    reachable_device,
)
from kanzoo.files import write_atomic  # noqa: E402

PARTS = ("tests", *benchmark.PARTS, "accuracy", "repeats")
ON_DEVICE = ("bases", "layers", "models", "conv", "grids", "squash")
SHORT = ["logger=csv", "callbacks.progress=false", "match=none", "model=mlp", "layers=kan"]
NET = ["model.width=64", "model.depth=1", "model.norm=none", "data.batch_size=256"]
EPOCHS = "trainer.max_epochs=10"
SMALL = {
    "layers": ["--rows", "64", "--features", "16", "--grid-sizes", "5", "--rounds", "2"],
    "models": ["--rows", "2", "--rounds", "1"],
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
    worked, said = call("scripts/train.py", *options, seconds=300)
    if not worked:
        raise RuntimeError(said)
    return next((Path(folder) / name).rglob("result.json")).parent


def accuracy(device: str, small: bool) -> dict[str, Any]:
    """Test accuracies of the same run by several trainers, and milliseconds of their steps."""
    data = ["data=digits", "trainer.max_epochs=2"] if small else ["data=mnist", EPOCHS]
    gpu = trainer(device)
    trainers = [["trainer=cpu"], gpu, [*gpu, "trainer.precision=bf16-mixed"]]
    if device.startswith("cuda"):
        trainers.append([*gpu, "trainer.cuda_graph=true"])
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, words in enumerate(trainers):
            run = train(folder, f"accuracy{number}", *data, *NET, *words)
            result = json.loads((run / "result.json").read_text())
            scores = {"accuracy": result["test"]["accuracy"], "step_ms": result["step_time_ms"]}
            found[" ".join(words)] = scores
    return found


def repeats(device: str, small: bool) -> str:
    """How many different weights ten repeats of a run end with."""
    ends: list[dict[str, torch.Tensor]] = []
    words = ["data=digits", "trainer.max_epochs=2", *trainer(device)]
    count = 2 if small else 10
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            run = train(folder, f"repeat{number}", *words)
            state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
            if not any(all(torch.equal(v, end[k]) for k, v in state.items()) for end in ends):
                ends.append(state)
    return f"{count} runs, {len(ends)} different"


def trainer(device: str) -> list[str]:
    """The trainer on a device."""
    return ["trainer=cpu"] if device == "cpu" else ["trainer=gpu"]


def tests(device: str, small: bool) -> str:
    """The last line of the fast tests of bases, layers and networks on a device."""
    files = [str(file) for name in ON_DEVICE for file in ROOT.glob(f"tests/test_{name}*.py")]
    chosen = ["-k", "edges and bspline"] if small else []
    words = ["-m", "pytest", "-q", "-n", "0", "-m", "not slow", *chosen, *files]
    worked, said = call(*words, seconds=500, KANZOO_TEST_DEVICE=device)
    return said if worked else f"failed: {said}"


CHECKS = {"tests": tests, "accuracy": accuracy, "repeats": repeats}


def main() -> None:
    """Run the parts one by one; what fails is written down too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--device", type=reachable_device, default="cuda")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if wrong := [part for part in options.parts if part not in PARTS]:
        parser.error(f"no part {wrong[0]!r}, only {', '.join(PARTS)}")
    trial = options.small or options.device.type == "cpu"
    file = options.json or ROOT.joinpath(*(("runs", "gpu.json") if trial else PUBLISHED))
    try:
        check_target(file, options.device)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    device = str(options.device)
    for part in options.parts or PARTS:
        found: Any = None
        began = time.monotonic()
        if part in CHECKS:
            try:
                found = CHECKS[part](device, options.small)
            except (RuntimeError, StopIteration) as error:
                found = f"failed: {error}"
        else:
            words = ["-m", "kanzoo.benchmark", part, "--device", device, "--json", str(file)]
            sizes = (SMALL if options.small else FULL)[part]
            worked, said = call(*words, *sizes, seconds=500)
            found = "measured" if worked else f"failed: {said}"
        note(file, options.device, part, found, time.monotonic() - began)
    print(f"written to {file}")


def note(file: Path, device: torch.device, part: str, found: Any, seconds: float) -> None:
    """Write what a part came to, in place of what it came to before."""
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    row = {"check": part, "found": found, "seconds": round(seconds, 1)}
    row |= {"card": card, "torch": torch.__version__}
    content = known_parts(file)
    before = content.get("checks", {}).get("rows", [])
    rows = [*(r for r in before if r["check"] != part), row]
    write_atomic(file, as_lines({**content, "checks": {"rows": rows}}))


if __name__ == "__main__":
    main()
