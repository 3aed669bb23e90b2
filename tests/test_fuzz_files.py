"""Files from strangers made at random: used, or refused in one line within seconds.

`KANZOO_FUZZ=500` tries so many of each kind.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuzzing import LIMIT, time_limit, tried
from hypothesis import given
from hypothesis import strategies as st
from test_trust import run_folder, use  # noqa: F401  the fixture of a finished run

import kanzoo
from kanzoo.data.csv_file import CSV
from kanzoo.data.formula import compile_formula, formula_variables, parse_formula
from kanzoo.files import seal, unseal
from kanzoo.models.weights import read_checkpoint
from kanzoo.rundir import read_config

pytestmark = pytest.mark.timeout(7200)  # of as many as KANZOO_FUZZ says

Damage = Callable[[bytes], bytes]
BYTES = st.binary(max_size=64)


def either(action: Callable[[], object]) -> None:
    """Do it; `ValueError` of one line may refuse it, nothing else, and not for long."""
    line = "used"
    try:
        with time_limit(LIMIT):
            action()
    except ValueError as error:
        line = str(error)
    assert line
    assert "\n" not in line


@st.composite
def damages(draw: st.DrawFn) -> Damage:
    """What becomes of the bytes of a file: cut, flipped, replaced, or with more in it."""
    kind = draw(st.sampled_from(["cut", "flip", "flip", "overwrite", "insert", "drop", "replace"]))
    places = draw(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=8))
    bits, new = draw(st.integers(1, 255)), draw(BYTES)

    def damage(content: bytes) -> bytes:
        at = [int(place * len(content)) for place in places]
        if kind == "cut":
            return content[: at[0]]
        if kind == "replace":
            return new
        if kind == "drop":
            return content[: min(at)] + content[max(at) :]
        if kind == "insert":
            return content[: at[0]] + new + content[at[0] :]
        if kind == "overwrite":
            return content[: at[0]] + new + content[at[0] + len(new) :]
        changed = bytearray(content)
        for place in at if content else []:
            changed[place] ^= bits
        return bytes(changed)

    return damage


def test_damaged_run_folders(run_folder: Path, tmp_path: Path) -> None:  # noqa: F811
    config = read_config(run_folder / "config.yaml")
    names = [str(p.relative_to(run_folder)) for p in run_folder.rglob("*") if p.is_file()]
    several = st.dictionaries(st.sampled_from(sorted(names)), damages() | st.none(), min_size=1)

    @tried(40)
    @given(several)
    def run(changes: dict[str, Damage | None]) -> None:
        folder = tmp_path / "run"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(run_folder, folder)
        for name, damage in changes.items():
            if damage is None:
                (folder / name).unlink()
            else:
                (folder / name).write_bytes(damage((folder / name).read_bytes()))
        either(lambda: use(folder, config))

    run()


def test_damaged_checkpoints(run_folder: Path, tmp_path: Path) -> None:  # noqa: F811
    """Also with a checksum that fits: it shows accidents, not intent."""
    path = tmp_path / "last.ckpt"
    good = (run_folder / "checkpoints" / "last.ckpt").read_bytes()

    @tried(60)
    @given(damages(), st.booleans())
    def run(damage: Damage, is_sealed: bool) -> None:
        end = b"\0\0"  # an archive without a comment
        changed = seal(damage(unseal(good)[:-2]) + end) if is_sealed else damage(good)
        path.write_bytes(changed)
        either(lambda: read_checkpoint(path))

    run()


def test_damaged_networks(tmp_path: Path) -> None:
    net = kanzoo.create_model(
        "mlp", layers="kan", basis="bspline", in_shape=(2,), num_outputs=1, width=2
    )
    kanzoo.save(net, tmp_path / "net")
    good = {name: (tmp_path / f"net.{name}").read_bytes() for name in ("json", "safetensors")}

    @tried(60)
    @given(st.sampled_from(sorted(good)), damages())
    def run(name: str, damage: Damage) -> None:
        for other, content in good.items():
            (tmp_path / f"net.{other}").write_bytes(content)
        (tmp_path / f"net.{name}").write_bytes(damage(good[name]))
        either(lambda: kanzoo.load(tmp_path / "net"))

    run()


PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)


def test_networks_of_other_values(tmp_path: Path) -> None:
    """What parses as JSON, with any value at any of its keys."""
    net = kanzoo.create_model(
        "mlp", layers="kan", basis="bspline", in_shape=(2,), num_outputs=1, width=2
    )
    kanzoo.save(net, tmp_path / "net")
    good = json.loads((tmp_path / "net.json").read_text())
    paths = [(key,) for key in good]
    paths += [(k, inner) for k, v in good.items() if isinstance(v, dict) for inner in v]

    @tried(60)
    @given(st.sampled_from(paths), PLAIN | st.lists(PLAIN, max_size=2))
    def run(path: tuple[str, ...], value: object) -> None:
        content: Any = json.loads(json.dumps(good))
        node = content
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value
        (tmp_path / "net.json").write_text(json.dumps(content))
        either(lambda: kanzoo.load(tmp_path / "net"))

    run()


NUMBERS = ("0", "1", "-2.5", "1e308", "1e-320", "9**9**9", "pi", "inf", "nan", "1j", "True", "''")
CALLS = ("sin", "exp", "log", "sqrt", "tan", "abs", "max", "min", "gamma", "f", "__import__")


def formulas() -> st.SearchStrategy[str]:
    """Sums, products, powers and calls, some with what is no formula."""
    leaves = st.sampled_from((*NUMBERS, "x", "y", "x0", "_", "x.real", "x[0]", "lambda: 0"))
    return st.recursive(
        leaves | st.text("xy+-*/()., 0", max_size=6),
        lambda inner: (
            st.tuples(inner, st.sampled_from("+-*/%@"), inner).map("({0[0]} {0[1]} {0[2]})".format)
            | st.tuples(inner, inner).map("({0[0]})**({0[1]})".format)
            | st.tuples(st.sampled_from(CALLS), inner).map("{0[0]}({0[1]})".format)
            | st.tuples(st.sampled_from(CALLS), inner, inner).map("{0[0]}({0[1]}, {0[2]})".format)
        ),
        max_leaves=12,
    )


def test_formulas() -> None:
    def use_formula(text: str) -> None:
        names = formula_variables(text)
        with np.errstate(all="ignore"):
            compile_formula(parse_formula(text), names)(np.ones((3, len(names))))

    @tried(60)
    @given(formulas())
    def run(text: str) -> None:
        either(lambda: use_formula(text))

    run()


CELLS = ("1", "-2.5", "1e999", "nan", "", "a", "ü", '"', "'", "1,5", "=1+1", "2020-01-01", "\0")


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    """Rows of cells, not all equally long, in some encoding; or any bytes at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    width, separator = draw(st.integers(1, 4)), draw(st.sampled_from([",", ";", "\t", " "]))
    ordinary = st.floats(-9, 9).map(str)
    cell = ordinary if draw(st.booleans()) else st.sampled_from(CELLS) | ordinary
    rows = draw(st.lists(st.lists(cell, min_size=width, max_size=width), max_size=12))
    header = [*(f"x{number}" for number in range(width - 1)), "y"]
    text = "\n".join(separator.join(row) for row in [header, *rows])
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"]))
    return text.encode(encoding, "replace")


def test_tables(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"

    def read() -> None:
        data = CSV(path=str(path), target="y", batch_size=4, val_size=0.2)
        data.check()
        data.load()
        x, y = next(iter(data.loaders(seed=0, device=torch.device("cpu")).train))
        assert x.isfinite().all()
        assert y.isfinite().all()

    @tried(60)
    @given(tables())
    def run(content: bytes) -> None:
        path.write_bytes(content)
        either(read)

    run()
