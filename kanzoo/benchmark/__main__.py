"""`python -m kanzoo.benchmark layers|models|loop --device cuda --json FILE`.

Measures on an accelerator, from the package alone; `--roofline` estimates instead. Without
`--device` and `--roofline` it is `scripts/benchmark.py`.
"""

import argparse
import json
import platform
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from kanzoo.benchmark import device as accelerator
from kanzoo.benchmark import roofline
from kanzoo.training.cards import CARDS

SHOWN = ("H100", "H200", "A100")  # cards that are estimated unless others are named
KINDS = ("cuda", "mps", "xpu")  # of accelerators
NOT_MEASURED = "not measured yet"


def main() -> None:
    """Measure or estimate, print the rows and write them."""
    words = sys.argv[1:]
    if not any(
        word.partition("=")[0] in ("--device", "--roofline", "-h", "--help") for word in words
    ):
        from kanzoo.benchmark.main import main as benchmark

        benchmark()
        return
    options = _parser().parse_args(words)
    rows = _estimates(options) if options.roofline is not None else _measured(options)
    if options.json is not None:
        _write(options, rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m kanzoo.benchmark", description=__doc__)
    parser.add_argument("what", choices=("layers", "models", "loop"))
    parser.add_argument("--device", type=reachable_device, help="cuda, cuda:1, mps, xpu or cpu")
    parser.add_argument("--roofline", nargs="*", choices=CARDS, metavar="CARD")
    parser.add_argument("--json", type=Path, metavar="FILE", help="its part there is replaced")
    parser.add_argument("--rounds", type=_count, default=15)
    parser.add_argument("--rows", type=_count, nargs="+", default=[256, 4096, 65_536], metavar="N")
    parser.add_argument("--features", type=_count, nargs="+", default=[64, 512, 4096], metavar="C")
    parser.add_argument("--grid-sizes", type=_count, nargs="+", default=[5, 20, 50], metavar="G")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text!r}")
    return int(text)


def reachable_device(text: str) -> torch.device:
    """A device that PyTorch can reach."""
    try:
        device = torch.device(text)
        torch.zeros(1, device=device).add_(1).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        devices = ["cpu", *(k for k in KINDS if torch.get_device_module(k).is_available())]
        raise argparse.ArgumentTypeError(
            f"PyTorch finds no {text!r} on this machine, only {', '.join(devices)}"
        ) from error
    return device


def _estimates(options: argparse.Namespace) -> list[dict[str, Any]]:
    cards = options.roofline or list(SHOWN)
    sizes = (options.rows, options.features, options.grid_sizes)
    return [_shown(asdict(row)) for row in roofline.estimates(cards, *sizes)]


def _measured(options: argparse.Namespace) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    device: torch.device = options.device
    grid_sizes, rounds = options.grid_sizes, options.rounds
    if options.what == "layers":
        rows = accelerator.layers(device, options.rows, options.features, grid_sizes, rounds)
    elif options.what == "models":
        rows = accelerator.networks(device, rounds)
    else:
        rows = accelerator.loops(device, grid_sizes, rounds)
    return [_shown(asdict(row)) for row in rows]


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    print(" ".join(f"{key}={value}" for key, value in row.items() if value is not None), flush=True)
    return row


def _write(options: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Replace one part of a file: estimates, or what was measured of layers, models or loops."""
    kept: dict[str, Any] = {name: NOT_MEASURED for name in ("layers", "models", "loop")}
    if options.json.is_file():
        kept |= json.loads(options.json.read_text())
    if options.roofline is not None:
        kept["estimates"] = {"reached": roofline.REACHED, "rows": rows}
    else:
        kept[options.what] = {"hardware": _hardware(options.device), "rows": rows}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(as_lines(kept))


def as_lines(content: dict[str, Any]) -> str:
    """JSON with a line for each row."""
    parts = []
    for name, part in content.items():
        if isinstance(part, dict):
            head = {key: value for key, value in part.items() if key != "rows"}
            rows = ",\n".join(f"  {json.dumps(row)}" for row in part["rows"])
            parts.append(f'{json.dumps(name)}: {json.dumps(head)[:-1]}, "rows": [\n{rows}\n]}}')
        else:
            parts.append(f"{json.dumps(name)}: {json.dumps(part)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _hardware(device: torch.device) -> dict[str, str]:
    name = platform.processor() or platform.machine()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return {"card": name, "device": device.type, "torch": torch.__version__}


if __name__ == "__main__":
    main()
