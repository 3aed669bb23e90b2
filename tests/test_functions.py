"""Functions and CSV files as data: values, ranges, noise, splits, and bad input."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.special
import sympy
import torch

from kanzoo.data.csv_file import CSV
from kanzoo.data.formula import parse_formula
from kanzoo.data.functions import Functions, find_function, function_names
from kanzoo.data.special import BUILT_IN_FEYNMAN, SPECIAL, TOY, feynman_table


def loaded(cls: type = Functions, **options: Any) -> Any:
    dataset = cls(**options)
    dataset.load()
    return dataset


def refusal(cls: type, **options: Any) -> str:
    with pytest.raises(ValueError, match=r"\S") as caught:
        loaded(cls, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- the library


@pytest.mark.parametrize("name", [*TOY, *SPECIAL, "high_dimensional"])
def test_the_library_is_finite_on_its_ranges(name: str) -> None:
    dataset = loaded(function=name, dtype="float64", n_train=500)
    x, y = dataset.splits["train"]
    assert x.shape == (500, len(dataset.target.variables))
    assert y.shape == (500, 1)
    assert y.isfinite().all()
    for column, (low, high) in zip(x.T, dataset.target.ranges, strict=True):
        assert low <= column.min() < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < column.max() <= high


def test_values_are_scipys() -> None:
    x, y = np.random.default_rng(0).random((2, 50))
    y = y + 0.01
    points = np.stack([x, y], 1)
    expected = {
        "ellipj": scipy.special.ellipj(x, y)[0],
        "ellipkinc": scipy.special.ellipkinc(x, y),
        "ellipeinc": scipy.special.ellipeinc(x, y),
        "yv": scipy.special.yv(x, y),
        "lpmv_1": scipy.special.lpmv(1, x, y),
        # Y_1^0 and Re Y_1^1 of azimuth x and polar angle y, written out.
        "sph_harm_0_1": np.sqrt(3 / (4 * np.pi)) * np.cos(y),
        "sph_harm_1_1": -np.sqrt(3 / (8 * np.pi)) * np.sin(y) * np.cos(x),
        "exp_sin": np.exp(np.sin(np.pi * x) + y**2),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(find_function(name).call(points), values, rtol=1e-12)
    line = np.linspace(-1, 1, 9)[:, None]
    np.testing.assert_allclose(
        find_function("bessel").call(line), scipy.special.j0(20 * line[:, 0]), atol=1e-13
    )
    high = np.zeros((1, 100))
    high[0, :50] = 1
    assert find_function("high_dimensional").call(high) == pytest.approx(np.exp(0.5))


def test_feynman_equations_are_all_read_and_finite() -> None:
    root = os.environ.get("KANZOO_DATA")
    if not root:
        pytest.skip("KANZOO_DATA does not name a folder with the real data sets")
    table = feynman_table(root)
    assert len(table) == 100
    for name in table:
        formula, ranges = table[name]
        dataset = loaded(function=f"feynman_{name}", root=root, n_train=200, dtype="float64")
        # Against SymPy's own parser on a few points.
        symbols = {variable: sympy.Symbol(variable) for variable in ranges}
        extra = {"arcsin": sympy.asin, "ln": sympy.log}
        theirs = sympy.sympify(formula, locals={**symbols, **extra})
        x, y = dataset.splits["train"]
        for point, value in zip(x[:3].tolist(), y[:3, 0].tolist(), strict=True):
            exact = theirs.subs(dict(zip(symbols.values(), point, strict=True)))
            assert value == pytest.approx(float(exact.evalf(25)), rel=1e-9), name


def test_a_handful_of_feynmans_needs_no_file(tmp_path: Path) -> None:
    assert feynman_table(tmp_path).keys() == BUILT_IN_FEYNMAN.keys()
    for name in BUILT_IN_FEYNMAN:
        assert f"feynman_{name}" in function_names(tmp_path)
        loaded(function=name, root=str(tmp_path), n_train=50)
    assert "feynman_I.6.2a" in refusal(Functions, function="feynman_I.6.2b", root=str(tmp_path))
    root = os.environ.get("KANZOO_DATA")
    if root:
        whole = feynman_table(root)
        assert all(whole[name] == entry for name, entry in BUILT_IN_FEYNMAN.items())


def test_a_garbled_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "feynman").mkdir()
    (tmp_path / "feynman" / "FeynmanEquations.csv").write_text("Filename,Formula\nI.6.2a,x\n")
    assert "FeynmanEquations.csv is corrupt" in refusal(
        Functions, function="I.6.2a", root=str(tmp_path)
    )


# ---------------------------------------------------------------- points, noise, scale


def test_own_formula_on_own_ranges() -> None:
    dataset = loaded(formula="x10*sin(x2)", ranges=[[2, 3], [-5, -4]], dtype="float64")
    assert dataset.target.variables == ("x2", "x10")
    x, y = dataset.splits["test"]
    assert x[:, 0].min() >= 2
    assert x[:, 1].max() <= -4
    torch.testing.assert_close(y[:, 0], x[:, 1] * x[:, 0].sin(), rtol=1e-14, atol=0.0)
    by_name = loaded(formula="x10*sin(x2)", ranges={"x10": [-5, -4]}, dtype="float64")
    assert by_name.target.ranges == ((-1.0, 1.0), (-5.0, -4.0))


def test_splits_depend_on_the_data_seed_alone_and_not_on_each_other() -> None:
    first, again = loaded(n_train=50), loaded(n_train=50)
    more, other = loaded(n_train=80), loaded(n_train=50, split_seed=1)
    for part in ("train", "val", "test"):
        assert torch.equal(first.splits[part].x, again.splits[part].x)
        assert not torch.equal(first.splits[part].x, other.splits[part].x)
    assert torch.equal(first.splits["test"].x, more.splits["test"].x)
    assert torch.equal(first.splits["train"].x, more.splits["train"].x[:50])
    assert not torch.equal(first.splits["val"].x, first.splits["test"].x)


def test_noise_is_on_training_targets_and_relative() -> None:
    clean, noisy = loaded(n_train=20_000), loaded(n_train=20_000, noise=0.1)
    assert torch.equal(clean.splits["train"].x, noisy.splits["train"].x)
    added = noisy.splits["train"].y - clean.splits["train"].y
    assert float(added.std() / clean.splits["train"].y.std()) == pytest.approx(0.1, rel=0.02)
    assert abs(float(added.mean())) < 0.01
    for part in ("val", "test"):
        assert torch.equal(clean.splits[part].y, noisy.splits[part].y)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_standardised_by_the_training_split(dtype: str) -> None:
    dataset = loaded(function="feynman_I.29.4", standardise="both", dtype=dtype)
    for values in dataset.splits["train"]:
        assert values.dtype == getattr(torch, dtype)
        torch.testing.assert_close(values.mean(0), torch.zeros_like(values[0]), atol=1e-5, rtol=0)
        torch.testing.assert_close(values.std(0, correction=0), torch.ones_like(values[0]))
    plain = loaded(function="feynman_I.29.4", standardise="targets", dtype=dtype)
    assert plain.splits["train"].x.min() >= 1
    loader = dataset.loaders(seed=0, device=torch.device("cpu")).train
    assert {tensor.dtype for tensor in next(iter(loader))} == {getattr(torch, dtype)}


def test_the_domain_is_checked_on_the_points() -> None:
    message = refusal(Functions, formula="log(x) + y")
    assert "log(x) + y" in message
    assert "x=-" in message
    assert "ranges" in message
    assert loaded(formula="log(x) + y", ranges=[[0.1, 1], [-1, 1]]).splits
    assert "exp(1000*x)" in refusal(Functions, formula="exp(1000*x)", ranges=[1, 2])
    assert "constant" in refusal(Functions, formula="1 + x*1e-30", dtype="float64")
    assert "no variable" in refusal(Functions, formula="1 + pi")


def test_a_formula_of_the_library_is_the_function() -> None:
    function = find_function("exp_sin")
    assert function.formula is not None
    x, y = sympy.symbols("x y")
    assert parse_formula(function.formula) == sympy.exp(sympy.sin(sympy.pi * x) + y**2)


# ---------------------------------------------------------------- CSV files


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """60 rows with a text column that nobody chooses."""
    generator = np.random.default_rng(0)
    a, b = generator.normal(3, 2, (2, 60))
    rows = [
        f"{i},{u!r},{v!r},t{i},{u * v!r}"
        for i, (u, v) in enumerate(zip(a.tolist(), b.tolist(), strict=True))
    ]
    path = tmp_path / "table.csv"
    path.write_text("id,first col,b,note,y\n" + "\n".join(rows) + "\n")
    return path


def test_columns_are_chosen_by_name(table: Path) -> None:
    options = {"path": str(table), "target": "y", "features": ["b", "first col"]}
    dataset = loaded(CSV, **options, standardise="none", dtype="float64")
    assert dataset.columns == ("b", "first col")
    assert dataset.spec.in_shape == (2,)
    assert tuple(dataset.counts()) == (43, 5, 12)
    seen = torch.cat([dataset.splits[part].x for part in ("train", "val", "test")])
    assert len(seen.unique(dim=0)) == 60
    for x, y in dataset.splits.values():
        torch.testing.assert_close(x.prod(1, keepdim=True), y, rtol=1e-14, atol=0.0)
    scaled = loaded(CSV, **options)
    x, _ = scaled.splits["train"]
    torch.testing.assert_close(x.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    other = loaded(CSV, **options, standardise="none", dtype="float64", split_seed=1)
    for part in ("val", "test"):
        assert not torch.equal(other.splits[part].x, dataset.splits[part].x)


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (None, {"target": "z"}, ["no column 'z'", "note"]),
        (None, {"features": ["a"]}, ["no column 'a'"]),
        (None, {"features": ["b", "y"]}, ["not the target"]),
        (None, {"features": []}, ["at least one column"]),
        (None, {"features": None}, ["'note'", "'t0'", "numbers"]),
        ("5,nan,1.0,t,1.0", {}, ["'first col'", "1 missing", "row 61"]),
        ("5,,1.0,t,1.0", {}, ["'first col'", "missing"]),
        ("5,inf,1.0,t,1.0", {}, ["infinite"]),
        ("5,1,2", {"features": ["b"], "target": "y"}, ["'y'", "missing"]),
        (None, {"path": "/nowhere.csv"}, ["/nowhere.csv"]),
        (None, {"test_size": 60}, ["test_size"]),
    ],
)
def test_problems_of_a_file_are_named(
    table: Path, change: str | None, options: dict[str, Any], words: list[str]
) -> None:
    if change is not None:
        table.write_text(table.read_text() + change + "\n")
    whole = {"path": str(table), "target": "y", "features": ["first col", "b"], **options}
    message = refusal(CSV, **whole)
    for word in words:
        assert word in message


def test_constant_features_empty_and_binary_files(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b,y\n" + "".join(f"{i},7,{i}\n" for i in range(9)))
    assert "column 'b' is constant, 7" in refusal(CSV, path=str(path), target="y")
    path.write_text("")
    assert "cannot be read" in refusal(CSV, path=str(path), target="y")
    path.write_bytes(bytes(range(256)))
    assert str(path) in refusal(CSV, path=str(path), target="y")
    path.write_text("a,y\n1,2\n")
    assert "1 rows" in refusal(CSV, path=str(path), target="y")


def test_a_prior_is_taken_off_the_targets() -> None:
    options: dict[str, Any] = {"formula": "x*y + sin(z)", "dtype": "float64", "noise": 0.1}
    whole = loaded(**options)
    rest = loaded(**options, prior="x*y")
    for part in ("train", "val", "test"):
        x, y = whole.splits[part]
        same, left = rest.splits[part]
        assert torch.equal(x, same)
        torch.testing.assert_close(left[:, 0], y[:, 0] - x[:, 0] * x[:, 1])
    assert rest.reference()["test"]["rmse"] < whole.reference()["test"]["rmse"]
    assert "unknown name 'w'" in refusal(Functions, **options, prior="w")
    text = refusal(Functions, **options, prior="log(x)")
    assert "log(x)" in text
    assert "not a finite real number at x=-" in text


def test_a_prior_of_a_table_is_in_the_units_of_the_file(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    x = random.uniform(1, 9, (50, 2))
    y = 3 * x[:, 0] * x[:, 1] + x[:, 0]
    lines = ["mass,speed,force", *(",".join(map(repr, map(float, r))) for r in np.c_[x, y])]
    path = tmp_path / "table.csv"
    path.write_text("\n".join(lines))
    names = {"path": str(path), "target": "force", "standardise": "none", "dtype": "float64"}
    dataset = loaded(CSV, **names, prior="3*mass*speed")
    inputs, targets = dataset.splits["train"]
    torch.testing.assert_close(targets[:, 0], inputs[:, 0])
    assert "force" in refusal(CSV, **names, prior="force")
