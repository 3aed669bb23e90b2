"""Command lines made at random over the files of `conf/`: success, or one line and nothing written.

`KANZOO_FUZZ=2000` tries so many, with `KANZOO_FUZZ_FRESH=1` others every time; `make test-all`
tries 200, `make test` 15.
"""

from functools import cache
from pathlib import Path

import pytest
from fuzzing import in_process, tried
from hypothesis import given
from hypothesis import strategies as st

from kanzoo import compare, evaluate, explain, registry, train
from kanzoo.data.base import Dataset
from kanzoo.run.config import _compose, _raw, _root_names
from kanzoo.rundir import flatten
from kanzoo.study import preview

MAINS = {"train": train, "compare": compare, "evaluate": evaluate, "explain": explain}
VALUES = (
    *("null", "true", "false", "''", "x", "[]", "{}", "[[1]]", "[1,2]", "[null]", "{a: 1}", "???"),
    *("0", "-1", "1", "2", "3", "7", "1.5", "-0.0", "nan", "inf", "1e30", "1e-30", "1_000", "0x10"),
    *("16777216", "100000000", "1000000000000", "99999999999999999999", "9223372036854775807"),
    *("${seed}", "${nothing}", "${oc.env:HOME}", "../x", "/", "a(b", "a b", "ü", "'", '"', "a=b"),
    *("1,2", "choice(1,2)", "range(1,3)", "[0.5,1.0]", "{x: {y: [1]}}", "auto", "cpu", "none"),
    *("1:30", "2020-01-01", "0o17", "[[0,4],[4,100000000]]", "[[1,2,3]]", "'null'", "1e400"),
)
PREFIXES = ("", "", "", "", "", "", "+", "++", "~")


@cache
def keys(root: str, *choices: str) -> list[str]:
    """All keys of a root file with files chosen in its groups, sections among them."""
    values = _raw(_compose(root, list(choices)))
    leaves = [key for key in flatten(values) if "_target_" not in key]
    return sorted({*leaves, *(key.rpartition(".")[0] for key in leaves if "." in key)})


@st.composite
def command_lines(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A command, and overrides of it of which most are wrong."""
    root = draw(st.sampled_from(["train"] * 5 + ["compare"] * 2 + ["evaluate", "explain"]))
    groups, _ = _root_names(root)
    chosen = draw(st.lists(st.sampled_from(groups), max_size=3, unique=True)) if groups else []
    words = [f"{g}={draw(st.sampled_from(registry.names(g)))}" for g in chosen]
    if root == "compare":
        words.append("dry_run=true")
    try:
        known = keys(root, *words)
    except ValueError:  # files that do not go together
        known = keys(root)
    for _ in range(draw(st.integers(0, 3))):
        key = draw(st.sampled_from([*known, *groups]) | st.text("abcde._/@", max_size=6))
        value = draw(st.sampled_from(VALUES) | st.text(max_size=4))
        prefix = draw(st.sampled_from(PREFIXES))
        words.append(f"{prefix}{key}" + (f"={value}" if prefix != "~" or value == "null" else ""))
    return root, words


@pytest.fixture
def planned_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands end where training would start; data are not loaded, as some are not there."""
    monkeypatch.setattr(Dataset, "load", lambda self: None)
    monkeypatch.setattr(train, "fit_alone", lambda folder, prepared: None)
    monkeypatch.setattr(preview, "step_seconds", lambda *_: 1.0)


def check(root: str, words: list[str], tmp_path: Path) -> None:
    outcome = in_process(MAINS[root].main, words, tmp_path)
    try:
        outcome.check()
    except AssertionError as error:
        raise AssertionError(f"{root} {words}: {error}") from None


@pytest.mark.usefixtures("planned_only")
def test_some_command_lines(tmp_path: Path) -> None:
    @tried(15)
    @given(command_lines())
    def run(line: tuple[str, list[str]]) -> None:
        check(*line, tmp_path)

    run()


@pytest.mark.slow
@pytest.mark.timeout(7200)  # of as many as KANZOO_FUZZ says
@pytest.mark.usefixtures("planned_only")
def test_many_command_lines(tmp_path: Path) -> None:
    @tried(200)
    @given(command_lines())
    def run(line: tuple[str, list[str]]) -> None:
        check(*line, tmp_path)

    run()


@pytest.mark.parametrize(
    "line",
    [
        ("train", ["~seed"]),
        ("compare", ["study.tune.finalist_seeds=100000000"]),
        ("compare", ["study.tune.trials=0", "study.looks=[9,20000]", "study.seeds=20000"]),
        ("compare", ["study.further=[[1]]"]),
        ("train", ["--resolve"]),
        ("train", ["model@x=mlp"]),
        ("train", ["hydra.searchpath=[pkg://os]"]),
        ("train", ["data=functions", "data.n_train=3000000000"]),
        ("train", [f"name={'a' * 300}"]),
        ("evaluate", [f"run={'a/' * 3000}"]),
    ],
)
@pytest.mark.usefixtures("planned_only")
def test_kinds_of_fault(line: tuple[str, list[str]], tmp_path: Path) -> None:
    root, words = line
    outcome = in_process(MAINS[root].main, words, tmp_path)
    outcome.check()
    assert outcome.code == 2
