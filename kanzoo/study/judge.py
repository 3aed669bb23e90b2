"""From the table of a study's runs to its verdicts and what they say over tasks."""

from __future__ import annotations

from typing import Any

import pandas as pd

from kanzoo.checks import value_text
from kanzoo.settings import StudyConfig
from kanzoo.study.controls import control_arms, decomposition_arms
from kanzoo.study.looks import Looks
from kanzoo.study.parity import with_differences
from kanzoo.study.plan import active_axes
from kanzoo.study.pool import aggregate_effects, effects_of
from kanzoo.study.results import judged
from kanzoo.study.stats import verdicts
from kanzoo.study.verdict import Verdict


def judge(study: StudyConfig, results: pd.DataFrame) -> tuple[list[Verdict], dict[str, Any] | None]:
    """The verdicts of a study, and its aggregate where there is something to aggregate.

    `results` has a row a run, as `kanzoo.study.results.collect` makes them.
    """
    values, further = judged(results, study.metrics, control_arms(study))
    margin = study.margin
    margins = margin if isinstance(margin, dict) else dict.fromkeys(set(results["metric"]), margin)
    judged_rows = verdicts(
        values,
        study.baseline,
        margin={**margins, **{name: each.margin for name, each in study.metrics.items()}},
        ratio_margin=study.ratio_margin,
        alpha=study.alpha,
        axes=[*active_axes(study), *further],
        looks=Looks(tuple(study.looks), study.seeds),
        first_seed=study.first_seed,
        against=study.contrasts,
        parts=decomposition_arms(study),
        changes={axis: value_text(value) for axis, value in study.interactions.items()},
    )
    judged_rows = [with_differences(verdict, study) for verdict in judged_rows]
    effects = effects_of([v.to_dict() for v in judged_rows], results, study)
    return judged_rows, aggregate_effects(effects, study.alpha) if effects else None
