"""What a study judges: its metrics, and the least difference in each that matters."""

from kanzoo import registry
from kanzoo.checks import check_name
from kanzoo.settings import StudyConfig
from kanzoo.study.plan import Cell, first_of_kinds

OF_PHASES = ("forgetting", "learned")


def margins_of(study: StudyConfig, cells: list[Cell]) -> dict[str, float]:
    """The margin of every metric that the study judges: one for all, or one for each metric.

    Raises `ValueError` for a metric without one, and for one that no run will have.
    """
    kinds = first_of_kinds(cells)
    names = {cell.config["task"]["_target_"] for cell in kinds}
    tasks = [registry.locate(name) for name in names]
    selecting = {task.monitor for task in tasks}  # type: ignore[attr-defined]
    margin = study.margin
    margins = margin if isinstance(margin, dict) else dict.fromkeys(selecting, margin)
    if missing := sorted(selecting - set(margins)):
        raise ValueError(
            f"study.margin has none for {', '.join(missing)}, which data sets select by"
        )
    further = [task.further for task in tasks]  # type: ignore[attr-defined]
    if None not in further:
        known = {metric for metrics in further for metric in metrics}
        if any(cell.config["training_set"]["phases"] > 1 for cell in kinds):
            known |= {*OF_PHASES}
        for name in study.metrics:
            check_name("metric of study.metrics", name, sorted(known))
        for name in margins:
            check_name("metric of study.margin", name, sorted(known | selecting))
    if "severity" in study.interactions and not any(
        severities for cell in kinds for k, severities in cell.config["evaluation"].items()
        if k != "test"
    ):  # fmt: skip
        raise ValueError("study.interactions has severity, but no test input is corrupted")
    return {**margins, **{name: judged.margin for name, judged in study.metrics.items()}}
