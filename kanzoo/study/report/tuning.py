"""The record of a tuning, as a report shows it, and how much the learning rate matters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kanzoo.settings import TuneConfig
from kanzoo.study.report import plots
from kanzoo.study.report.panels import MAX_PANELS
from kanzoo.study.report.plots import Panel
from kanzoo.study.report.tables import NONE, axes_text
from kanzoo.study.space import sampler
from kanzoo.study.tune import Trial, Tuning

MAX_ROWS = 200  # kinds of cell that a page lists; trials.csv has all
RATE = "optim.lr"


def tuning_record(
    tunings: Sequence[Tuning],
    options: TuneConfig,
    margins: Mapping[str, float],
    colours: Mapping[str, int],
) -> dict[str, Any] | None:
    """Rows of text and panels for the report, None where nothing was tuned.

    margins: by metric. colours: the number of every arm's colour.
    """
    if not tunings:
        return None
    panels = sensitivity(tunings, colours)
    return {
        "trials": options.trials,
        "seeds": options.seeds,
        "epochs": f"{100 * options.epochs:g} %",
        "finalists": options.finalists if options.finalists > 1 else 0,
        "finalist_seeds": options.finalist_seeds,
        "sampler": sampler(options),
        "space": [(key, _dimension(value)) for key, value in options.space.items()],
        "extra": [
            (arm, key, _dimension(value))
            for arm, space in options.extra.items()
            for key, value in space.items()
        ],
        "rows": [_row(tuning, margins[tuning.metric]) for tuning in tunings[:MAX_ROWS]],
        "left_out": max(0, len(tunings) - MAX_ROWS),
        "panels": panels[:MAX_PANELS],
        "left_out_panels": max(0, len(panels) - MAX_PANELS),
    }


def rate_range(tuning: Tuning, margin: float) -> tuple[float, float] | None:
    """The lowest and the highest tried learning rate around the best with a score within `margin`.

    By the first scores, which all trials have. None where rates were not tuned or none worked.
    """
    order = _by_rate(tuning)
    if not order:
        return None
    sign = -1.0 if tuning.mode == "max" else 1.0
    errors = [sign * value for _, value, _ in order]
    best = errors.index(min(errors))
    near = [error - errors[best] <= margin for error in errors]
    low = high = best
    while low > 0 and near[low - 1]:
        low -= 1
    while high < len(order) - 1 and near[high + 1]:
        high += 1
    return order[low][0], order[high][0]


def sensitivity(tunings: Sequence[Tuning], colours: Mapping[str, int]) -> list[Panel]:
    """First scores against the learning rate: a panel for all arms of a task."""
    several = len({tuning.cell.match for tuning in tunings}) > 1
    groups: dict[str, list[Tuning]] = {}
    for tuning in tunings:
        cell = tuning.cell
        match = cell.match if several else ""
        names = (cell.data, cell.model, match, axes_text(dict(cell.axes)))
        groups.setdefault(" · ".join(filter(None, names)), []).append(tuning)
    return [
        plots.rates(title, points, f"validation {group[0].metric}", colours)
        for title, group in groups.items()
        if (points := {tuning.cell.arm: rows for tuning in group if (rows := _by_rate(tuning))})
    ]


def _by_rate(tuning: Tuning) -> list[tuple[float, float, bool]]:
    """Learning rate and first score of every trial, and whether it was chosen, by rate."""
    rows = [
        (trial.settings.get(RATE), trial.first, trial is tuning.best) for trial in tuning.trials
    ]
    return sorted((r, v, chosen) for r, v, chosen in rows if r is not None and v is not None)


def _row(tuning: Tuning, margin: float) -> dict[str, Any]:
    cell, best = tuning.cell, tuning.best
    rates = rate_range(tuning, margin)
    return {
        "data": cell.data,
        "model": cell.model,
        "arm": cell.arm,
        "match": cell.match,
        "axes": axes_text(dict(cell.axes)),
        "trials": len(tuning.trials),
        "failed": sum(bool(trial.reasons) for trial in tuning.trials),
        "first": _value(tuning.trials[0]),
        "best": _value(best),
        "number": "" if best is None else best.number + 1,
        "settings": ", ".join(tuning.words) or "the recipe: no trial worked",
        "rates": NONE if rates is None else f"{rates[0]:.2g} to {rates[1]:.2g}",
        "factor": NONE if rates is None else f"{rates[1] / rates[0]:.2g}×",  # noqa: RUF001
    }


def _value(trial: Trial | None) -> str:
    if trial is None or trial.value is None:
        return NONE
    return f"{trial.value:.4g}" + (f" ({len(trial.scores)})" if len(trial.scores) > 1 else "")


def _dimension(value: dict[str, Any]) -> str:
    if "choices" in value:
        return "one of " + ", ".join(map(str, value["choices"]))
    return f"{value['low']:g} to {value['high']:g}" + (", logarithmic" if value.get("log") else "")
