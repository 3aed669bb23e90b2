"""What verdicts promise, held against simulated studies: levels, power and coverage.

Studies are arrays of differences (studies, rows, seeds) that go through the functions which judge
real ones, many studies at once: a study is a family.
"""

import numpy as np
import pytest
from scipy import stats

from kanzoo.study import variance
from kanzoo.study.looks import Looks
from kanzoo.study.stats import adjust, compute_tests, decide, flags

STUDIES, ROWS = 2000, 4
LOOKS = (5, 10, 20)
ALPHA = 0.05
pytestmark = pytest.mark.slow
Draw = dict[str, np.ndarray]


def at_most(level: float, trials: int) -> float:
    """The rate that a true rate of `level` exceeds by chance in 1 of 200 cases."""
    return float(stats.binom.ppf(0.995, trials, level)) / trials


def judged(
    d: np.ndarray,
    looks: Looks,
    margin: float,
    estimates: list[variance.Estimate] | None = None,
    collapsed: np.ndarray | bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Words of rows, whether intervals cover 0, and flags; d (studies, rows, seeds)."""
    flat = d.reshape(-1, d.shape[-1])
    if estimates is None:
        estimates = [variance.over_seeds(row) for row in flat]
    mean, se, df = np.array([[e.mean, e.se, e.df] for e in estimates]).T
    family = np.repeat(np.arange(len(d)), d.shape[1]).tolist()
    flagged = flags(list(flat), family)[0] | collapsed
    margins = np.full(len(flat), margin)
    tested = compute_tests(list(flat), mean, se, df, margins, flagged, ALPHA, n_resamples=200)
    _, adjusted = adjust(tested.p, family, [looks] * len(flat))
    words = [" ".join(decide(m, p, ALPHA)) for m, p in zip(mean, adjusted.T, strict=True)]
    low, high = tested.interval
    covers = ((low <= 0) & (high >= 0)).reshape(d.shape[:2])
    return np.array(words).reshape(d.shape[:2]), covers, flagged.reshape(d.shape[:2])


def differs(words: np.ndarray) -> np.ndarray:
    return np.char.endswith(words, "better") | np.char.endswith(words, "worse")


def ever_different(d: np.ndarray) -> np.ndarray:
    """Whether a study called any row different at any of the planned looks."""
    false = np.zeros(len(d), dtype=bool)
    for n in LOOKS:
        words, *_ = judged(d[..., :n], Looks(LOOKS, n), 0.1)
        false |= differs(words).any(1)
    return false


def test_looks_together_keep_the_level() -> None:
    """Three looks at 4 rows without a difference: at most alpha have any false verdict."""
    d = np.random.default_rng(1).normal(size=(STUDIES, ROWS, LOOKS[-1]))
    rate = ever_different(d).mean()
    assert 0.02 < rate <= at_most(ALPHA, STUDIES)


def test_looks_at_fewer_pairs_than_planned_keep_the_level() -> None:
    """Of the seeds some fail for either arm, and each look is at what is left."""
    rng = np.random.default_rng(11)
    false = []
    for _ in range(6):
        failed = rng.random(LOOKS[-1]) < 0.3
        d = rng.normal(size=(STUDIES // 2, ROWS, LOOKS[-1]))
        counts = tuple(int((~failed[:n]).sum()) for n in LOOKS)
        hit = np.zeros(len(d), dtype=bool)
        for look, n in enumerate(LOOKS):
            if counts[look] >= 2:
                looks = Looks(LOOKS, n, counts[: look + 1])
                hit |= differs(judged(d[..., :n][..., ~failed[:n]], looks, 0.1)[0]).any(1)
        false.append(hit.mean())
    assert 0.02 < np.mean(false) <= at_most(ALPHA, 3 * STUDIES)


def test_diverging_runs_without_a_difference_keep_the_level() -> None:
    """A run in twenty of either arm ends without skill, far below: symmetric, but heavy."""
    rng = np.random.default_rng(2)
    arms = rng.normal(size=(2, STUDIES, ROWS, LOOKS[-1]))
    arms[rng.random(arms.shape) < 0.05] = -30.0
    assert ever_different(arms[0] - arms[1]).mean() <= at_most(ALPHA, STUDIES)


def test_random_splits_keep_the_level_and_the_plain_test_does_not() -> None:
    """Overlapping training sets correlate the seeds; num_test / num_train = 1/3."""
    rng = np.random.default_rng(3)
    share = 0.25  # of the sample in the test set, and so the correlation of differences
    common = rng.normal(scale=np.sqrt(share), size=(STUDIES, 1, 1))
    rest = rng.normal(scale=np.sqrt(1 - share), size=(STUDIES, 1, 10))
    d = common + rest
    flat = d.reshape(-1, 10)
    corrected = [variance.over_splits(row, 300, 100) for row in flat]
    words, covers, _ = judged(d, Looks((10,), 10), 0.1, corrected)
    assert differs(words).mean() <= at_most(ALPHA, STUDIES)
    assert covers.mean() >= 1 - at_most(ALPHA, STUDIES)
    _, plain, _ = judged(d, Looks((10,), 10), 0.1)
    assert plain.mean() < 0.75


@pytest.mark.parametrize(
    ("seed_std", "item_std", "n", "m"),
    [(1.0, 0.0, 5, 60), (0.1, 1.0, 5, 60), (0.3, 3.0, 5, 60), (0.3, 3.0, 10, 200)],
)
def test_seeds_and_items_cover(seed_std: float, item_std: float, n: int, m: int) -> None:
    """Intervals of the two-way table cover the truth over new seeds and new items."""
    rng = np.random.default_rng(4)
    found = []
    for _ in range(STUDIES):
        seeds, items = rng.normal(size=(n, 1)), rng.normal(size=(1, m))
        table = seed_std * seeds + item_std * items + 2.0 * rng.normal(size=(n, m))
        found.append(variance.over_seeds_and_items(table))
    mean, se, df = np.array([[e.mean, e.se, e.df] for e in found]).T
    covered = np.mean(np.abs(mean) <= stats.t.ppf(0.975, df) * se)
    assert covered >= 0.935
    assert covered <= 0.99
    spread = np.sqrt(seed_std**2 / n + item_std**2 / m + 4 / (n * m))
    assert np.sqrt((se**2).mean()) == pytest.approx(spread, rel=0.08)


@pytest.mark.parametrize(("n", "effect"), [(5, 2.0), (10, 1.0), (20, 0.7)])
def test_power_is_within_three_points_of_theory(n: int, effect: float) -> None:
    d = np.random.default_rng(5).normal(effect, 1.0, (STUDIES, 1, n))
    words, *_ = judged(d, Looks((n,), n), 1e-9)
    observed = np.char.endswith(words, "better").mean()
    theory = stats.nct.sf(stats.t.ppf(0.975, n - 1), n - 1, effect * np.sqrt(n))
    assert observed == pytest.approx(theory, abs=0.03)


@pytest.mark.parametrize("shape", ["normal", "uniform", "heavy"])
@pytest.mark.parametrize("n", [5, 10])
def test_intervals_of_symmetric_differences_cover(shape: str, n: int) -> None:
    rng = np.random.default_rng(6)
    size = (STUDIES, ROWS, n)
    draws = {
        "normal": lambda: rng.normal(size=size),
        "uniform": lambda: rng.uniform(-1, 1, size),
        "heavy": lambda: rng.standard_t(6, size),
    }
    _, covers, _ = judged(draws[shape](), Looks((n,), n), 0.1)
    assert covers.mean() == pytest.approx(0.95, abs=0.015)


def skewed(shape: str, size: tuple[int, int, int]) -> np.ndarray:
    rng = np.random.default_rng(7)
    if shape == "exponential":
        return rng.exponential(size=size) - 1
    if shape == "log-normal":
        return rng.lognormal(size=size) - np.exp(0.5)
    return np.where(rng.random(size) < 0.05, -20.0, rng.normal(size=size)) + 1.0


@pytest.mark.parametrize("n", LOOKS)
@pytest.mark.parametrize("shape", ["exponential", "log-normal", "collapsed"])
def test_skewed_differences_are_flagged_in_most_studies_or_covered(shape: str, n: int) -> None:
    d = skewed(shape, (STUDIES, ROWS, n))
    _, covers, flagged = judged(d, Looks((n,), n), 0.1)
    assert flagged.any(1).mean() > 0.6 or covers.mean() >= 0.92
    normal = np.random.default_rng(8).normal(size=(STUDIES, n))
    assert flags(list(normal), list(range(STUDIES)))[0].mean() < 0.07


# --- all sources at once -------------------------------------------------------------------------

SEED, ITEM, REST = 1.0, 1.5, 3.0  # standard deviations, of the difference at one item
ITEMS = 40
SHARE = 0.25  # of the sample in the test set of a random split
NO_SKILL = -30.0


def draw_all(
    rng: np.random.Generator, *, shape: str = "normal", diverging: float = 0.0, studies: int
) -> tuple[np.ndarray, np.ndarray]:
    """Differences of studies of 4 rows at every item, and which seeds have a diverged run.

    (studies, 4, seeds, items): two rows share one test set, so that its items are the same for all
    seeds; two draw a split with every seed, whose training sets overlap and whose items are new.
    A seed moves a row by what `shape` gives. Of either arm's runs some diverge.
    """
    size = (studies, ROWS, LOOKS[-1], 1)
    seeds = {
        "normal": rng.normal(size=size), "exponential": rng.exponential(size=size) - 1,
    }[shape]  # fmt: skip
    items = ITEM * rng.normal(size=(studies, ROWS, LOOKS[-1], ITEMS))
    items[:, :2] = items[:, :2, :1]  # one test set
    d = items + REST * rng.normal(size=items.shape)
    d[:, :2] += SEED * seeds[:, :2]
    # The variance of a row's mean over items is (1 - SHARE) of each seed's own, SHARE in common.
    alone = d[:, 2:] + SEED * seeds[:, 2:]
    within = np.sqrt(SEED**2 + (ITEM**2 + REST**2) / ITEMS)
    common = within * rng.normal(size=(studies, 2, 1, 1))
    d[:, 2:] = np.sqrt(1 - SHARE) * alone + np.sqrt(SHARE) * common
    lost = rng.random((2, *size)) < diverging
    d = np.where(lost[0] ^ lost[1], NO_SKILL * (lost[0] * 1.0 - lost[1]), d)
    d = np.where(lost[0] & lost[1], 0.0, d)
    return d, lost.any(0)[..., 0]


def judge_all(
    d: np.ndarray, lost: np.ndarray, looks: Looks
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Words, whether intervals cover 0, and flags, each (studies, rows), at a look."""
    d, lost = d[:, :, : looks.seeds], lost[:, :, : looks.seeds]
    estimates = [
        variance.over_seeds_and_items(table)
        if row < 2
        else variance.over_splits(table.mean(1), 1 - SHARE, SHARE)
        for study in d
        for row, table in enumerate(study)
    ]
    collapsed = lost.any(-1) & ~lost.all(-1)
    return judged(d.mean(-1), looks, 0.1, estimates, collapsed.ravel())


def test_all_sources_at_once_keep_the_level() -> None:
    """Splits, seeds, items, skewed seeds, diverging runs and three looks, without a difference."""
    d, lost = draw_all(
        np.random.default_rng(9), shape="exponential", diverging=0.05, studies=STUDIES
    )
    false = np.zeros(STUDIES, dtype=bool)
    for n in LOOKS:
        words, covers, flagged = judge_all(d, lost, Looks(LOOKS, n))
        false |= differs(words).any(1)
        assert flagged.any(1).mean() > 0.6 or covers.mean() >= 0.92
    assert false.mean() <= at_most(ALPHA, STUDIES)


def test_symmetric_sources_at_once_cover_and_have_the_power_of_theory() -> None:
    n = LOOKS[-1]
    d, lost = draw_all(np.random.default_rng(10), studies=STUDIES)
    _, covers, _ = judge_all(d, lost, Looks((n,), n))
    assert covers[:, :2].mean() == pytest.approx(0.95, abs=0.015)
    assert covers[:, 2:].mean() == pytest.approx(0.95, abs=0.015)
    effect = 1.1
    # Expected mean squares of the row with one test set, and their degrees of freedom.
    rest = REST**2
    seed, item = ITEMS * SEED**2 + rest, n * ITEM**2 + rest
    total = seed + item - rest
    df = total**2 / (seed**2 / (n - 1) + item**2 / (ITEMS - 1) + rest**2 / ((n - 1) * (ITEMS - 1)))
    theory = stats.nct.sf(stats.t.ppf(0.975, df), df, effect / np.sqrt(total / (n * ITEMS)))
    words, _, _ = judge_all(d[:, :1] + effect, lost[:, :1], Looks((n,), n))
    assert np.char.endswith(words, "better").mean() == pytest.approx(theory, abs=0.03)
