"""Which panels a report draws: the selection of runs, and caps that keep a large study readable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from kanzoo.study import plots
from kanzoo.study.plots import Panel
from kanzoo.study.stats import Verdict
from kanzoo.study.tables import finished

MAX_PANELS = 24
MAX_CURVES = 10  # runs read for one line
COSTS = {
    "params": "trainable parameters",
    "flops": "forward FLOPs",
    "step_time_ms": "step time (ms)",
    "peak_memory_mb": "peak memory (MB)",
}


def effects(verdicts: Sequence[Verdict], colours: Mapping[str, int]) -> tuple[list[Panel], int]:
    """A forest of intervals per (data, model), and how many there would be without the cap."""
    groups: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in verdicts:
        groups.setdefault((verdict.data, verdict.model), []).append(verdict)
    several = len({v.match for v in verdicts}) > 1
    panels = [
        plots.forest(
            " · ".join(key),
            rows,
            [f"{v.arm} · {v.match}" if several else v.arm for v in rows],
            [colours[v.arm] for v in rows],
        )
        for key, rows in list(groups.items())[:MAX_PANELS]
    ]
    return panels, len(groups)


def costs(
    results: pd.DataFrame, colours: Mapping[str, int], markers: Mapping[str, int]
) -> tuple[list[Panel], int]:
    """The metric against each cost, a panel per (data, cost) that was measured."""
    usable = results[finished(results)]
    wanted = []
    for data, rows in usable.groupby("data"):
        for name, label in COSTS.items():
            points = rows.groupby(["model", "arm", "match"], as_index=False).agg(
                cost=(name, "median"), mean=("test", "mean"), std=("test", "std")
            )
            points = points[points["cost"] > 0]
            if len(points):
                wanted.append((f"{data} · {label}", points, label, *_metric(rows)))
    drawn = [plots.cost(*panel, colours=colours, markers=markers) for panel in wanted[:MAX_PANELS]]
    return drawn, len(wanted)


def curves(
    results: pd.DataFrame, baseline: str, colours: Mapping[str, int], runs: Path
) -> tuple[list[Panel], int]:
    """Learning curves per (data, model, budget mode), read from the runs that are drawn only."""
    usable = results[finished(results)]
    twins, others = usable[usable["arm"] == baseline], usable[usable["arm"] != baseline]
    several = others["match"].nunique() > 1
    groups = list(others.groupby(["data", "model", "match"]))
    panels = []
    for (data, model, match), rows in groups[:MAX_PANELS]:
        own = twins[(twins["data"] == data) & (twins["model"] == model)]
        same = own[own["match"] == match]
        shown = pd.concat([same if len(same) or own["match"].nunique() > 1 else own, rows])
        metric, _ = _metric(rows)
        column, tables = _histories(shown, metric, runs)
        if tables:
            title = " · ".join(map(str, (data, model, match) if several else (data, model)))
            ordered = {arm: tables[arm] for arm in sorted(tables, key=lambda arm: colours[arm])}
            panels.append(plots.curves(title, ordered, column, colours))
    return panels, len(groups) if len(groups) > MAX_PANELS else len(panels)


def _metric(rows: pd.DataFrame) -> tuple[str, str]:
    return rows["metric"].iloc[0], rows["mode"].iloc[0]


def _histories(
    rows: pd.DataFrame, metric: str, runs: Path
) -> tuple[str, dict[str, list[pd.Series]]]:
    """Series by epoch of every arm, of the validation metric or, where none has it, its loss."""
    read = {
        str(arm): [table for folder in group["run_dir"].head(MAX_CURVES)
              if (table := _history(runs / folder / "metrics.csv")) is not None]
        for arm, group in rows.groupby("arm")
    }  # fmt: skip
    for column in (f"val/{metric}", "val/loss"):
        series = {
            arm: [t.dropna(subset=[column]).groupby("epoch")[column].last()
                  for t in tables if column in t]
            for arm, tables in read.items()
        }  # fmt: skip
        series = {arm: [s for s in found if len(s)] for arm, found in series.items()}
        if any(series.values()):
            return column, {arm: found for arm, found in series.items() if found}
    return "", {}


def _history(path: Path) -> pd.DataFrame | None:
    """The epochs and validation columns of a run, None where it left no readable record."""
    try:
        table = pd.read_csv(path, usecols=lambda name: name == "epoch" or name.startswith("val/"))
        return table.apply(pd.to_numeric, errors="coerce") if "epoch" in table else None
    except (OSError, ValueError):
        return None
