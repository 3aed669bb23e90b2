"""Compare KANs with their MLP twins: run a study and write its report."""

import logging
from pathlib import Path

from kanzoo.errors import EngineError, Stopped
from kanzoo.run.command import GOES_ON, fail, run_command, stopped, user_errors
from kanzoo.rundir import Config
from kanzoo.study.comparison import (
    build_engine,
    check_cells,
    check_trials,
    command_of,
    plan,
    report,
    runner,
    study_folder,
    study_of,
    tune_arms,
)
from kanzoo.study.plan import seeds_needed
from kanzoo.study.record import check_record, write_record
from kanzoo.study.selection import only_selected

log = logging.getLogger("kanzoo")


def main() -> None:
    """Entry of `scripts/compare.py`."""
    run_command("compare", _job)


def _job(config: Config) -> None:
    folder = study_folder(config)
    if config["against"]:
        from kanzoo.ledger.against import compare_with

        with user_errors():
            compare_with(config["against"], folder, command_of(config))
        return
    with user_errors():
        engine = build_engine(config)
        cells = plan(config)
        if not config["overwrite"]:
            check_record(study_of(config), folder)
        prepared = check_cells(cells, engine.is_local)
        check_trials(config, cells, engine.is_local)
        from kanzoo.ledger.restore import finished_in

        ledger = finished_in(config["ledger"])
        if config["dry_run"]:
            from kanzoo.study.preview import print_plan

            print_plan(config, cells, prepared, ledger)
            return
        engine.check(cells)
    from kanzoo.study.tune import TrialRuns  # which takes long to import

    study = study_of(config)
    write_record(study, folder, config["overwrite"])

    if few := seeds_needed(study):
        log.warning(few)
    is_tuned = False
    try:
        with runner(config, cells, engine) as run_all:
            run = only_selected(run_all, study)
            tunings, cells = tune_arms(config, cells, prepared, TrialRuns(run, ledger.trials))
            is_tuned = True
            with user_errors():
                if tunings:
                    check_cells(cells, engine.is_local)
                if config["ledger"]:
                    from kanzoo.ledger.restore import take_finished

                    take_finished(cells, Path(config["ledger"]))
            run(cells)
    except EngineError as error:
        fail(error)
    except (KeyboardInterrupt, Stopped) as stop:
        done = sum(cell.folder.result() is not None for cell in cells)
        cells_done = f"{done} of {len(cells)} cells are finished"  # by what tuning has chosen
        state = cells_done if is_tuned else "tuning is not finished"
        stopped(stop, f"{state}, {GOES_ON}")
    failed = report(config, cells, tunings)
    if failed:
        raise SystemExit(1)
