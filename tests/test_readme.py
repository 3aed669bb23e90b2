"""What README.md says to type works: its Python runs, its commands are configurations."""

import re
import shlex
from pathlib import Path

import pytest
from conftest import ROOT

from kanzoo.run.config import compose
from kanzoo.run.prepare import prepare

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
# Commands in indented blocks and in the text, lines that go on joined.
COMMANDS = sorted(
    set(re.findall(r"python scripts/(\w+)\.py ([^`\n#]+)", TEXT.replace("\\\n", " ")))
)


@pytest.mark.slow
@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_python_blocks_run(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})


def test_train_commands_describe_runs() -> None:
    commands = [shlex.split(words) for name, words in COMMANDS if name == "train"]
    assert len(commands) >= 3
    for words in commands:
        prepare(compose("train", [word for word in words if not word.startswith("-")]))


def test_other_commands_are_known_to_their_programs() -> None:
    for name, text in COMMANDS:
        words = [w for w in shlex.split(text) if "=" in w]
        assert (ROOT / "scripts" / f"{name}.py").is_file()
        if name in ("compare", "evaluate", "explain"):
            compose(name, words)
