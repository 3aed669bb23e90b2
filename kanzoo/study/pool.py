"""Aggregate verdicts over the tasks of one study or of several: `aggregate.json`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kanzoo.settings import StudyConfig
from kanzoo.study import aggregate
from kanzoo.study.inference import Array
from kanzoo.study.pairs import SCORED
from kanzoo.study.plan import active_axes
from kanzoo.study.record import read_record
from kanzoo.study.verdict import Verdict

ALL = "all"
LEVELS = np.linspace(-4, 4, 33)  # of performance profiles, in units of the baseline's deviation
# Points of these axes are no further tasks: only this value of each is pooled.
USUAL = {"train_fraction": "1", "label_noise": "0", "corruption": "clean"}
Record = dict[str, Any]


@dataclass(frozen=True)
class Effect:
    """One arm on one task: a verdict, and the test scores of its runs and of the baseline's.

    The scores are oriented so that larger is better, on the scale of the verdict.
    """

    arm: str
    task: str
    domain: str
    verdict: Record
    ours: Array
    theirs: Array

    @property
    def unit(self) -> float:
        """Standard deviation of the baseline over seeds; 0 where it does not vary."""
        return float(self.verdict["std_scale"] or 0.0)

    @property
    def is_usable(self) -> bool:
        return bool(self.unit and self.verdict["standard_error"])

    def runs(self) -> Array:
        """Scores of the arm's runs, relative to the baseline's mean and in its deviations."""
        return np.asarray((self.ours - self.theirs.mean()) / self.unit)


def effects_of(
    verdicts: Iterable[Record], results: pd.DataFrame, study: StudyConfig, name: str = ""
) -> list[Effect]:
    """The primary comparisons of a study with the baseline, a task and arm each.

    An axis that changes the data makes tasks, one that changes anything else makes arms.
    """
    fields = {*Verdict.__dataclass_fields__}
    values = {axis: node.values.values() for axis, node in study.axes.items()}
    of_data = {a for a, v in values.items() if all(w.startswith("data.") for ws in v for w in ws)}
    effects = []
    for verdict in verdicts:
        axes = {k: str(v) for k, v in verdict.items() if k not in fields and k != "metric"}
        usual = all(axes.get(axis, value) == value for axis, value in USUAL.items())
        if verdict["family"] != "primary" or verdict["contrast"] or not usual:
            continue
        task = [
            name,
            verdict["data"],
            verdict["model"],
            *(v for a, v in axes.items() if a in of_data),
        ]
        further = [v for a, v in axes.items() if a in values and a not in of_data and v]
        arm = " ".join([verdict["arm"], *further])
        if len(study.match) > 1:
            task.append(verdict["match"])
        at = results[(results["data"] == verdict["data"]) & (results["model"] == verdict["model"])]
        for axis, value in axes.items():
            if axis in at:
                at = at[at[axis].astype(str).isin([value, "", "nan"])]
        ours, theirs = (_scores(at, verdict, which) for which in ("arm", "baseline"))
        if len(ours) and len(theirs):
            domain = verdict["domain"] or "other"
            effects.append(Effect(arm, "/".join(filter(None, task)), domain, verdict, ours, theirs))
    return effects


def _scores(rows: pd.DataFrame, verdict: Record, which: str) -> Array:
    rows = rows[(rows["arm"] == verdict[which]) & rows["status"].isin(SCORED)]
    if which == "arm":
        rows = rows[rows["match"] == verdict["match"]]
    scores = pd.to_numeric(rows["test"]).dropna().to_numpy(dtype=float)
    sign = -1.0 if len(rows) and rows["mode"].iloc[0] == "min" else 1.0
    return np.asarray(sign * (np.log(scores) if verdict["scale"] == "log ratio" else scores))


def aggregate_effects(effects: Sequence[Effect], alpha: float) -> Record:
    """Everything over tasks, for all of them and for every domain, arm by arm."""
    domains = sorted({effect.domain for effect in effects})
    groups = [ALL, *(domains if len(domains) > 1 else [])]
    rows, ranks = [], {}
    for group in groups:
        members = [e for e in effects if group in (ALL, e.domain)]
        for arm in dict.fromkeys(e.arm for e in members):
            rows.append({"group": group, "arm": arm, **_arm([e for e in members if e.arm == arm],
                                                            alpha)})  # fmt: skip
        ranks[group] = _ranks(members, alpha)
    return {"alpha": alpha, "levels": LEVELS.tolist(), "arms": rows, "ranks": ranks}


def units_of(effects: Sequence[Effect]) -> tuple[str, Array]:
    """In what effects can be pooled, and the size of that unit for each: log ratios as they are."""
    if effects and all(e.verdict["scale"] == "log ratio" for e in effects):
        return "log ratio", np.ones(len(effects))
    return "deviation of the baseline over seeds", np.array([e.unit for e in effects])


def _arm(effects: Sequence[Effect], alpha: float) -> Record:
    usable = [e for e in effects if e.is_usable]
    unit, units = units_of(usable)
    row: Record = {"unit": unit, "left_out": [e.task for e in effects if not e.is_usable]}
    bounds = [np.array([e.verdict[k] for e in effects], dtype=float)
              for k in ("mean_difference", "ci_low", "ci_high", "margin")]  # fmt: skip
    row |= aggregate.count_wins(*bounds)
    if not usable:
        return row
    y = np.array([e.verdict["mean_difference"] for e in usable]) / units
    se = np.array([e.verdict["standard_error"] for e in usable]) / units
    runs = [e.runs() for e in usable]
    row |= asdict(aggregate.random_effects(y, se**2, alpha))
    row["iqm"] = aggregate.iqm(runs)
    row["iqm_low"], row["iqm_high"] = aggregate.stratified_bootstrap(runs, alpha)
    row["p_improvement"] = aggregate.improvement(
        [e.ours for e in usable], [e.theirs for e in usable]
    )
    row["profile"] = aggregate.performance_profile(runs, LEVELS).tolist()
    row["tasks"] = [{"task": e.task, "effect": float(a), "se": float(b)}
                    for e, a, b in zip(usable, y, se, strict=True)]  # fmt: skip
    return row


def _ranks(effects: Sequence[Effect], alpha: float) -> Record | None:
    """Ranks of the arms and the baselines over the tasks that all arms have."""
    tasks: dict[str, dict[str, float]] = {}
    for e in effects:
        scores = tasks.setdefault(e.task, {e.verdict["baseline"]: float(e.theirs.mean())})
        scores[e.arm] = float(e.ours.mean())
    arms = list(dict.fromkeys(arm for scores in tasks.values() for arm in scores))
    full = [scores for scores in tasks.values() if len(scores) == len(arms)]
    if not full or len(arms) < 2:
        return None
    return asdict(aggregate.average_ranks({a: np.array([s[a] for s in full]) for a in arms}, alpha))


def read_effects(folder: Path) -> list[Effect]:
    """The effects of a finished study from its folder, or from that of a ledger."""
    report = folder / "report" if (folder / "report" / "verdicts.json").is_file() else folder
    table = next((p for p in (report / "results.csv", folder / "runs.csv") if p.is_file()), None)
    needed = (report / "verdicts.json", folder / "study.yaml")
    if table is None or not all(path.is_file() for path in needed):
        raise ValueError(
            f"{folder} is not the folder of a finished study: it needs study.yaml, verdicts.json "
            "and results.csv"
        )
    try:
        verdicts = json.loads((report / "verdicts.json").read_text(encoding="utf-8"))
        study = read_record(folder).study
        texts = dict.fromkeys(active_axes(study), str)  # numbers would become 3.0 beside gaps
        results = pd.read_csv(table, dtype=texts, low_memory=False).fillna(dict.fromkeys(texts, ""))
        return effects_of(verdicts, results, study, folder.name)
    except (KeyError, TypeError, json.JSONDecodeError, pd.errors.ParserError) as error:
        raise ValueError(f"{folder} holds the results of another version: {error!r}") from error


def pooled_rows(arms: Sequence[Record]) -> list[dict[str, str]]:
    """The arms that `aggregate_effects` gives, as rows of text."""
    return [
        {
            "group": row["group"], "arm": row["arm"], "tasks": str(row.get("num_tasks", 0)),
            "mean": _interval(row, "mean", "low", "high"), "tau": _text(row.get("tau")),
            "p": _text(row.get("p_value"), 3), "new": _interval(row, None, "new_low", "new_high"),
            "p_new": _text(row.get("p_new")), "iqm": _interval(row, "iqm", "iqm_low", "iqm_high"),
            "p_improvement": _text(row.get("p_improvement")),
            "wins": f"{row['wins']} / {row['ties']} / {row['losses']} / {row['open']}",
            "unit": row["unit"],
        }
        for row in arms
    ]  # fmt: skip


def _text(value: float | None, places: int = 2) -> str:
    return "–" if value is None else f"{value:.{places}f}"  # noqa: RUF001


def _interval(row: Record, middle: str | None, low: str, high: str) -> str:
    if row.get(low) is None:
        return _text(row.get(middle)) if middle else _text(None)
    ends = f"[{row[low]:+.2f}, {row[high]:+.2f}]"
    return f"{row[middle]:+.2f} {ends}" if middle else ends
