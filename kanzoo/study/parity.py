"""Parity: arms differ in what they are, not in how they are trained.

The composed configurations of a data set, model, budget and point of the axes are compared with
that of the baseline. What is left of them beside the model, its layers, their basis and its grids,
what a budget solves, and the settings that a study tunes must be the same, unless the study says so
under `differences`, and then the report shows it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from kanzoo.checks import check_name, value_text
from kanzoo.rundir import flatten, identity
from kanzoo.settings import StudyConfig
from kanzoo.study.plan import Cell, arms_of, axes_of, first_of_kinds
from kanzoo.study.verdict import Verdict

# What arms are made of: sections, or single keys.
FREE = (
    *("model", "layers", "basis", "callbacks.grid", "match", "match_scope", "match_by", "budget"),
    *("choices.model", "choices.layers", "choices.basis"),
)
# What does not decide a result and has to be the same all the same: costs are compared too.
MACHINE = ("trainer", "data")
MAX_NAMED = 3  # differences that a message lists
Values = dict[str, Any]


def recipe(cell: Cell) -> Values:
    """What the arms of a cell must have in common, by dotted keys."""
    sections = {name: cell.config[name] for name in MACHINE}
    values = flatten({**identity(cell.config), **sections})
    return {k: v for k, v in values.items() if not _is_below(k, FREE) and "_target_" not in k}


def check_parity(cells: Iterable[Cell], study: StudyConfig) -> None:
    """Raise a `ValueError` of one line for an arm that differs from its baseline undeclared.

    Also for one that does not differ in what is declared.
    """
    known: set[str] = set()
    found: dict[str, set[str]] = {}
    for arm, cell, base in beside_baselines(cells, study):
        ours, theirs = recipe(cell), recipe(base)
        known |= {*ours, *theirs}
        allowed = (*study.differences.get(arm, ()), *_tuned(arm, study))
        found.setdefault(arm, set()).update(_different(ours, theirs))
        keys = [k for k in _different(ours, theirs) if not _is_below(k, allowed)]
        if keys:
            each = [f"{k} ({_shown(ours, k)} against {_shown(theirs, k)})" for k in keys]
            more = f" and {len(keys) - MAX_NAMED} more" if len(keys) > MAX_NAMED else ""
            raise ValueError(
                f"arm {arm} differs from {study.baseline} on {cell.data} {cell.model} in "
                f"{', '.join(each[:MAX_NAMED])}{more}, but arms may differ in their model, layers "
                f"and basis only; if it is meant, declare it: "
                f"study.differences.{arm}=[{','.join(keys)}]"
            )
    sections = {key.rpartition(".")[0] for key in known} - {""}
    for arm, keys in study.differences.items():
        check_name("arm of study.differences", arm, arms_of(study))
        for key in keys:
            check_name(f"key of study.differences.{arm}", key, sorted(known | sections))
            if not any(_is_below(k, [key]) for k in found.get(arm, ())):
                raise ValueError(
                    f"study.differences.{arm} has {key}, in which {arm} is as {study.baseline}"
                )


def check_distinct(cells: Iterable[Cell], study: StudyConfig) -> None:
    """Raise a `ValueError` of one line where two names stand for the same runs everywhere.

    They would be judged twice, or an axis would change nothing. What tuning chooses tells nobody
    apart.
    """
    dimensions = ["models", "arms", *(f"axes.{axis.name}" for axis in axes_of(study))]
    runs: dict[str, dict[str, dict[tuple[str, ...], str]]] = {name: {} for name in dimensions}
    for cell in first_of_kinds(list(cells)):
        run = _untuned(cell, study)
        for at, name in zip((1, 2, *range(4, len(cell.kind))), dimensions, strict=True):
            value = cell.kind[at]
            if value and not (name == "arms" and value not in study.arms):
                rest = (*cell.kind[:at], *cell.kind[at + 1 :])
                runs[name].setdefault(value, {})[rest] = run
    for name, by_value in runs.items():
        known: dict[frozenset[tuple[tuple[str, ...], str]], str] = {}
        for value, its in by_value.items():
            other = known.setdefault(frozenset(its.items()), value)
            if other != value:
                but = " but for what is tuned" if study.tune.trials else ""
                raise ValueError(f"study.{name}: {other} and {value} are the same runs{but}")


def _untuned(cell: Cell, study: StudyConfig) -> str:
    """What tells the runs of a cell from others, without what is tuned."""
    keys = _tuned(cell.arm, study)
    if not keys:
        return str(cell.folder.path)
    values = flatten(identity(cell.config))
    return json.dumps({k: v for k, v in values.items() if k not in keys}, sort_keys=True)


def differences(cells: Iterable[Cell], study: StudyConfig) -> dict[str, list[str]]:
    """In what arms differ from their baselines beside what tuning chose, a phrase for each."""
    by_arm: dict[str, dict[str, None]] = {}
    for arm, cell, base in beside_baselines(cells, study):
        ours, theirs = recipe(cell), recipe(base)
        for key in _different(ours, theirs):
            if not _is_below(key, _tuned(arm, study)):
                text = f"{key} {_shown(ours, key)} instead of {_shown(theirs, key)}"
                by_arm.setdefault(arm, {})[text] = None
    return {arm: list(texts) for arm, texts in by_arm.items()}


def with_differences(verdict: Verdict, study: StudyConfig) -> Verdict:
    """The verdict with a note where the study lets its arm differ from the baseline."""
    if not (keys := study.differences.get(verdict.arm)) or verdict.contrast:
        return verdict
    note = f"declared: also differs in {', '.join(keys)}"
    return replace(verdict, note="; ".join(filter(None, [verdict.note, note])))


def common(cells: Iterable[Cell], key: str) -> str:
    """The value of a dotted key in all cells, or its values with the data sets that have them."""
    values: dict[str, dict[str, None]] = {}
    for cell in cells:
        values.setdefault(_shown(flatten(cell.config), key), {})[cell.data] = None
    if len(values) == 1:
        return next(iter(values))
    several = [f"{text} ({', '.join(data)})" for text, data in values.items()]
    names = [name for data in values.values() for name in data]
    if len(set(names)) < len(names):  # data sets do not tell them apart
        return " or ".join(values)
    return ", ".join(several)


def beside_baselines(cells: Iterable[Cell], study: StudyConfig) -> Iterable[tuple[str, Cell, Cell]]:
    """Every kind of cell of an arm, and the baseline that it is compared with."""
    kinds = first_of_kinds(list(cells))
    bases: dict[tuple[str, str], list[Cell]] = {}
    for cell in kinds:
        if cell.arm == study.baseline:
            bases.setdefault((cell.data, cell.model), []).append(cell)
    for cell in kinds:
        if cell.arm == study.baseline:
            continue
        at = [base for base in bases[cell.data, cell.model] if _is_beside(base, cell)]
        same = [base for base in at if base.match == cell.match]
        for base in (same or at)[:1]:
            yield cell.arm, cell, base


def _is_beside(base: Cell, cell: Cell) -> bool:
    """Whether two cells stand at one point of the axes: an axis may not concern the baseline."""
    return all(b in (c, "") for (_, b), (_, c) in zip(base.axes, cell.axes, strict=True))


def _tuned(arm: str, study: StudyConfig) -> tuple[str, ...]:
    tune = study.tune
    return (*tune.space, *tune.extra.get(arm, {})) if tune.trials else ()


def _different(ours: Values, theirs: Values) -> list[str]:
    return sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))


def _is_below(key: str, sections: Iterable[str]) -> bool:
    return any(key == section or key.startswith(f"{section}.") for section in sections)


def _shown(values: Mapping[str, Any], key: str) -> str:
    return value_text(values[key]) if key in values else "none"
