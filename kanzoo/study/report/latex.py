"""The verdict table for papers: LaTeX with booktabs, in characters that every engine takes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

COLUMNS = {
    "data": "Data", "model": "Model", "match": "Budget", "arm": "Arm", "sizes": "Sizes",
    "verdict": "Verdict", "difference": "Difference", "interval": "Interval",
    "p_adjusted": "$p$", "n_seeds": "Seeds", "ours": "Arm's score", "theirs": "Baseline's",
    "params": "Params", "flops": "FLOPs", "step_time": "Time",
}  # fmt: skip
NUMBERS = list(COLUMNS)[6:]
SPECIAL = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "<": "$<$", ">": "$>$", "|": "$|$", "±": r"$\pm$", "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{MINUS SIGN}": "$-$", "\N{EN DASH}": "--", "·": r"$\cdot$", "→": r"$\to$",
    "∞": r"$\infty$",
    '"': "''",
}  # fmt: skip


def escape(text: object) -> str:
    """Text as LaTeX shows it, on one line; letters of other scripts stay as they are."""
    words = " ".join(str(text).split()).replace("->", "→")
    return re.sub("|".join(map(re.escape, SPECIAL)), lambda match: SPECIAL[match[0]], words)


def latex_table(rows: Sequence[Mapping[str, Any]], title: str, baseline: str, level: str) -> str:
    """A `table` of rows of text, those of `verdict_rows`, columns that say nothing left out."""
    shown = [name for name in COLUMNS if any(row.get(name) for row in rows)]
    if len({row["match"] for row in rows}) < 2 and "match" in shown:
        shown.remove("match")
    align = "".join("r" if name in NUMBERS else "l" for name in shown)
    end = "" if title.endswith((".", "?", "!")) else "."
    lines = [
        "% Needs \\usepackage{booktabs}.",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape(title)}{end} Differences from {escape(baseline)} with their "
        rf"{escape(level)} intervals; positive means better.}}",
        rf"\begin{{tabular}}{{{align}}}",
        r"\toprule",
        " & ".join(COLUMNS[name] for name in shown) + r" \\",
        r"\midrule",
        *(" & ".join(_cell(row, name) for name in shown) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _cell(row: Mapping[str, Any], name: str) -> str:
    text = row.get(name)
    if name == "arm":
        further = ", ".join(filter(None, (row["axes"], row["contrast"])))
        text = f"{text} ({further})" if further else text
    if name == "difference" and row["scale"]:
        text = f"{text} ({row['scale']})"
    # A bracket after a line's end would be taken for its option.
    return "{}" + escape(text) if str(text or "").startswith("[") else escape(text or "")
