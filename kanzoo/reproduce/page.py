"""The page of published figures beside ours: docs/reproductions.md."""

import statistics
from collections.abc import Sequence

from kanzoo.reproduce.figures import REPRODUCTIONS
from kanzoo.reproduce.outcomes import Outcome

HEAD = """# Published figures, repeated

Written by `make reproduce`, which runs what this page does not have yet. Every row is the mean and
deviation of n seeds, judged when it has all of them: "agrees" is within the tolerance, "better" and
"worse" are beyond it. "Its seed" is what the source's own steps give, in plain PyTorch, with the
seed of its figure. A network that was not run is composed and counted.
Some sources take the best epoch by their test set: "source's rule" is what that would change here,
in the n runs in which it was followed; all else is of the epoch that validation data chose.
"""
DIFFERING = ("better", "worse")


def table(outcomes: Sequence[Outcome]) -> str:
    """The page of all outcomes, a section an experiment."""
    lines = [HEAD]
    for name in dict.fromkeys(o.experiment for o in outcomes):
        about = REPRODUCTIONS[name]
        near = f"x{about.tolerance:g}" if about.is_factor else f"+-{about.tolerance:g}"
        ours = [o for o in outcomes if o.experiment == name]
        has_its_seed = any(o.its_seed for o in ours)
        its = ["its seed"] if has_its_seed else []
        rule = ["source's rule"] if about.by_test else []
        heads = ["network", "parameters", "published", *its, "here", *rule]
        heads += ["n", "difference", "verdict"]
        lines += [
            f"## {name}\n",
            f"Source: {about.source}. Metric: test {about.metric}, tolerance {near}. "
            + (f"Figures are ratios to {about.beside}. " if about.beside else "")
            + (f"Differences: {about.note}. " if about.note else "")
            + (
                f"About {about.minutes:g} min a seed on one core. "
                if about.minutes
                else "For a GPU. "
            )
            + f"Recipe: `conf/experiment/published/{name}.yaml`.\n",
            f"| {' | '.join(heads)} | s a run |",
            "|---|" + "--:|" * (len(heads) - 2) + "---|--:|",
        ]
        lines += [_line(o, has_its_seed) for o in ours]
        differing = [o for o in ours if o.verdict in DIFFERING]
        if differing:
            lines += ["", "Where we differ:", ""]
            lines += [_difference(o) for o in differing]
        runs = [run for o in ours for run in (*o.runs.values(), o.its_seed) if run]
        machines = "; ".join(sorted({run.machine for run in runs}))
        lines += ["", f"On {machines}.\n" if machines else "Not run here.\n"]
        whole = [f"python scripts/reproduce.py {name}  # all rows, and the source's own steps"]
        steps = whole if has_its_seed else []
        lines += ["```bash", *steps, *(o.command for o in ours), "```\n"]
    return "\n".join(lines)


def _difference(outcome: Outcome) -> str:
    """A row beyond the tolerance: how far its seeds are apart, and why it differs."""
    reason = REPRODUCTIONS[outcome.experiment].rows[outcome.row].reason or "no cause was found"
    low, high = min(outcome.scores), max(outcome.scores)
    return f"- {outcome.row}: seeds from {low:.3g} to {high:.3g}; {reason}."


def _line(outcome: Outcome, has_its_seed: bool) -> str:
    about = REPRODUCTIONS[outcome.experiment]
    published = "-" if outcome.published is None else f"{outcome.published:.4g}"
    here, difference, seconds = "-", "-", "-"
    if outcome.runs:
        here = _mean(outcome.scores)
        seconds = f"{statistics.median(run.seconds for run in outcome.runs.values()):.0f}"
        if outcome.published is not None and outcome.measured is not None:
            difference = (
                f"x{outcome.measured / outcome.published:.2f}"
                if about.is_factor
                else f"{outcome.measured - outcome.published:+.4f}"
            )
    seed = outcome.its_seed
    its = ["-" if seed is None else f"{seed.score:.4g}"] if has_its_seed else []
    rule = [_changed_by_rule(outcome)] if about.by_test else []
    cells = (outcome.row, f"{outcome.params:,}", published, *its, here, *rule,
             str(len(outcome.runs)), difference, outcome.verdict, seconds)  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _changed_by_rule(outcome: Outcome) -> str:
    """What the best epoch by the test set would change, in the runs in which it was followed."""
    pairs = [(run.by_test, run.score) for run in outcome.runs.values() if run.by_test is not None]
    if not pairs:
        return "-"
    if REPRODUCTIONS[outcome.experiment].is_factor:
        return f"x{statistics.fmean(best / own for best, own in pairs):.2f} (n = {len(pairs)})"
    return f"{statistics.fmean(best - own for best, own in pairs):+.4f} (n = {len(pairs)})"


def _mean(scores: Sequence[float]) -> str:
    deviation = f" ± {statistics.stdev(scores):.2g}" if len(scores) > 1 else ""
    return f"{statistics.fmean(scores):.4g}{deviation}"


def summary(outcomes: Sequence[Outcome]) -> str:
    """How many rows have each verdict, in a line."""
    verdicts = [o.verdict or "without a figure" for o in outcomes]
    return ", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts))
