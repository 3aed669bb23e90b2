"""How pictures look, and how they are written: light files, whose colours a page can replace."""

import contextlib
import html
import io
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.figure import Figure

# The variables of the style sheet of all pages. Pictures are drawn in the light ones.
LIGHT = {
    "page": "#fbfbfa", "card": "#ffffff", "text": "#1c2126", "muted": "#5b6570", "line": "#dcdfe3",
    "band": "#eceef1", "better": "#117a43", "worse": "#b3261e", "equivalent": "#1f5fa8",
    "undecided": "#6b6f76", "c0": "#59626c", "c1": "#0b6fb8", "c2": "#d1541b", "c3": "#0a8a6a",
    "c4": "#a23f8d", "c5": "#9a7400", "c6": "#3b4cc0", "c7": "#c2284d",
}  # fmt: skip
DARK = {
    "page": "#14171a", "card": "#1b1f23", "text": "#e6e9ec", "muted": "#a0a9b2", "line": "#343a41",
    "band": "#262b31", "better": "#5ccf8b", "worse": "#ff8a80", "equivalent": "#7db8f5",
    "undecided": "#a9afb7", "c0": "#b4bcc5", "c1": "#62b3f2", "c2": "#ff9a62", "c3": "#4fd0ac",
    "c4": "#e08fd0", "c5": "#e0bd45", "c6": "#98a4ff", "c7": "#ff8098",
}  # fmt: skip
CARD, TEXT, MUTED, LINE, BAND, CURVE, ACCENT = (
    LIGHT[name] for name in ("card", "text", "muted", "line", "band", "c1", "c2")
)
logging.getLogger("fontTools").setLevel(logging.WARNING)  # tells each glyph of a PDF file
_TIP = "tip-"  # before an id that holds a text as hexadecimal digits
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "kanzoo", "pdf.fonttype": 42, "text.parse_math": False,
    "font.family": "DejaVu Sans", "font.size": 9, "figure.facecolor": CARD, "axes.facecolor": CARD,
    "text.color": TEXT, "axes.labelcolor": MUTED, "axes.edgecolor": LINE, "grid.color": LINE,
    "xtick.color": LINE, "ytick.color": LINE, "xtick.labelcolor": MUTED, "ytick.labelcolor": MUTED,
    "xtick.labelsize": 7.5, "ytick.labelsize": 7.5, "xtick.major.size": 2.5,
    "ytick.major.size": 2.5, "axes.spines.top": False, "axes.spines.right": False,
    "axes.formatter.useoffset": False, "axes.linewidth": 0.8, "grid.linewidth": 0.6,
    "axes.axisbelow": True,
}  # fmt: skip


@contextlib.contextmanager
def style(changes: dict[Any, Any] | None = None) -> Iterator[None]:
    """The look of pictures, for drawing and for writing them."""
    with mpl.rc_context({**_STYLE, **(changes or {})}), warnings.catch_warnings():
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
            if target.suffix == ".svg":
                target.write_text(svg_of(figure), encoding="utf-8")
            else:
                figure.savefig(target, dpi=144)
    return paths


def settle(figure: Figure) -> None:
    """Lay a figure out and keep that; the last digits of a layout differ from time to time."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for ax in figure.axes:
        x, y, width, height = (round(value, 5) for value in ax.get_position().bounds)
        ax.set_position((x, y, width, height))


def svg_of(figure: Figure) -> str:
    """The text of an SVG file, without date; what has a `tip` shows it under the pointer."""
    buffer = io.StringIO()
    with mpl.rc_context({name: _STYLE[name] for name in ("svg.fonttype", "svg.hashsalt")}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return re.sub(rf'<g id="{_TIP}([0-9a-f]*)">', _title, buffer.getvalue())


def _title(match: re.Match[str]) -> str:
    text = html.escape(bytes.fromhex(match[1]).decode()).replace("\n", "&#10;")
    return f"<g><title>{text}</title>"


def pdf_of(figure: Figure) -> bytes:
    """The content of a PDF file, without date."""
    buffer = io.BytesIO()
    metadata = {"CreationDate": None, "Creator": None, "Producer": None}
    figure.savefig(buffer, format="pdf", metadata=metadata)
    return buffer.getvalue()


def tip(artist: Artist, text: str) -> None:
    """Let the SVG of an artist show a text under the pointer."""
    artist.set_gid(_TIP + text.encode().hex())
