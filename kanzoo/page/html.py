"""Pages of one file: templates with one style sheet, and pictures as parts of the page."""

import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from kanzoo.page.style import DARK, LIGHT

VARIABLES = {colour: f"--{name}" for name, colour in LIGHT.items()}


def render(template: Path, context: Mapping[str, Any]) -> str:
    """A template filled in; what it includes lies beside it or is shared by all pages.

    HTML is escaped; a Markdown template escapes by its filter `md`.
    """
    env = Environment(
        loader=FileSystemLoader([template.parent, Path(__file__).parent / "templates"]),
        autoescape=".html" in template.suffixes,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    env.filters["md"] = _markdown
    env.globals.update(light=LIGHT, dark=DARK)
    return env.get_template(template.name).render(context)


def _markdown(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    text = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_|\[\]#~>])", r"\\\1", text)


def inline(svg: str, label: str) -> str:
    """An SVG file as an element for HTML: no prologue, ids of its own, the page's colours and font.

    Matplotlib draws in the light colours of `style`, which become variables of the style sheet, so
    that one drawing is legible on light and on dark pages. Text stays text.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.S)
    svg = re.sub(r"<style.*?</style>|font-family: [^;\"]*; ", "", re.sub(r"\s*\n\s*", " ", svg))
    head, rest = svg.split(">", 1)
    box = re.search(r'viewBox="[\d. ]+"', head)
    prefix = f"p{zlib.crc32((label + svg).encode()):x}-"
    rest = re.sub(r'<g id="[^"]*">', "<g>", rest)
    rest = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{prefix}", rest)
    rest = re.sub(
        r"(?<=[lke]: )#[0-9a-f]{6}\b",  # fill, stroke
        lambda m: f"var({VARIABLES[m[0]]})" if m[0] in VARIABLES else m[0],
        rest,
    )
    label = re.sub(r'[&<>"]', lambda m: f"&#{ord(m[0])};", label)
    return f'<svg {box[0] if box else ""} role="img" aria-label="{label}">{rest}'
