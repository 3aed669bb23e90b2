"""The cases of `pairwise` cover every pair."""

from itertools import product

import pytest
from pairwise import all_pairs, pairs_of


@pytest.mark.parametrize("sizes", [(3, 4), (2, 2, 2), (5, 4, 3, 2), (15, 5, 3)])
def test_every_pair_is_met_by_fewer_cases_than_the_product(sizes: tuple[int, ...]) -> None:
    cases = all_pairs(*sizes)
    every = list(product(*map(range, sizes)))
    assert set(cases) <= set(every)
    met, possible = (
        set().union(*(pairs_of(dict(enumerate(case))) for case in some)) for some in (cases, every)
    )
    assert met == possible
    assert len(cases) == len(set(cases))
    assert len(cases) < len(every) or len(sizes) == 2
