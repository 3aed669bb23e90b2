"""The record of a tuning, as a report shows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kanzoo.settings import TuneConfig
from kanzoo.study.tune import Tuning

MAX_ROWS = 200  # kinds of cell and failed trials that a page lists; trials.csv has all


def tuning_record(tunings: Sequence[Tuning], options: TuneConfig) -> dict[str, Any] | None:
    """Rows of text for the report, None where nothing was tuned."""
    if not tunings:
        return None
    return {
        "trials": options.trials,
        "seeds": options.seeds,
        "sampler": f"Optuna's TPE, seed {options.seed}, {options.batch} trials at once",
        "space": [(key, _dimension(value)) for key, value in options.space.items()],
        "extra": [
            (arm, key, _dimension(value))
            for arm, space in options.extra.items()
            for key, value in space.items()
        ],
        "rows": [_row(tuning) for tuning in tunings[:MAX_ROWS]],
        "left_out": max(0, len(tunings) - MAX_ROWS),
    }


def _row(tuning: Tuning) -> dict[str, Any]:
    cell, best = tuning.cell, tuning.best
    worked = [trial["value"] for trial in tuning.trials if trial["value"] is not None]
    usual = tuning.trials[0]["value"] if tuning.trials else None
    return {
        "data": cell.data,
        "model": cell.model,
        "arm": cell.arm,
        "match": cell.match,
        "axes": " · ".join(f"{name} {value}" for name, value in cell.axes if value),
        "trials": len(tuning.trials),
        "failed": len(tuning.trials) - len(worked),
        "first": "–" if usual is None else f"{usual:.4g}",  # noqa: RUF001
        "best": "–" if best is None else f"{best['value']:.4g}",  # noqa: RUF001
        "number": "" if best is None else best["trial"] + 1,
        "settings": ", ".join(tuning.words) or "the recipe: no trial worked",
    }


def _dimension(value: dict[str, Any]) -> str:
    if "choices" in value:
        return "one of " + ", ".join(map(str, value["choices"]))
    return f"{value['low']:g} to {value['high']:g}" + (", logarithmic" if value.get("log") else "")
