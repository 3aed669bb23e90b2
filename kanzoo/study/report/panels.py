"""Which panels a report draws: the selection of runs, and caps that keep a large study readable.

`axes` are always the study's further axes, columns of the results.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from scipy import stats

from kanzoo.study.plan import SHORT_AXES
from kanzoo.study.report import plots
from kanzoo.study.report.plots import Panel
from kanzoo.study.report.tables import axes_text, finished
from kanzoo.study.verdict import Verdict

MAX_PANELS = 24
MAX_CURVES = 10  # runs read for one line
KEPT = ("epoch", "train/loss")  # of metrics.csv, beside all of validation
GAP = "train - val loss"
COSTS = {
    "params": "trainable parameters",
    "flops": "forward FLOPs",
    "step_time_ms": "step time (ms)",
    "peak_memory_mb": "peak memory (MB)",
}


def effects(verdicts: Sequence[Verdict], colours: Mapping[str, int]) -> tuple[list[Panel], int]:
    """A forest of intervals per (data, model, *axes), and how many there were without the cap."""
    groups: dict[tuple[str, ...], list[Verdict]] = {}
    for verdict in verdicts:
        further = (axes_text(verdict.axes), verdict.contrast)
        point = (verdict.data, verdict.model, *filter(None, further))
        groups.setdefault(point, []).append(verdict)
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


def along(
    verdicts: Sequence[Verdict], baseline: str, alpha: float, colours: Mapping[str, int]
) -> tuple[list[Panel], int]:
    """The metric along every axis of the study, a panel per point of all else."""
    verdicts = [v for v in verdicts if not v.contrast]
    several = len({v.match for v in verdicts}) > 1
    groups: dict[tuple[str, ...], list[Verdict]] = {}
    for over in dict.fromkeys(name for v in verdicts for name in v.axes):
        values = {v.axes[over] for v in verdicts} - {""}
        if len(values) < 2 or over in ("metric", "corruption"):
            continue
        for v in verdicts:
            rest = {k: value for k, value in v.axes.items() if k != over}
            kinds = [rest.get("corruption", "")]
            if over == "severity" and kinds == ["clean"]:  # where all corruptions begin
                kinds = sorted({w.axes["corruption"] for w in verdicts} - {"clean"})
            for kind in kinds:
                point = axes_text({**rest, **({"corruption": kind} if kind else {})})
                match = v.match if several else ""
                key = (over, v.metric, " · ".join(filter(None, (v.data, v.model, match, point))))
                groups.setdefault(key, []).append(v)
    wanted = [(key, rows) for key, rows in groups.items() if _values(key[0], rows) > 1]
    panels = []
    for (over, metric, title), rows in wanted[:MAX_PANELS]:
        points: dict[str, list[tuple[str, float, float]]] = {arm: [] for arm in colours}
        for v in rows:
            value = v.axes[over]
            if v.mean_arm is not None:
                half = _half(v.std_arm, v.n_seeds, alpha)
                points[v.arm].append((value, v.mean_arm, half))
            if v.mean_baseline is not None:
                half = _half(v.std_baseline, v.n_seeds, alpha)
                points[baseline].append((value, v.mean_baseline, half))
        series = {
            arm: pd.DataFrame(rows, columns=["value", "mean", "half"]).drop_duplicates("value")
            for arm, rows in points.items()
            if rows
        }
        panels.append(plots.along(title, series, over.replace("_", " "), metric, colours))
    return panels, len(wanted)


def _values(over: str, rows: Sequence[Verdict]) -> int:
    return len({v.axes[over] for v in rows if v.mean_arm is not None} - {""})


def _half(std: float | None, n: int, alpha: float) -> float:
    """Half of Student's interval of a mean."""
    if std is None or n < 2:
        return 0.0
    return float(std * stats.t.ppf(1 - alpha / 2, n - 1) / n**0.5)


def phases(
    results: pd.DataFrame, colours: Mapping[str, int], axes: Sequence[str]
) -> tuple[list[Panel], int]:
    """Scores on the part of each phase after every phase, a panel per part."""
    if "phases" not in results:
        return [], 0
    usable = results[finished(results) & results["phases"].notna()]
    panels = []
    for key, rows in usable.groupby(["data", "model", "match", *axes]):
        point = axes_text(dict(zip(axes, map(str, key[3:]), strict=True)))
        tables: dict[int, dict[str, list[pd.Series]]] = {}
        for arm, text in zip(rows["arm"], rows["phases"], strict=True):
            scores = pd.DataFrame(json.loads(text))  # (phases, parts)
            scores.index += 1
            for part in range(scores.shape[1]):
                tables.setdefault(part + 1, {}).setdefault(arm, []).append(scores[part])
        for part, by_arm in tables.items():
            title = " · ".join(filter(None, (*map(str, key[:2]), point, f"part {part}")))
            ordered = {arm: by_arm[arm] for arm in sorted(by_arm, key=lambda arm: colours[arm])}
            metric = f"test {rows['metric'].iloc[0]}"
            panels.append((title, {metric: ordered}))
    drawn = [plots.curves(*panel, colours, over="phase") for panel in panels[:MAX_PANELS]]
    return drawn, len(panels)


def costs(
    results: pd.DataFrame,
    colours: Mapping[str, int],
    markers: Mapping[str, int],
    axes: Sequence[str] = (),
) -> tuple[list[Panel], int]:
    """The metric against each cost, a panel per (data, cost) that was measured.

    What an axis changes of the data makes a panel of its own, what it changes of the arms points.
    """
    usable = results[finished(results)]
    apart = [name for name in axes if name in SHORT_AXES]
    points_by = ["model", "arm", "match", *(name for name in axes if name not in apart)]
    wanted = []
    for key, rows in usable.groupby(["data", *apart]):
        point = axes_text(dict(zip(apart, map(str, key[1:]), strict=True)))
        data = " · ".join(filter(None, (str(key[0]), point)))
        for name, label in COSTS.items():
            points = rows.groupby(points_by, as_index=False).agg(
                cost=(name, "median"), mean=("test", "mean"), std=("test", "std")
            )
            points = points[points["cost"] > 0]
            if len(points):
                wanted.append((f"{data} · {label}", points, label, *_metric(rows)))
    drawn = [plots.cost(*panel, colours=colours, markers=markers) for panel in wanted[:MAX_PANELS]]
    return drawn, len(wanted)


def curves(
    results: pd.DataFrame,
    baseline: str,
    colours: Mapping[str, int],
    runs: Path,
    axes: Sequence[str] = (),
) -> tuple[list[Panel], int]:
    """Learning curves per (data, model, budget, *axes), read from the runs that are drawn only."""
    usable = results[finished(results)]
    twins, others = usable[usable["arm"] == baseline], usable[usable["arm"] != baseline]
    several = others["match"].nunique() > 1
    groups = list(others.groupby(["data", "model", "match", *axes]))
    panels = []
    for (data, model, match, *values), rows in groups[:MAX_PANELS]:
        matched = twins[(twins["data"] == data) & (twins["model"] == model)]
        for name, value in zip(axes, values, strict=True):
            matched = matched[matched[name].isin([value, ""])]
        same = matched[matched["match"] == match]
        shown = pd.concat([same if len(same) or matched["match"].nunique() > 1 else matched, rows])
        metric, _ = _metric(rows)
        tables = _histories(shown, metric, runs, colours)
        if tables:
            point = axes_text(dict(zip(axes, map(str, values), strict=True)))
            parts = (data, model, match if several else "", point)
            title = " · ".join(str(part) for part in parts if part)
            panels.append(plots.curves(title, tables, colours))
    return panels, len(groups) if len(groups) > MAX_PANELS else len(panels)


def _metric(rows: pd.DataFrame) -> tuple[str, str]:
    return rows["metric"].iloc[0], rows["mode"].iloc[0]


def _histories(
    rows: pd.DataFrame, metric: str, runs: Path, colours: Mapping[str, int]
) -> dict[str, dict[str, list[pd.Series]]]:
    """Series by epoch of every arm, of what runs logged and of the gap between their losses.

    First the validation metric or, where none has it, the loss, then the training loss, then the
    gap.
    """
    read = {
        str(arm): [table for folder in group["run_dir"].head(MAX_CURVES)
              if (table := _history(runs / folder / "metrics.csv")) is not None]
        for arm, group in rows.groupby("arm")
    }  # fmt: skip
    by_column: dict[str, dict[str, list[pd.Series]]] = {}
    for column in (f"val/{metric}", "val/loss", "train/loss", GAP):
        if column == "val/loss" and by_column:
            continue
        series = {
            arm: [t[column].dropna() for t in read[arm] if column in t and t[column].notna().any()]
            for arm in sorted(read, key=lambda arm: colours[arm])
        }
        if any(series.values()):
            by_column[column] = {arm: values for arm, values in series.items() if values}
    return by_column


def _history(path: Path) -> pd.DataFrame | None:
    """Losses and validation scores by epoch, None where a run left no readable record.

    The training loss is the mean of what was logged during the epoch.
    """
    try:
        table = pd.read_csv(path, usecols=lambda name: name in KEPT or name.startswith("val/"))
        table = table.apply(pd.to_numeric, errors="coerce")
        logged = table.dropna(subset=["epoch"]).groupby("epoch")
        epochs = logged.last()
    except (OSError, ValueError, KeyError):
        return None
    if "train/loss" in table:
        epochs["train/loss"] = logged["train/loss"].mean()
        if "val/loss" in table:
            epochs[GAP] = epochs["train/loss"] - epochs["val/loss"]
    return epochs
