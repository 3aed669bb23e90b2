"""Finished rows of ledgers as finished runs, so that a study goes on from them."""

import logging
from collections.abc import Iterable
from pathlib import Path

from kanzoo.ledger.store import TRIALS, Ledger, diverged, items_by_run, read_ledger, restored
from kanzoo.study.plan import Cell, distinct
from kanzoo.study.preview import Finished
from kanzoo.study.trials import read_trials
from kanzoo.study.tune import Trial

log = logging.getLogger("kanzoo")


def ledgers_below(folder: Path) -> list[Path]:
    """The folders of all ledgers below one; `ValueError` where there is none."""
    paths = sorted(path.parent for path in folder.glob("**/runs.csv"))
    if not paths:
        raise ValueError(f"ledger={folder}: there is no ledger below it")
    return paths


def finished_in(folder: str | Path | None) -> Finished:
    """The finished trials and runs that ledgers below a folder have, if there is one."""
    if not folder:
        return Finished()
    trials: dict[str, Trial] = {}
    runs: set[tuple[str, int]] = set()
    for path in ledgers_below(Path(folder)):
        if (path / TRIALS).is_file():
            trials |= read_trials(path / TRIALS)
        ledger = read_ledger(path)
        runs |= restored(ledger).keys() | diverged(ledger).keys()
    return Finished(trials, runs)


def take_finished(cells: Iterable[Cell], folder: Path) -> int:
    """Write the runs that ledgers below `folder` have and that are not there yet; their number.

    The result of such a run says `source: ledger NAME`.
    """
    paths = ledgers_below(folder)
    waiting = {
        (cell.folder.config_hash, cell.seed): cell.folder
        for cell in distinct(cells)
        if not cell.folder.has_ended
    }
    count = 0
    for path in paths:
        ledger: Ledger = read_ledger(path)
        by_run = items_by_run(ledger)
        for key, result in restored(ledger).items():
            if (run := waiting.pop(key, None)) is None:
                continue
            run.write_config()
            if items := by_run.get(key):
                run.write_items(items)
            run.write_result({**result, "source": f"ledger {path.name}"})
            count += 1
        for key, reason in diverged(ledger).items():
            if (run := waiting.pop(key, None)) is not None:
                run.write_failure(reason)
                count += 1
    if count:
        log.info("%d cells are from the ledger", count)
    return count
