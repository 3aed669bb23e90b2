"""The report of a study: one page for a reviewer, tables and figures for papers, data files."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pandas as pd

from kanzoo.files import csv_of, write_atomic
from kanzoo.page.html import render
from kanzoo.study.pool import pooled_rows
from kanzoo.study.report import latex, panels, plots, tables, words
from kanzoo.study.report.tables import verdict_table
from kanzoo.study.results import as_csv
from kanzoo.study.slopes import Slope
from kanzoo.study.verdict import Verdict

__all__ = ["verdict_table", "write_report"]

if TYPE_CHECKING:
    from kanzoo.interpret.edges import EdgeCurves

TEMPLATES = Path(__file__).parent / "templates"
MAX_RUNS = 2000  # runs and failures listed on the page; results.csv has all
FIGURES = ("effects", "along", "phases", "costs", "curves", "edges")
MAX_ROWS = 100  # verdicts in report.md: a pull request takes 65,536 characters


def write_report(
    folder: Path,
    results: pd.DataFrame,
    verdicts: Sequence[Verdict],
    *,
    title: str,
    question: str,
    protocol: Sequence[str],
    settings: Mapping[str, Any],
    environment: Mapping[str, Any],
    command: str,
    axes: Sequence[str] = (),
    edges: Sequence[EdgeCurves] = (),
    tuning: Mapping[str, Any] | None = None,
    aggregate: Mapping[str, Any] | None = None,
    slopes: Sequence[Slope] = (),
    runs: Path | None = None,
) -> dict[str, Path]:
    """Write the page, report.md, tables, figures and data files, each atomically.

    `table.tex` and `table.csv` hold the verdicts, `figures/` every drawing as SVG and PDF.

    results: a row a run. settings: shown as they are; `baseline` names the baseline arm where
    there is no verdict to tell. axes: columns of `results` that are further axes of the study.
    slopes: of errors over sizes, which make slopes.json. tuning: what `tuning_record` gives.
    aggregate: what `aggregate_effects` gives, if there is any. runs: the folder that `run_dir` is
    relative to, the parent of `folder` unless given. Returns the path of each file by its name.
    """
    results = tables.tidy(results, axes)
    runs = runs or folder.parent
    context = _context(results, verdicts, settings, runs, list(axes))
    to_runs = os.path.relpath(runs, folder)
    context |= {
        "title": title, "question": question, "protocol": list(protocol), "command": command,
        "settings": _shown(settings), "environment": _shown(environment),
        "tuning": tuning, "pooled": pooled_rows(aggregate["arms"]) if aggregate else [],
        "slopes": tables.slope_rows(slopes),
        "edges": [plots.edges(edge) for edge in edges[: panels.MAX_PANELS]],
        "link": lambda run: quote(f"{to_runs}/{run}/"),
    }  # fmt: skip
    for kind in FIGURES:
        context[kind] = _named(kind, context[kind])
    context["shown"]["edges"] = _note(panels.MAX_PANELS, len(edges))
    files: dict[str, str | bytes] = {
        "results.csv": as_csv(results),
        "verdicts.json": json.dumps([v.to_dict() for v in verdicts], indent=1, allow_nan=False),
        **({"slopes.json": json.dumps([s.to_dict() for s in slopes], indent=1)} if slopes else {}),
        "table.csv": csv_of(pd.DataFrame([v.to_dict() for v in verdicts])),
        "table.tex": latex.latex_table(
            context["verdicts"], title, context["baseline"], context["level"]
        ),
        **({"aggregate.json": json.dumps(aggregate, indent=1)} if aggregate else {}),
        "report.md": render(TEMPLATES / "report.md.j2", context),
        "index.html": render(TEMPLATES / "report.html.j2", context),
    }
    files |= {f"{panel.name}{suffix}": content for kind in FIGURES for panel in context[kind]
              for suffix, content in panel.files.items()}  # fmt: skip
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_atomic(folder / name, content)
    ours = re.compile(rf"({'|'.join(FIGURES)})-\d\d")
    for path in (folder / "figures").iterdir():  # of an earlier report of this study
        if f"figures/{path.name}" not in files and ours.match(path.name):
            path.unlink()
    return {name: folder / name for name in files}


def _named(kind: str, drawn: Sequence[plots.Panel]) -> list[plots.Panel]:
    """Panels with the names of their files: `figures/KIND-NUMBER-TITLE`."""
    titles = [re.sub(r"[^A-Za-z0-9]+", "-", panel.title)[:60].strip("-") for panel in drawn]
    return [
        replace(panel, name=f"figures/{kind}-{number:02d}-{title}")
        for number, (panel, title) in enumerate(zip(drawn, titles, strict=True), 1)
    ]


def _context(
    results: pd.DataFrame, verdicts: Sequence[Verdict], settings: Mapping[str, Any], runs: Path,
    axes: list[str],
) -> dict[str, Any]:  # fmt: skip
    """Everything that the templates show, as text and panels."""
    baseline = verdicts[0].baseline if verdicts else str(settings.get("baseline", ""))
    alpha = verdicts[0].alpha if verdicts else float(settings.get("alpha", 0.05))
    colours = tables.arms_of(results, baseline)
    models = {name: index for index, name in enumerate(sorted(set(results["model"])))}
    usable = tables.finished(results)
    effects, all_effects = panels.effects(verdicts, colours)
    costs, all_costs = panels.costs(results, colours, models, axes)
    curves, all_curves = panels.curves(results, baseline, colours, runs, axes)
    along, all_along = panels.along(verdicts, baseline, alpha, colours)
    phases, all_phases = panels.phases(results, colours, axes)
    tones = Counter(verdict.tone for verdict in verdicts)
    budgets = tables.budget_rows(results, baseline, axes)
    cells = {_cell(row): {"sizes": row["sizes"], "runs": row["folder"]} for row in budgets}
    waiting = results["status"].eq("waiting")
    lost = results[~usable & ~waiting]
    failures = _records(lost, axes)
    return {
        "baseline": baseline, "metric": ", ".join(sorted(set(results["metric"]))),
        "metrics": ", ".join(dict.fromkeys([*results["metric"], *(v.metric for v in verdicts)])),
        "level": f"{100 * (1 - alpha):g} %",
        "rule": words.rule(verdicts) if verdicts else "",
        "conditions": words.conditions(verdicts), "decomposed": tables.decomposition_rows(verdicts),
        "counts": [(tone, tones[tone]) for tone in tables.TONES],
        "planned": len(results), "finished": int(usable.sum()), "failed": len(lost),
        "waiting": int(waiting.sum()),
        "max_rows": MAX_ROWS, "several_modes": len({verdict.match for verdict in verdicts}) > 1,
        "verdicts": [row | cells.get(_cell(row), {"sizes": "", "runs": ""})
                     for row in tables.verdict_rows(verdicts)],
        "datasets": tables.data_rows(results), "machines": tables.machines(results),
        "arms": [(arm, plots.tone(i), plots.dash_name(i)) for arm, i in colours.items()],
        "models": [(name, plots.sign(index)) for name, index in models.items()],
        "effects": effects, "costs": costs, "curves": curves, "along": along, "phases": phases,
        "budgets": budgets,
        "failures": failures, "runs": _records(results[usable], axes),
        "shown": {
            "effects": _note(len(effects), all_effects), "costs": _note(len(costs), all_costs),
            "curves": _note(len(curves), all_curves), "along": _note(len(along), all_along),
            "phases": _note(len(phases), all_phases),
            "failures": _note(len(failures), len(lost)),
        },
    }  # fmt: skip


def _cell(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(row[name] for name in ("data", "model", "match", "arm", "axes"))


def _records(rows: pd.DataFrame, axes: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "data": row["data"], "model": row["model"], "arm": row["arm"], "match": row["match"],
            "seed": row["seed"], "command": row["command"],
            "axes": tables.axes_text({name: row[name] for name in axes}),
            "reason": row["reason"] or "no finite test value", "run": row["run_dir"],
            "wandb": row["wandb"] if row["wandb"].startswith("https://") else "",
            "val": _value(row["val"]), "test": _value(row["test"]),
        }
        for row in rows.head(MAX_RUNS).to_dict("records")
    ]  # fmt: skip


def _value(number: float) -> str:
    return f"{number:.5g}" if number == number else tables.NONE


def _shown(items: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Settings as pairs of text, nested values in one line."""
    return [(str(key), _line(value)) for key, value in items.items()]


def _line(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _note(drawn: int, total: int) -> str:
    return f" Shown: {drawn} of {total}; all numbers are in the files." if drawn < total else ""
