"""What the study of a ledger has declared and not yet measured."""

from itertools import product

from kanzoo.ledger.store import Ledger
from kanzoo.study.plan import active_axes

MAX_NAMED = 12


def missing(ledger: Ledger) -> list[str]:
    """A line for tasks without runs, one for arms that a task lacks, one for seeds; none if whole.

    Control arms are for some tasks only, and count where they have a run.
    """
    study, runs = ledger.study, ledger.runs
    tasks = {*zip(runs["data"], runs["model"], strict=True)}
    planned = [*product(study.data, study.models)]
    empty = [" ".join(task) for task in planned if task not in tasks]
    cells = {*zip(runs["data"], runs["model"], runs["arm"], runs["match"], strict=True)}
    started = [task for task in planned if task in tasks]
    wanted = [
        (*task, arm, match) for task in started for arm in study.arms for match in study.match
    ]
    absent = [" ".join(cell) for cell in wanted if cell not in cells]
    keys = ["data", "model", "arm", "match", *active_axes(study)]
    counts = runs.groupby(keys, sort=False)["seed"].nunique()
    few = [
        f"{' '.join(str(part) for part in key if part)} {count}"
        for key, count in zip(counts.index.tolist(), counts.tolist(), strict=True)
        if count < study.seeds
    ]
    parts = (
        (f"Tasks without runs ({len(empty)} of {len(planned)})", empty),
        ("Arms without runs", absent),
        (f"Fewer than the {study.seeds} seeds planned", few),
    )
    return [f"{text}: {_named(names)}." for text, names in parts if names]


def _named(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more
