"""The layering of the package, read from its source: imports go one way."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "kanzoo"
FILES = sorted(PACKAGE.rglob("*.py"))
WIRING = {
    "train.py",
    "evaluate.py",
    "explain.py",
    "compare.py",
    "config.py",
    "build.py",
    "weights.py",
}
# What each part must not import; the other direction is allowed.
FORBIDDEN = {
    "bases": {"layers", "models", "data", "engine", "study", "interpret"},
    "layers": {"models", "data", "engine", "study", "interpret"},
    "models": {"data", "engine", "study", "interpret"},
    "data": {"bases", "layers", "models", "engine", "study", "interpret"},
    "engine": {"bases", "layers", "models", "study", "interpret"},
    "study": {"interpret"},
    "interpret": {"study"},
}
COMMANDS = {"train.py", "evaluate.py", "compare.py", "config.py"}  # files with an entry point


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def imports(path: Path) -> set[str]:
    """Absolute names of all modules that a file imports, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = ["kanzoo", *path.relative_to(PACKAGE).parts[: -node.level]]
                base = ".".join(filter(None, [*parent, base]))
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_one_way(path: Path) -> None:
    part = path.relative_to(PACKAGE).parts[0]
    wiring = {f"kanzoo.{Path(name).stem}" for name in WIRING}
    for module in imports(path):
        words = module.split(".")
        if part in FORBIDDEN and words[0] == "kanzoo" and len(words) > 1:
            assert words[1] not in FORBIDDEN[part], f"{name_of(path)} imports {module}"
            assert ".".join(words[:2]) not in wiring, f"{name_of(path)} imports {module}"
        if name_of(path) not in WIRING:
            assert words[0] not in ("hydra", "omegaconf"), f"{name_of(path)} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_are_short_and_do_not_print(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 320
    if name_of(path) not in COMMANDS and "benchmark" not in name_of(path):
        calls = [n.func for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Call)]
        assert not any(isinstance(f, ast.Name) and f.id == "print" for f in calls)


def test_models_are_plain_modules() -> None:
    for path in (PACKAGE / "models").glob("*.py"):
        assert path.read_text(encoding="utf-8").count("\n") <= 200
        tops = {module.split(".")[0] for module in imports(path)}
        assert not tops & {"lightning", "hydra", "omegaconf", "wandb", "yaml"}


def test_the_walk_sees_what_it_should() -> None:
    assert len(FILES) > 40
    assert "kanzoo.bases.base.BasisFactory" in imports(PACKAGE / "layers" / "factory.py")
    assert "wandb" in imports(PACKAGE / "engine" / "trainer.py")  # inside a function
