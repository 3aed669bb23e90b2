"""Formulas of known suites: data that are made of them, and what counts as found."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kanzoo.reproduce.formulas import PAGES, ROWS, SUITES, add, page, solved
from kanzoo.reproduce.recover import points, solve
from kanzoo.reproduce.suites import Target, feynman


@pytest.mark.slow
def test_rows_of_the_page_of_equations() -> None:
    problem = feynman("nowhere")["I.12.1"]
    found = solve(problem)
    assert found.outcome == "found"
    assert found.error < 1e-9
    late = replace(found, error=None, warned=True, found="none in time", was_seen=False)
    wrong = replace(found, error=0.3, noise=0.1, dummies=2, method="gplearn")
    text = page("feynman", [found, late, wrong])
    assert "| kanzoo | 0 | 0 | 150 | 2 | 1 | 1 of 1 | 0 of 1 | 0 of 0 | 1 | 0 | inf |" in text
    assert (
        "| gplearn | 0.1 | 2 | 150 | 1 | 0 | 0 of 1 | 0 of 0 | 0 of 0 | 0 | 1 | 3.0e-01 |" in text
    )


def test_a_formula_is_judged_on_values_without_noise() -> None:
    problem = Target("a line", "2*x", {"x": (0.0, 1.0)}, True)
    x, y, new_x, new_y = points(problem, 0.1, 2)
    assert x.shape == new_x.shape == (1000, 3)
    np.testing.assert_allclose(new_y, 2 * new_x[:, 0])
    assert (y - 2 * x[:, 0]).std() / (2 * x[:, 0]).std() == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("suite", SUITES)
def test_pages_are_those_of_their_rows(suite: str, tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    rows = solved(root / ROWS.format(suite=suite))
    assert (root / PAGES[suite]).read_text() == page(suite, list(rows.values()))
    targets = SUITES[suite]("nowhere")
    for row in rows.values():
        if target := targets.get(row.name):  # all of Feynman's need their table
            assert (row.formula, row.was_seen) == (target.formula, target.was_seen)
    first, *rest = rows.values()
    add(tmp_path / "rows.json", *rest)
    add(tmp_path / "rows.json", replace(first, found="another"), first)
    assert solved(tmp_path / "rows.json") == rows
