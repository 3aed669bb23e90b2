"""The way of a user's own table, awkward as such are, to a formula that predicts its rows."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import compose, folder_of

import kanzoo
from kanzoo.explain import explain
from kanzoo.run.fit import train

TARGET = "E (J)"
pytestmark = pytest.mark.slow


@pytest.fixture
def table(tmp_path: Path) -> tuple[Path, pd.DataFrame]:
    """Semicolons, decimal commas, cp1252, units in the names, a category, a gap."""
    random = np.random.default_rng(0)
    mass, speed = random.uniform(1, 3, 200), random.uniform(-2, 2, 200)
    color = random.choice(["weiß", "rot"], 200)
    energy = 0.5 * mass * speed**2 + np.where(color == "rot", 4.0, 0.0)
    frame = pd.DataFrame({"m (kg)": mass, "v [m/s]": speed, "Farbe": color, TARGET: energy})
    frame.loc[5, "v [m/s]"] = np.nan
    frame.to_csv(tmp_path / "t.csv", sep=";", decimal=",", encoding="cp1252", index=False)
    return tmp_path / "t.csv", frame.dropna()


def test_a_table_becomes_a_formula_in_python(table: tuple[Path, pd.DataFrame]) -> None:
    _, frame = table
    x, y = frame.drop(columns=TARGET), frame[TARGET]
    model = kanzoo.KANRegressor(hidden=(), formula="auto", random_state=0).fit(x, y)
    np.testing.assert_allclose(model.predict(x), y, atol=1e-6)
    assert set(model.formula_.legend.values()) == {"m (kg)", "v [m/s]", "Farbe=weiß"}
    assert model.formula_.expression.count_ops() <= 8


def test_a_table_becomes_a_formula_by_commands(
    table: tuple[Path, pd.DataFrame], tmp_path: Path
) -> None:
    path, frame = table
    words = ["data=csv", f"data.path={path}", f"data.target='{TARGET}'", "data.missing=drop"]
    words += ["model=mlp", "layers=kan", "model.depth=1", "model.width=2", "model.norm=none"]
    words += ["match=none", "optim=lbfgs", "data.batch_size=200", "trainer.max_epochs=2"]
    words += ["data.dtype=float64", "trainer.precision=64-true", "trainer=cpu"]
    words += ["logger=csv", "callbacks.progress=false", f"runs={tmp_path}"]
    train(compose("train", words))
    page = explain(folder_of(*words), symbolic=True)
    found = json.loads((page.parent / "formula.json").read_text())
    assert not found["failed"]
    names = {symbol: name for symbol, name in found["legend"].items()}
    space: dict = {}
    exec(found["code"]["python"], space)
    values = {**frame, "Farbe=weiß": frame.Farbe == "weiß", "Farbe=rot": frame.Farbe == "rot"}
    columns = [np.asarray(values[name], float) for name in names.values()]
    np.testing.assert_allclose(space["formula"](*columns), frame[TARGET], atol=1e-5)


def test_columns_without_influence_and_a_category_of_three(tmp_path: Path) -> None:
    """Of ten features two numbers have higher powers, one a function, two flags a shift each."""
    random = np.random.default_rng(3)
    mass, speed, angle = (random.uniform(*r, 256) for r in ((1, 5), (-3, 3), (0, 6)))
    site = random.choice(["Köln", "Rio", "Osaka"], 256)
    shift = pd.Series(site).map({"Köln": 0.0, "Rio": 2.0, "Osaka": -1.0}).to_numpy()
    frame = pd.DataFrame(
        {"m [kg]": mass, "v (m/s)": speed, "E": angle, "a, b": random.normal(size=256)}
    )
    frame.loc[3, "a, b"] = np.nan
    energy = 0.5 * mass * speed**2 + 3 * np.sin(angle) + shift
    model = kanzoo.KANRegressor(formula="auto", random_state=0).fit(frame.assign(site=site), energy)
    np.testing.assert_allclose(model.predict(frame.assign(site=site)), energy, atol=1e-6)
    used = {str(symbol) for symbol in model.formula_.expression.free_symbols}
    assert {model.formula_.legend.get(name, name) for name in used} > {"m [kg]", "v (m/s)", "E"}
    assert not used & {"a_b", "a_b_is_missing"}
