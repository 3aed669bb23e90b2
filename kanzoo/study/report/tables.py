"""Numbers as a reader wants them: the verdicts and budgets of a study as rows of text."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Group
from rich.table import Table
from rich.text import Text

from kanzoo.study.decomposition import PARTS, sums
from kanzoo.study.pairs import axis_order
from kanzoo.study.slopes import Slope
from kanzoo.study.verdict import Verdict, interval_text

CELL = ["data", "model", "match", "arm"]
TONES = {"better": "green", "worse": "red", "equivalent": "blue", "undecided": "yellow"}
TOLERANCE = 0.02  # of a matched budget
RECIPE = " (recipe)"
NONE = "–"  # noqa: RUF001
TEXTS = ("data", "model", "arm", "match", "reason", "metric", "mode", "sizes", "run_dir", "command",
         "machine", "wandb", "test_set")  # fmt: skip
NUMBERS = ("test", "val", "params", "flops", "step_time_ms", "peak_memory_mb", "train_seconds",
           "epochs", "n_train", "n_val", "n_test")  # fmt: skip
TEST_SETS = {
    "official": "official, the same for all seeds", "fixed": "drawn once",
    "resampled": "drawn by every seed", "independent": "new with every seed",
}  # fmt: skip


def tidy(results: pd.DataFrame, axes: Sequence[str] = ()) -> pd.DataFrame:
    """Results with every column that a report reads, in a fixed order of rows.

    `axes` are further columns that tell cells apart, the axes of the study.
    """
    columns: dict[str, Any] = {}
    for name in (*TEXTS, *axes):
        text = results[name] if name in results else pd.Series("", index=results.index)
        columns[name] = text.astype(object).where(text.notna(), "").astype(str)
    for name in NUMBERS:
        value = results[name] if name in results else pd.Series(np.nan, index=results.index)
        columns[name] = pd.to_numeric(value, errors="coerce").astype(float)
    table = results.assign(**columns)
    ranks = {name: f"_{name}" for name in axes}
    for name, rank in ranks.items():
        order = sorted(set(table[name]), key=axis_order)
        table[rank] = table[name].map({value: i for i, value in enumerate(order)})
    by = [*CELL[:3], *ranks.values(), "arm", "seed"]
    table = table.sort_values(by, kind="stable", ignore_index=True)
    return table.drop(columns=list(ranks.values()))


def axes_text(axes: Mapping[str, str]) -> str:
    """A point on the axes of a study in words."""
    return " · ".join(
        f"{name.replace('_', ' ')} {value}" for name, value in axes.items() if value != ""
    )


def finished(results: pd.DataFrame) -> pd.Series[bool]:
    """Which runs count: finished, with a finite test value."""
    return results["status"].eq("finished") & results["test"].abs().lt(np.inf)


def arms_of(results: pd.DataFrame, baseline: str) -> dict[str, int]:
    """Every arm and the number of its colour, the baseline first."""
    others = sorted(set(results["arm"]) - {baseline})
    return {arm: index for index, arm in enumerate([baseline, *others])}


def verdict_rows(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Each verdict as text, decimals chosen by the spread of its metric."""
    deviations: dict[tuple[str, str], list[float]] = {}
    for v in verdicts:
        if v.std_difference:
            deviations.setdefault((v.metric, v.scale), []).append(v.std_difference)
    num_decimals = {key: decimals(float(np.median(values))) for key, values in deviations.items()}
    return [_verdict_row(v, num_decimals.get((v.metric, v.scale), 4)) for v in verdicts]


def _verdict_row(v: Verdict, num_decimals: int) -> dict[str, Any]:
    interval = interval_text(v.ci_low, v.ci_high, lambda end: signed(end, num_decimals))
    waits = v.word == "undecided" and v.next_look
    ratios = v.scale == "log ratio"
    return {
        "data": v.data, "model": v.model, "arm": v.arm, "match": v.match, "verdict": v.verdict,
        "tone": v.tone, "axes": axes_text(v.axes), "family": v.family,
        "contrast": v.contrast, "scale": "log ratio" if ratios else "",
        "more": f"next look: {v.next_look} seeds" if waits else "",
        "difference": signed(v.mean_difference, num_decimals), "interval": interval,
        "p_adjusted": p_value(v.p_adjusted), "p_permutation": p_value(v.p_permutation),
        "p_welch": p_value(v.p_welch),
        "correlation": NONE if v.correlation is None else signed(v.correlation, 2),
        "detectable": _detectable(v, num_decimals),
        "n_seeds": v.n_seeds, "note": v.note,
        "ours": _mean(v.mean_arm, v.std_arm, ratios, num_decimals),
        "theirs": _mean(v.mean_baseline, v.std_baseline, ratios, num_decimals),
        "params": ratio(v.params_ratio), "flops": ratio(v.flops_ratio),
        "step_time": ratio(v.step_time_ratio), "memory": ratio(v.memory_ratio),
    }  # fmt: skip


def _detectable(v: Verdict, num_decimals: int) -> str:
    if v.detectable is not None:
        return f"{v.detectable:.{num_decimals}f}"
    return "none possible" if v.standard_error else NONE


def decomposition_rows(verdicts: Sequence[Verdict]) -> list[dict[str, str]]:
    """Each difference that was taken apart as text: its parts with intervals, and their sum."""
    return [
        {
            "task": " · ".join(filter(None, (v.data, v.model, v.match, axes_text(v.axes)))),
            "arm": row["parts"][-1].arm,
            "total": signed(row["total"], 4),
            **{
                step.contrast: f"{signed(step.mean_difference, 4)} "
                + interval_text(step.ci_low, step.ci_high, lambda end: signed(end, 4))
                for step in row["parts"]
            },
        }
        for row in sums(verdicts, PARTS)
        for v in row["parts"][:1]
    ]


def slope_rows(slopes: Sequence[Slope]) -> list[dict[str, str]]:
    """The slope of every arm over sizes as text, and its difference from the baseline's."""
    return [
        {
            "task": " · ".join(filter(None, s.cell.values())),
            "arm": s.arm,
            "sizes": ", ".join(quantity(size) for size in s.sizes),
            "seeds": str(s.num_seeds),
            "slope": _with_interval(s.slope, s.interval),
            "difference": _with_interval(s.difference, s.difference_interval),
            "bend": signed(s.bend, 2),
        }
        for s in slopes
    ]


def _with_interval(value: float | None, ends: tuple[float, float] | None) -> str:
    interval = f" [{signed(ends[0], 2)}, {signed(ends[1], 2)}]" if ends else ""
    return signed(value, 2) + interval


def verdict_table(verdicts: Sequence[Verdict]) -> Group:
    """The verdicts for a terminal of 100 columns, a table for every point of the study's axes."""
    several = len({v.match for v in verdicts}) > 1
    rows = verdict_rows(verdicts)
    points: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        points.setdefault(row["axes"], []).append(row)
    tables: list[Any] = [_table(point, at_point, several) for point, at_point in points.items()]
    if any(RECIPE in row["verdict"] for row in rows):
        tables.append(Text("Not both arms were tuned: verdicts hold for the recipe.", style="dim"))
    return Group(*tables)


def _table(title: str, rows: Sequence[Mapping[str, Any]], several: bool) -> Table:
    heading = Text(title, style="bold") if title else None
    table = Table(
        title=heading, title_justify="left", box=None, pad_edge=False, header_style="bold"
    )
    for name in ("data", "model", "arm", "verdict"):
        table.add_column(name, overflow="fold")
    for name in ("difference [interval]", "p adj", "n", "params", "time"):
        table.add_column(name, justify="right", overflow="fold", no_wrap=name != "params")
    for row in rows:
        short = row["verdict"].replace(RECIPE, "").replace("the ", "").replace("possibly ", "")
        word = Text(short, style=TONES[row["tone"]])
        arm = row["arm"] + (f" ({row['match']})" if several else "")
        arm += f" ({row['contrast']})" if row["contrast"] else ""
        table.add_row(
            *(Text(text) for text in (row["data"], row["model"], arm)),
            word,
            Text(f"{row['difference']} {row['interval']}"),
            row["p_adjusted"], str(row["n_seeds"]), row["params"], row["step_time"],
        )  # fmt: skip
    return table


def budget_rows(
    results: pd.DataFrame, baseline: str, axes: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Median costs of every cell and their mismatch against the baseline's."""
    by = [*CELL[:3], *axes, "arm"]
    usable = results[finished(results)]
    columns = ["params", "flops", "step_time_ms", "peak_memory_mb", "train_seconds", "epochs"]
    groups = usable.groupby(by, sort=False)
    table = groups[columns].median()
    table["sizes"], table["runs"] = groups["sizes"].first(), groups.size()
    table["folder"] = groups["run_dir"].first().map(lambda run: run.rpartition("/")[0])
    twins: dict[tuple[str, ...], dict[str, Mapping[Hashable, Any]]] = {}
    records = table.reset_index().to_dict("records")
    cells = [({name: str(row[name]) for name in by}, row) for row in records]
    cells.sort(key=lambda cell: (cell[0]["data"], cell[0]["model"], cell[0]["arm"] != baseline))
    for cell, row in cells:
        if cell["arm"] == baseline:
            cell_key = (cell["data"], cell["model"], *(cell[name] for name in axes))
            twins.setdefault(cell_key, {})[cell["match"]] = row
    rows = []
    for cell, row in cells:
        places = product((cell["data"],), (cell["model"],), *((cell[n], "") for n in axes))
        modes = next((twins[cell_key] for cell_key in places if cell_key in twins), {})
        only = next(iter(modes.values())) if len(modes) == 1 else None
        twin = modes.get(cell["match"], only)
        is_baseline = cell["arm"] == baseline
        rows.append(cell | {
            "axes": axes_text({name: cell[name] for name in axes}),
            "sizes": row["sizes"] or NONE, "runs": int(row["runs"]), "folder": row["folder"],
            "params": _budget(row, None if is_baseline else twin, "params", cell["match"]),
            "flops": _budget(row, None if is_baseline else twin, "flops", cell["match"]),
            "step": quantity(row["step_time_ms"], "ms"),
            "memory": quantity(row["peak_memory_mb"], "MB"),
            "seconds": quantity(row["train_seconds"], "s"), "epochs": quantity(row["epochs"]),
        })  # fmt: skip
    return rows


def data_rows(results: pd.DataFrame) -> list[dict[str, str]]:
    """Sizes of the splits of every data set, a range where runs differ in them."""
    return [
        {
            "data": str(data),
            **{name: _range(rows[f"n_{name}"]) for name in ("train", "val", "test")},
            "test_set": ", ".join(TEST_SETS.get(v, v) for v in rows["test_set"].unique() if v),
        }
        for data, rows in results[finished(results)].groupby("data")
    ]


def machines(results: pd.DataFrame) -> list[tuple[str, int]]:
    """What runs were timed on, and how many."""
    counts = results.loc[finished(results) & results["machine"].ne(""), "machine"].value_counts()
    return [(str(name), int(count)) for name, count in counts.items()]


def _range(values: pd.Series[float]) -> str:
    known = values.dropna()
    if known.empty:
        return NONE
    low, high = f"{known.min():,.0f}", f"{known.max():,.0f}"
    return low if low == high else f"{low} to {high}"


def _budget(
    row: Mapping[Hashable, Any], twin: Mapping[Hashable, Any] | None, name: str, match: str
) -> dict[str, Any]:
    value, of = row[name], twin[name] if twin is not None else math.nan
    off = value / of - 1 if of else math.nan
    known = math.isfinite(off)
    return {
        "value": f"{value:,.0f}" if name == "params" and value == value else quantity(value),
        "off": f"{100 * off:+.1f} %".replace("-", "−") if known else None,  # noqa: RUF001
        "bad": known and match == name and abs(off) > TOLERANCE,
    }


# Formats. A value that does not exist is a dash.


def decimals(deviation: float) -> int:
    """Decimals that show a spread with two significant digits."""
    return int(np.clip(1 - math.floor(math.log10(deviation)), 0, 8)) if deviation > 0 else 4


def signed(value: float | None, num_decimals: int) -> str:
    if value is None:
        return NONE
    return f"{value:+.{num_decimals}f}".replace("-", "−")  # noqa: RUF001


def _mean(mean: float | None, std: float | None, ratios: bool, num_decimals: int) -> str:
    if mean is None:
        return NONE
    if ratios:
        return f"{mean:.3g}" + (f" ± {std:.2g}" if std is not None else "")
    return f"{mean:.{num_decimals}f}" + (f" ± {std:.{num_decimals}f}" if std is not None else "")


def p_value(value: float | None) -> str:
    if value is None:
        return NONE
    return "<0.001" if value < 0.0005 else f"{value:.3f}"


def ratio(value: float | None) -> str:
    if value is None:
        return NONE
    return f"{value:.2f}×" if value < 9.995 else f"{value:,.1f}×"  # noqa: RUF001


def quantity(value: float, unit: str = "") -> str:
    """Three digits with a prefix of thousands; a dash for what was not measured."""
    if not math.isfinite(value) or (unit and value <= 0):
        return NONE
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if not unit and abs(value) >= size:
            scale = 1e3 if prefix == "k" else size
            return f"{value / scale:.3g} {prefix}"
    number = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{number} {unit}".strip()
