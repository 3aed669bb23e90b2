"""Planned looks spend the level as published bounds do."""

import numpy as np
import pytest
from scipy import stats

from kanzoo.study.looks import Looks, nominal_levels, spent


@pytest.mark.parametrize(
    ("shares", "bounds"),
    [  # ldbounds 2.0 (R), two-sided 0.05, O'Brien-Fleming type; Reboussin et al. 2000, table 1
        ((0.5, 1.0), (2.963, 1.969)),
        ((1 / 3, 2 / 3, 1.0), (3.710, 2.511, 1.993)),
        ((0.2, 0.4, 0.6, 0.8, 1.0), (4.877, 3.357, 2.680, 2.290, 2.031)),
    ],
)
def test_bounds_are_those_published(shares: tuple[float, ...], bounds: tuple[float, ...]) -> None:
    found = stats.norm.isf(nominal_levels(0.05, shares) / 2)
    np.testing.assert_allclose(found, bounds, atol=6e-4)


def test_brownian_motions_leave_the_bounds_as_often_as_is_spent() -> None:
    shares = np.array([0.25, 0.5, 1.0])
    bounds = stats.norm.isf(nominal_levels(0.2, shares.tolist()) / 2)
    steps = np.random.default_rng(0).normal(size=(200_000, 3)) * np.sqrt(np.diff([0, *shares]))
    out = np.abs(steps.cumsum(1) / np.sqrt(shares)) >= bounds
    for look in range(3):
        left = out[:, : look + 1].any(1).mean()
        assert left == pytest.approx(spent(0.2, shares[look]), abs=0.003)


def test_p_values_are_the_levels_at_which_a_look_rejects() -> None:
    shares = (0.25, 0.5, 1.0)
    for level in (0.001, 0.013, 0.05, 0.3):
        for n, nominal in zip((5, 10, 20), nominal_levels(level, shares), strict=True):
            looks = Looks((5, 10, 20), n)
            assert looks.two_sided(np.array([nominal]))[0] == pytest.approx(level, rel=2e-3)
            assert looks.one_sided(np.array([nominal / 2]))[0] == pytest.approx(level / 2, rel=2e-3)
            assert looks.nominal(level) == pytest.approx(nominal, rel=5e-3)
    p = np.array([1e-9, 0.01, 0.2, 0.7, 1.0, np.nan])
    for looks in (Looks((5,), 5), Looks((5, 10), 3)):
        np.testing.assert_array_equal(looks.two_sided(p), p)
    once = Looks((5, 10, 20), 10)
    assert (np.diff(once.two_sided(p[:-1])) >= 0).all()
    assert np.isnan(once.two_sided(p)[-1])
    assert (once.number, once.next, Looks((5, 10, 20), 20).next) == (2, 20, None)


@pytest.mark.parametrize(
    ("planned", "seeds", "words"),
    [
        ((5, 10, 20), 7, "5, 10, 20"),
        ((5, 10), 20, "study.looks plans others"),
        ((10, 5), 5, "increase"),
        ((), 5, "list"),
        ((1, 5), 5, "from 2"),
    ],
)
def test_other_looks_are_refused(planned: tuple[int, ...], seeds: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Looks(planned, seeds)


@pytest.mark.parametrize("counts", [(5, 9, 15), (5, 5, 7), (0, 6, 10)])
def test_fewer_pairs_than_planned_spend_as_much_in_the_end(counts: tuple[int, ...]) -> None:
    """What failed runs leave of the seeds is the information; the last look spends the rest."""
    planned, level = (5, 10, 20), 0.1
    x = np.random.default_rng(1).normal(size=(200_000, 20)).cumsum(1)
    out = np.zeros(len(x), dtype=bool)
    for look, n in enumerate(planned):
        if counts[look]:
            nominal = Looks(planned, n, counts[: look + 1]).nominal(level)
            n = counts[look]
            out |= np.abs(x[:, n - 1]) / np.sqrt(n) >= stats.norm.isf(nominal / 2)
    assert out.mean() == pytest.approx(level, abs=0.003)
    fewer, as_planned = (Looks(planned, 10, c).nominal(level) for c in ((5, 7), (5, 10)))
    assert fewer < as_planned
