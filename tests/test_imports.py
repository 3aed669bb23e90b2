"""The layering of the package, read from its source: imports go one way."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "kanzoo"
FILES = sorted(PACKAGE.rglob("*.py"))
# Rooms from the ground up, and which others each may import.
GROUND = {
    "checks",
    "settings",
    "trainer_settings",
    "registry",
    "rundir",
    "files",
    "errors",
    "zoo",
    "hardware",
}
ROOMS: dict[str, set[str]] = {
    "page": set(),
    "bases": set(),
    "data": set(),
    "kernels": {"bases"},
    "layers": {"bases", "data", "kernels"},
    "models": {"bases", "kernels", "layers"},
    "training": {"bases", "data", "kernels", "layers", "models"},
    "fit": {"bases", "kernels", "layers", "training"},
    "interpret": {"bases", "data", "layers", "training", "fit", "page"},
    "run": {"bases", "data", "layers", "models", "training", "fit", "interpret"},
    "estimators": {"bases", "data", "layers", "training", "fit", "interpret"},
    "study": {"bases", "data", "layers", "models", "training", "interpret", "run", "page"},
    "ledger": {"models", "run", "study", "page"},
}
LEAVES = {"reproduce", "benchmark"}  # may import every room; nothing imports them
COMMANDS = {"train", "evaluate", "compare", "aggregate", "explain", "document"}  # likewise
HYDRA = {"run/config.py", "run/command.py"}


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


def rooms_of(path: Path) -> set[str]:
    """Rooms and commands of kanzoo that a file imports; the package's own names are none."""
    words = (module.split(".") for module in imports(path))
    known = {*ROOMS, *LEAVES, *COMMANDS, *GROUND}
    return {w[1] for w in words if w[0] == "kanzoo" and len(w) > 1 and w[1] in known}


def test_every_room_and_top_level_module_is_listed() -> None:
    folders = {p.name for p in PACKAGE.iterdir() if (p / "__init__.py").is_file()}
    modules = {p.stem for p in PACKAGE.glob("*.py")} - {"__init__"}
    assert folders == {*ROOMS, *LEAVES}
    assert modules == {*GROUND, *COMMANDS}


def test_imports_go_one_way() -> None:
    for room, below in ROOMS.items():  # no circle
        assert all(list(ROOMS).index(other) < list(ROOMS).index(room) for other in below)
    wrong = []
    for path in FILES:
        top = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if top in GROUND:
            allowed = GROUND
        elif top in ROOMS:
            allowed = {top, *GROUND, *ROOMS[top]}
        elif top in COMMANDS:
            allowed = {*GROUND, *ROOMS, *({"reproduce"} if top == "document" else ())}
        else:
            continue
        wrong += [f"{name_of(path)} imports {other}" for other in rooms_of(path) - allowed]
    assert not wrong


def test_hydra_stays_in_its_file() -> None:
    for path in FILES:
        tops = {module.split(".")[0] for module in imports(path)}
        assert name_of(path) in HYDRA or not tops & {"hydra", "omegaconf"}, name_of(path)


def test_files_are_short_and_do_not_print() -> None:
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 320, name_of(path)
        first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if first not in COMMANDS | {"benchmark"} and name_of(path) not in HYDRA:
            calls = [n.func for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Call)]
            assert not any(isinstance(f, ast.Name) and f.id == "print" for f in calls), path


def test_models_are_plain_modules() -> None:
    for path in (PACKAGE / "models").glob("*.py"):
        lines = path.read_text(encoding="utf-8").count("\n")
        assert lines <= 200 or path.stem in ("build", "budget", "weights")
        tops = {module.split(".")[0] for module in imports(path)}
        assert not tops & {"lightning", "hydra", "omegaconf", "wandb", "yaml"}


def test_the_walk_sees_what_it_should() -> None:
    assert len(FILES) > 40
    assert "kanzoo.bases.base.BasisFactory" in imports(PACKAGE / "layers" / "factory.py")
    assert "wandb" in imports(PACKAGE / "training" / "services.py")  # inside a function


def test_commands_hold_no_logic() -> None:
    for name in COMMANDS:
        lines = (PACKAGE / f"{name}.py").read_text(encoding="utf-8").count("\n")
        assert lines <= 110, f"{name}.py has {lines} lines"
