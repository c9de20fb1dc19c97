"""Units around a layer that count, and those that were seen to change nothing."""

from itertools import product

import numpy as np

from limpq_deploy.export.timing.price_deciding import LEAST_TESTS, Shown, deciding

INTEGER, HALF = (8, 8), (16, 16)
EVERY = list(product((INTEGER, HALF), repeat=5))


def shown(*tuples: tuple[tuple[int, int], ...], third: bool = True) -> list[Shown]:
    """A layer moves more where its first unit and its fourth are unlike, and, where ``third``, more yet for its third
    in one of its surroundings."""
    return [
        (pairs, np.array([float(pairs[0] != pairs[3]) + 0.3 * (third and pairs[2:] == (HALF, INTEGER, HALF))]))
        for pairs in tuples
    ]


def test_units_that_change_nothing_go() -> None:
    assert deciding([shown(*EVERY, third=False)]) == (0, 3)


def test_a_unit_that_counts_in_one_surrounding_stays_with_those_that_make_it() -> None:
    assert deciding([shown(*EVERY)]) == (0, 2, 3, 4)


def test_what_counts_in_one_of_the_layers_that_stand_alike_stays_for_all() -> None:
    assert deciding([shown(*EVERY, third=False), shown(*EVERY)]) == (0, 2, 3, 4)


def test_a_unit_that_was_hardly_tested_stays() -> None:
    few = [pairs for pairs in EVERY if pairs[1:3] == (HALF, HALF)]
    assert len(few) == LEAST_TESTS
    assert deciding([shown(*few, third=False)]) == (0, 1, 2, 3, 4)  # never another pair at units 1 and 2; 4 tests at 4
    assert deciding([shown(*few, third=False)] * 2) == (0, 1, 2, 3)


def test_a_layer_whose_figures_are_not_explained_keeps_all_units() -> None:
    unlike = [(pairs, np.array([float(at % 2)])) for at, pairs in enumerate([*EVERY, *EVERY[1:], EVERY[0]])]
    assert deciding([unlike]) == (0, 1, 2, 3, 4)


def test_where_nothing_counts_no_unit_stays() -> None:
    assert deciding([[(pairs, np.zeros(1)) for pairs in EVERY]]) == ()
