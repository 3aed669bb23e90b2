"""Slopes of errors over sizes: known ones come out, with intervals that cover them."""

import numpy as np
import pandas as pd
import pytest

from kanzoo.study.slopes import slopes

TRUE = {"mlp": -0.5, "kan": -2.0}


def table(generator: np.random.Generator, noise: float, seeds: int = 5) -> pd.DataFrame:
    """Errors 3 N^slope, times log-normal noise that arms of a seed share in part."""
    rows = []
    for seed in range(seeds):
        shared = generator.normal(0, noise)
        for arm, slope in TRUE.items():
            for size in (100, 400, 1600, 6400):
                params = size + (3 if arm == "kan" else 0)
                error = 3 * params**slope * np.exp(shared + generator.normal(0, noise))
                rows.append(
                    {"data": "d", "model": "m", "match": "params", "arm": arm, "seed": seed}
                    | {"parameters": str(size), "params": params, "mode": "min"}
                    | {"status": "finished", "test": error}
                )
    return pd.DataFrame(rows)


def test_exact_power_laws_have_their_exponents() -> None:
    found = slopes(table(np.random.default_rng(0), 0.0), "mlp", "parameters", ["parameters"])
    assert [s.arm for s in found] == ["mlp", "kan"]
    for s in found:
        assert s.slope == pytest.approx(TRUE[s.arm])
        assert s.interval == pytest.approx((s.slope, s.slope))
        assert s.bend == pytest.approx(0, abs=1e-9)
        assert s.sizes == sorted(s.sizes)
    assert found[0].difference is None
    assert found[1].difference == pytest.approx(-1.5)


def test_intervals_cover_known_slopes_and_their_difference() -> None:
    generator = np.random.default_rng(1)
    covered = np.zeros(3)
    for _ in range(400):
        mlp, kan = slopes(table(generator, 0.3), "mlp", "parameters", ["parameters"])
        pairs = ((mlp.interval, -0.5), (kan.interval, -2.0), (kan.difference_interval, -1.5))
        covered += [ends is not None and ends[0] <= value <= ends[1] for ends, value in pairs]
    assert (covered / 400 > 0.92).all()
    assert (covered / 400 < 0.98).all()


def test_only_complete_seeds_count_and_accuracies_become_errors() -> None:
    runs = table(np.random.default_rng(2), 0.1)
    lost = (runs["seed"] == 3) & (runs["arm"] == "kan") & (runs["parameters"] == "400")
    runs.loc[lost, "status"] = "failed"
    mlp, kan = slopes(runs, "mlp", "parameters", ["parameters"])
    assert (mlp.num_seeds, kan.num_seeds) == (5, 4)
    without = slopes(runs[runs["seed"] != 3], "mlp", "parameters", ["parameters"])
    assert kan.difference == pytest.approx(without[1].difference)
    accuracies = runs.assign(mode="max", test=1 - runs["test"])
    assert slopes(accuracies, "mlp", "parameters", ["parameters"])[0].slope == pytest.approx(
        mlp.slope
    )
    two = runs[runs["parameters"].isin(["100", "400"])]
    assert slopes(two, "mlp", "parameters", ["parameters"]) == []


def test_a_curve_that_flattens_bends() -> None:
    runs = table(np.random.default_rng(3), 0.0)
    found = slopes(runs.assign(test=runs["test"] + 3e-6), "mlp", "parameters", ["parameters"])
    assert found[1].bend > 1
    assert abs(found[0].bend) < 0.01
