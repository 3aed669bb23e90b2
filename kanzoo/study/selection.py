"""What of a study is run now: `study.models=[mlp]`, `study.arms=[...]`, `study.data=[...]`.

The study stays what its file declares, so that its record, its families of verdicts and its report
are the same in whatever pieces it is run. Under another name it is another study, of these alone.
"""

from collections.abc import Callable
from dataclasses import replace

from kanzoo.checks import check_name
from kanzoo.settings import SelectConfig, StudyConfig
from kanzoo.study.controls import CONTROLS
from kanzoo.study.plan import Cell, arms_of

Run = Callable[[list[Cell]], None]


def declare(study: StudyConfig, file: str) -> StudyConfig:
    """The study that the command line names, whose file has the name `file`.

    Data sets need no more than their name: further ones are added to those of the file.
    """
    select = study.select
    for name in select.models:
        check_name("model of the study", name, study.models)
    for name in select.arms:
        check_name("arm of the study", name, arms_of(study))
    if study.name == file or select == SelectConfig():
        return replace(study, data=list(dict.fromkeys([*study.data, *select.data])))
    arms = (study.baseline, *(select.arms or study.arms))
    controls = [name for name in select.arms if name in CONTROLS and name not in study.arms]
    return replace(
        study,
        data=select.data or study.data,
        models={k: v for k, v in study.models.items() if k in (select.models or study.models)},
        arms={k: v for k, v in study.arms.items() if k in arms},
        controls=controls if select.arms else study.controls,
        select=SelectConfig(),
    )


def is_selected(cell: Cell, study: StudyConfig) -> bool:
    """Whether a cell is to be run; the baseline goes with every arm."""
    wanted = study.select
    return (
        cell.data in (wanted.data or study.data)
        and cell.model in (wanted.models or study.models)
        and (not wanted.arms or cell.arm in (study.baseline, *wanted.arms))
    )


def only_selected(run: Run, study: StudyConfig) -> Run:
    """`run` for the cells that are selected; what others left before is used as it is."""

    def run_selected(cells: list[Cell]) -> None:
        if chosen := [cell for cell in cells if is_selected(cell, study)]:
            run(chosen)

    return run_selected
