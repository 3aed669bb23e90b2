"""`python -m kanzoo.benchmark layers|models|loop --device cuda --json FILE`.

Measures on an accelerator, from the package alone; `--roofline` estimates instead. Without
`--device` and `--roofline` it is `scripts/benchmark.py`.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from kanzoo.benchmark import device as accelerator
from kanzoo.benchmark import roofline
from kanzoo.files import write_atomic
from kanzoo.hardware import processor
from kanzoo.training.cards import CARDS

SHOWN = ("H100", "H200", "A100")  # cards that are estimated unless others are named
KINDS = ("cuda", "mps", "xpu")  # of accelerators
PARTS = ("layers", "models", "loop")
NOT_MEASURED = "not measured yet"
PUBLISHED = ("docs", "benchmarks", "gpu.json")
ROWS, FEATURES = [256, 4096, 65_536], [64, 512, 4096]


def main() -> None:
    """Measure or estimate, print the rows and write them as they come."""
    words = sys.argv[1:]
    if not any(
        word.partition("=")[0] in ("--device", "--roofline", "-h", "--help") for word in words
    ):
        from kanzoo.benchmark.main import main as benchmark

        benchmark()
        return
    parser = _parser()
    options = parser.parse_args(words)
    if options.roofline is not None and options.what != "layers":
        parser.error("--roofline estimates layers alone")
    if options.json is not None:
        try:
            check_target(options.json, options.device)
        except (ValueError, OSError) as error:
            parser.error(str(error))
    rows: list[dict[str, Any]] = []
    for row in _measured(options) if options.roofline is None else _estimates(options):
        rows.append(asdict(row))
        shown = (f"{key}={value}" for key, value in rows[-1].items() if value is not None)
        print(" ".join(shown), flush=True)
        if options.json is not None and options.roofline is None:
            _write(options, rows)  # a run that is broken off leaves what it measured
    if options.json is not None:
        _write(options, rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m kanzoo.benchmark", description=__doc__)
    parser.add_argument("what", choices=PARTS)
    either = parser.add_mutually_exclusive_group(required=True)
    either.add_argument("--device", type=reachable_device, help="cuda, cuda:1, mps, xpu or cpu")
    either.add_argument("--roofline", nargs="*", choices=CARDS, metavar="CARD")
    parser.add_argument("--json", type=Path, metavar="FILE", help="its part there is replaced")
    parser.add_argument("--rounds", type=_count, default=15)
    parser.add_argument("--rows", type=_count, nargs="+", metavar="N", help=f"not {ROWS} and more")
    parser.add_argument("--features", type=_count, nargs="+", metavar="C", help=f"not {FEATURES}")
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


def check_target(file: Path, device: torch.device | None) -> None:
    """Raise `ValueError` of one line where a file must not be written; estimates have no device."""
    if device is not None and device.type == "cpu" and file.resolve().parts[-3:] == PUBLISHED:
        raise ValueError(f"{file} is for what GPUs measure: choose another --json for a CPU")
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.exists():
        read(file)


def read(file: Path) -> dict[str, Any]:
    """The parts of a file of this command; `ValueError` of one line for others."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        parts = content.values()
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{file} is no file of this command: choose another --json") from error
    if not all(
        part == NOT_MEASURED or (isinstance(part, dict) and "rows" in part) for part in parts
    ):
        raise ValueError(f"{file} holds something else: choose another --json")
    return dict(content)


def known_parts(file: Path) -> dict[str, Any]:
    """The parts of a file of this command, which there may not be yet, those not measured too."""
    return dict.fromkeys(PARTS, NOT_MEASURED) | (read(file) if file.exists() else {})


def _sizes(options: argparse.Namespace) -> list[accelerator.Size]:
    """Rows, features and cells of layers; those of published figures too unless sizes are given."""
    rows, features = options.rows or ROWS, options.features or FEATURES
    sizes = [(n, c, g) for n in rows for c in features for g in options.grid_sizes]
    named = options.rows is None and options.features is None
    return [*sizes, *(accelerator.FIGURES if named else ())]


def _estimates(options: argparse.Namespace) -> Iterator[roofline.Estimate]:
    return roofline.estimates(options.roofline or list(SHOWN), _sizes(options))


def _measured(options: argparse.Namespace) -> Iterator[accelerator.Row]:
    torch.manual_seed(0)
    device: torch.device = options.device
    if options.what == "layers":
        return accelerator.layers(device, _sizes(options), options.rounds)
    if options.what == "models":
        return accelerator.networks(device, options.rounds, (options.rows or [None])[0])
    return accelerator.loops(device, options.grid_sizes, options.rounds)


def _write(options: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Replace one part of a file: estimates, or what was measured of layers, models or loops."""
    kept = known_parts(options.json)
    if options.roofline is not None:
        kept["estimates"] = {"reached": roofline.REACHED, "rows": rows}
    else:
        kept[options.what] = {"hardware": _hardware(options.device), "rows": rows}
    write_atomic(options.json, as_lines(kept))


def as_lines(content: dict[str, Any]) -> str:
    """JSON with a line for each row."""
    parts = []
    for name, part in content.items():
        if isinstance(part, dict):
            head = json.dumps({key: value for key, value in part.items() if key != "rows"})[1:-1]
            rows = ",\n".join(f"  {json.dumps(row)}" for row in part["rows"])
            head = head and f"{head}, "
            parts.append(f'{json.dumps(name)}: {{{head}"rows": [\n{rows}\n]}}')
        else:
            parts.append(f"{json.dumps(name)}: {json.dumps(part)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _hardware(device: torch.device) -> dict[str, str]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return {"card": name, "device": device.type, "torch": torch.__version__}


if __name__ == "__main__":
    main()
