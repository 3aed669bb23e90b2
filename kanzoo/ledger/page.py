"""One page of all ledgers: tasks x arms with effect, interval and cost, aggregates, filters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kanzoo.files import read_json, write_atomic
from kanzoo.ledger.missing import missing
from kanzoo.ledger.store import DAMAGES, Ledger, read_ledger, read_verdicts
from kanzoo.page.html import inline, render
from kanzoo.page.style import svg_of
from kanzoo.study.pool import aggregate_effects, pooled_rows, read_effects
from kanzoo.study.record import read_record
from kanzoo.study.report.tasks import picture
from kanzoo.study.verdict import interval_text

TEMPLATE = Path(__file__).parent / "templates" / "ledger.html.j2"
COSTS = {"params_ratio": "params", "flops_ratio": "FLOPs", "step_time_ratio": "step time",
         "memory_ratio": "memory"}  # fmt: skip
FILTERS = {"study": "study", "domain": "domain", "data": "data", "model": "architecture",
           "arm": "arm", "tone": "verdict"}  # fmt: skip
NONE = "–"  # noqa: RUF001
ALPHA = 0.05  # level of the intervals over the tasks of all studies


def write_page(folder: Path, out: Path) -> None:
    """Render the ledgers below a folder; the page depends on nothing but their files."""
    paths = sorted(path.parent for path in folder.glob("*/runs.csv"))
    if not paths:
        raise ValueError(f"{folder} holds no ledger: add one by scripts/ledger.py add runs/STUDY")
    rows: list[dict[str, Any]] = []
    studies = []
    for path in paths:
        ledger = read_ledger(path)
        run = [v for v in read_verdicts(path) if not v["contrast"] and v["n_seeds"]]
        try:
            rows += [_row(path.name, ledger, verdict) for verdict in run]
            studies.append(_study(path, ledger))
        except DAMAGES as error:
            raise ValueError(
                f"{path} has conclusions of another version: see scripts/ledger.py check"
            ) from error
    filters = [
        {"key": key, "label": label, "values": sorted({row[key] for row in rows})}
        for key, label in FILTERS.items()
    ]
    effects = [effect for path in paths for effect in read_effects(path)] if len(paths) > 1 else []
    pooled = aggregate_effects(effects, ALPHA)["arms"] if effects else []
    together = pooled_rows([arm for arm in pooled if arm.get("num_tasks", 0) > 1])
    drawn = inline(svg_of(picture(effects, pooled)), "Effects over tasks") if together else ""
    context = {
        "title": "Leaderboard of studies", "rows": rows, "studies": studies, "filters": filters,
        "together": together, "picture": drawn, "costs": list(COSTS.values()),
        "folders": " ".join(f"docs/studies/{path.name}" for path in paths),
    }  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, render(TEMPLATE, context))


def _study(path: Path, ledger: Ledger) -> dict[str, Any]:
    aggregate = path / "aggregate.json"
    pooled = read_json(aggregate)["arms"] if aggregate.is_file() else []
    return {
        "name": path.name, "title": ledger.study.title, "question": ledger.study.question,
        "runs": len(ledger.runs), "seeds": ledger.study.seeds, "baseline": ledger.study.baseline,
        "history": [*missing(ledger), *read_record(path).lines], "pooled": pooled_rows(pooled),
    }  # fmt: skip


def _row(study: str, ledger: Ledger, verdict: dict[str, Any]) -> dict[str, Any]:
    at = ledger.runs
    for name in ("data", "model", "arm", "match", *_axes(ledger)):
        at = at[at[name] == str(verdict.get(name, ""))] if name in at else at
    points = [str(verdict[a]) for a in (*_axes(ledger), "corruption", "severity") if a in verdict]
    difference, low, high = (verdict[k] for k in ("mean_difference", "ci_low", "ci_high"))
    return {
        "study": study, "domain": verdict["domain"] or "other", "data": verdict["data"],
        "model": verdict["model"], "arm": verdict["arm"], "match": verdict["match"],
        "axes": " ".join(filter(None, points)), "baseline": verdict["baseline"],
        "tone": verdict["direction"] or verdict["word"], "verdict": verdict["verdict"],
        "metric": verdict["metric"], "seeds": verdict["n_seeds"], "note": verdict["note"],
        "effect": NONE if difference is None else f"{difference:+.3g}",
        "interval": interval_text(low, high, "{:+.3g}".format) or NONE,
        "unit": verdict["scale"], "ours": _score(verdict, "arm"),
        "theirs": _score(verdict, "baseline"),
        "costs": [_ratio(verdict[name]) for name in COSTS],
        "command": "" if at.empty else str(at["command"].iloc[0]),
    }  # fmt: skip


def _axes(ledger: Ledger) -> list[str]:
    from kanzoo.study.plan import active_axes

    return active_axes(ledger.study)


def _score(verdict: dict[str, Any], which: str) -> str:
    mean, std = verdict[f"mean_{which}"], verdict[f"std_{which}"]
    if mean is None:
        return NONE
    return f"{mean:.4g}" if std is None else f"{mean:.4g} ± {std:.2g}"


def _ratio(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}x"
