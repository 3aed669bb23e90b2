"""What README.md and docs/ say to type works: Python runs, commands are known, links lead there."""

import re
import runpy
import shlex
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, compose

from kanzoo.run.prepare import prepare

README = ROOT / "README.md"
# What is generated, or has a test of its own, is left out.
PAGES = [p for p in (ROOT / "docs").glob("*.md") if p.stem not in ("reproductions", "extending")]
PYTHON = re.findall(r"^```python\n(.*?)^```$", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s#]*)(?:#([^)\s]*))?\)")
PARSED = ("aggregate", "benchmark", "formulas", "ledger")  # by argparse; the others by Hydra


def commands(*pages: Path) -> list[tuple[str, list[str]]]:
    """Programs and their words, in indented blocks and in the text; lines that go on joined.

    A choice that stands for one of the reader's, as `study=NAME`, is left out.
    """
    texts = (page.read_text(encoding="utf-8").replace("\\\n", " ") for page in pages)
    found = {c for text in texts for c in re.findall(r"python scripts/(\w+)\.py ([^`\n#]+)", text)}
    return [
        (name, [w for w in shlex.split(words) if not w.endswith("=NAME")])
        for name, words in sorted(found)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_python_blocks_run(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})


def test_train_commands_describe_runs() -> None:
    found = [words for name, words in commands(README) if name == "train"]
    assert len(found) >= 3
    for words in found:
        prepare(compose("train", [word for word in words if not word.startswith("-")]))


def test_other_commands_are_known_to_their_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    class ParsedError(Exception):
        """Stands for all that a program does afterwards."""

    plain = ArgumentParser.parse_args

    def parse(self: ArgumentParser, *arguments: Any) -> None:
        plain(self, *arguments)
        raise ParsedError

    for name, words in commands(README, *PAGES):
        path = ROOT / "scripts" / f"{name}.py"
        assert path.is_file()
        if name in ("train", "compare", "evaluate", "explain"):
            compose(name, [word for word in words if not word.startswith("-")])
        if name in PARSED:
            with monkeypatch.context() as patch:
                patch.setattr(ArgumentParser, "parse_args", parse)
                patch.setattr("sys.argv", [str(path), *words])
                with pytest.raises(ParsedError):
                    runpy.run_path(str(path), run_name="__main__")


def test_links_lead_to_files_and_headings() -> None:
    for page in (README, ROOT / "SECURITY.md", *(ROOT / "docs").rglob("*.md")):
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for path, heading in LINK.findall(text):
            target = page.parent / path if path else page
            assert target.exists(), f"{page}: {path}"
            if heading and target.suffix == ".md":
                titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
                names = {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}
                assert heading in names, f"{page}: {path}#{heading}"
