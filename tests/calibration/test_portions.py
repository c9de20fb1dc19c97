import itertools

from hypothesis import given
from hypothesis import strategies as st

from limpq_deploy.calibration.portions import portions


@given(st.lists(st.integers(0, 9), max_size=12), st.integers(1, 20))
def test_portions_keep_the_order_stay_within_the_most_and_are_as_few_as_that_order_allows(
    each: list[int], most: int
) -> None:
    sizes = {str(place): size for place, size in enumerate(each)}
    found = list(portions(sizes, most))
    assert list(itertools.chain.from_iterable(found)) == list(sizes)
    assert all(found)
    assert all(sum(sizes[name] for name in some) <= most or len(some) == 1 for some in found)
    for some, after in itertools.pairwise(found):
        assert sum(sizes[name] for name in (*some, after[0])) > most
