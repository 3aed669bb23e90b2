"""The cases of `pairwise` cover every pair."""

from itertools import product

import pytest
from pairwise import all_pairs, pairs_of


@pytest.mark.parametrize("sizes", [(3, 4), (2, 2, 2), (5, 4, 3, 2), (15, 5, 3), (1, 6, 2)])
def test_every_pair_is_met_by_fewer_cases_than_the_product(sizes: tuple[int, ...]) -> None:
    cases = all_pairs(*sizes)
    everything = list(product(*map(range, sizes)))
    assert set(cases) <= set(everything)
    met, all_of_them = (set().union(*map(pairs_of, them)) for them in (cases, everything))
    assert met == all_of_them
    assert len(cases) == len(set(cases)) < len(everything) or len(sizes) == 2
