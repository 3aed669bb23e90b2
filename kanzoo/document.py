"""The command that writes `docs/bases.md`, `docs/models.md` and `docs/data.md`."""

from pathlib import Path

from kanzoo import registry
from kanzoo.reproduce.reference import draw, pages


def main(folder: Path = Path("docs")) -> None:
    """Write the pages and their pictures."""
    (folder / "bases").mkdir(parents=True, exist_ok=True)
    for name in registry.names("basis"):
        draw(name, folder / "bases" / f"{name}.svg")
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")
