"""How pictures look, and how they are written: light files, whose colours a page can replace."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

CARD, INK, MUTED, LINE, BAND = "#ffffff", "#1c2126", "#5b6570", "#dcdfe3", "#eceef1"
CURVE, ACCENT = "#0b6fb8", "#d1541b"
# The same in the style sheet of the pages, where they have a dark form too.
VARIABLES = {
    CARD: "--card", INK: "--ink", MUTED: "--muted", LINE: "--line", BAND: "--band",
    CURVE: "--c1", ACCENT: "--c2",
}  # fmt: skip
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "kanzoo", "text.parse_math": False,
    "font.family": "DejaVu Sans", "font.size": 9, "figure.facecolor": CARD, "axes.facecolor": CARD,
    "text.color": INK, "axes.labelcolor": MUTED, "axes.edgecolor": LINE,
    "xtick.color": LINE, "ytick.color": LINE, "xtick.labelcolor": MUTED, "ytick.labelcolor": MUTED,
    "xtick.labelsize": 7.5, "ytick.labelsize": 7.5, "xtick.major.size": 2.5,
    "ytick.major.size": 2.5, "axes.spines.top": False, "axes.spines.right": False,
    "axes.formatter.useoffset": False, "axes.linewidth": 0.8,
}  # fmt: skip


@contextlib.contextmanager
def style() -> Iterator[None]:
    """The look of pictures, for drawing and for writing them."""
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # names may be in any script
        yield


def save(figure: Figure, path: Path, suffixes: tuple[str, ...] = (".png", ".svg")) -> list[Path]:
    """Write a figure with the suffix of the path, or else with all `suffixes`; the same bytes."""
    path = Path(path)
    if path.suffix in (".png", ".svg", ".pdf"):
        paths = [path]
    else:
        paths = [path.with_name(path.name + suffix) for suffix in suffixes]
    path.parent.mkdir(parents=True, exist_ok=True)
    with style():
        for target in paths:
            metadata = {"Date": None, "Creator": None} if target.suffix == ".svg" else None
            figure.savefig(target, dpi=144, metadata=metadata)
    return paths
