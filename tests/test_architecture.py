"""docs/architecture.md and its picture are what scripts/architecture.py makes of the code."""

import runpy
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def test_the_page_and_the_picture_show_the_imports_of_the_code() -> None:
    script: dict[str, Any] = runpy.run_path(str(ROOT / "scripts" / "architecture.py"))
    imports = script["read_imports"]()
    assert "kernels" in imports["layers"]
    assert not imports["checks"]
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert page == script["page"](imports), "run python scripts/architecture.py"
    picture = (ROOT / "docs" / "architecture.svg").read_text(encoding="utf-8")
    assert script["description"](imports) in picture, "run python scripts/architecture.py"
