"""The command that trains one run, or with `-m` several one after the other."""

import logging
import sys
from pathlib import Path
from typing import Any

from kanzoo.errors import BUSY_CODE, BusyError, DivergedError
from kanzoo.run.busy import busy_line
from kanzoo.run.command import run_command, shown, user_errors
from kanzoo.run.fit import fit_alone, skip
from kanzoo.run.prepare import check_machine, prepare
from kanzoo.rundir import Config, RunDir, is_first_process
from kanzoo.training.watch import end_without_contact, is_lost_contact

log = logging.getLogger("kanzoo")


def main() -> None:
    """Entry of `scripts/train.py`: one run, or with `-m` several one after the other."""
    run_command("train", _job)


def _job(config: Config) -> None:
    with user_errors():
        folder = RunDir.of(config)
        if skip(folder):
            return
        prepared = prepare(config)
        check_machine(prepared.config.trainer)
        prepared.dataset.load()
    if prepared.config.callbacks.progress and is_first_process() and (line := busy_line()):
        log.warning(line)
    try:
        result = fit_alone(folder, prepared)
    except (BusyError, DivergedError) as error:
        print(f"kanzoo: {shown(error)}", file=sys.stderr)
        raise SystemExit(BUSY_CODE if isinstance(error, BusyError) else 1) from None
    except RuntimeError as error:
        if prepared.config.trainer.is_one_process or not is_lost_contact(error):
            raise
        end_without_contact()
    if result is not None:
        _print_summary(result, folder)


def _print_summary(result: dict[str, Any], folder: RunDir) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=str(folder.path), title_justify="left", show_header=False)
    metric, reference = result["metric"], result["reference"].get("test", {})
    test = result["test"] or {}  # none where evaluation.test is false
    others = [name for name in test if name not in (metric, "loss")]
    rows = {
        f"test {name}": f"{_short(test[name])}"
        + (f" ({result['reference_name']}: {_short(reference[name])})" if name in reference else "")
        for name in (metric, *others)
        if test and test[name] is not None
    }
    rows |= {
        f"validation {metric}": _short(result["val"][metric]),
        "parameters": f"{result['params']:,} (twin {result['twin_params']:,})",
        "forward FLOPs": f"{result['flops']:,} (twin {result['twin_flops']:,})"
        + (f", {result['flops_sparse']:,} without zeros" if result["kan_roles"] else ""),
        "sizes": result["sizes"] + f" ({result['trunk_changed']})" * bool(result["trunk_changed"]),
        "training step": _measured(result["step_time_ms"], ".2f", "ms"),
        "peak memory": f"{result['peak_memory_mb']:.1f} MB",
        "training": f"{_measured(result['train_seconds'], '.1f', 's')}, {result['epochs']} epochs",
        "result": str(Path(folder.path) / "result.json"),
    }
    for name, value in rows.items():
        table.add_row(name, value)
    Console(markup=False, emoji=False).print(table)


def _measured(value: float | None, form: str, unit: str) -> str:
    """A time, which runs that were trained together have none of."""
    return "not measured" if value is None else f"{value:{form}} {unit}"


def _short(value: float) -> str:
    """Four decimals, or four digits where these would be zeros."""
    return f"{value:.4f}" if abs(value) >= 0.01 or value == 0 else f"{value:.3e}"


if __name__ == "__main__":
    main()
