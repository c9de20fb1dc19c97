"""Prices of groups: what was seen is given again, what was not is near what differs in few units."""

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
import pytest

from limpq_deploy.export.timing import price_groups
from limpq_deploy.export.timing.cost_table import QUANTITIES, Moved
from limpq_deploy.export.timing.price_groups import Figures, group_prices

INTEGER, HALF = (8, 8), (16, 16)
PAIRS = dict.fromkeys("abcd", (INTEGER, HALF))
MOVED = {chosen: 1000.0 * at for at, chosen in enumerate(product((INTEGER, HALF), repeat=3))}


def figures(units: str, beyond: Mapping[Any, float]) -> Figures:
    """Of activations, by the units' pairs, in bytes; a share is of 1000."""
    return Figures(
        units=tuple(units),
        beyond={chosen: np.array([value / 1000, 0, 0, 0]) for chosen, value in beyond.items()},
        weights=dict.fromkeys(beyond, 1.0),
        size=np.array([1000.0] * len(QUANTITIES)),
    )


@pytest.mark.parametrize("together", [1500, 1])
def test_what_engines_show_is_given_again(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(price_groups, "MOST_FIGURES", together)  # layers by themselves, where it is small
    found = group_prices(
        {"first": figures("abc", MOVED), "second": figures("bcd", MOVED)}, dict.fromkeys(("first", "second"), 0), PAIRS
    )
    assert sorted(found) == [("a", "b", "c"), ("b", "c", "d")]
    for prices in found.values():
        for chosen, value in MOVED.items():
            assert prices.get(chosen, Moved()).activations == pytest.approx(value, abs=10)


def test_a_group_within_a_larger_one_is_added_to_it() -> None:
    small = {(INTEGER, HALF): 500.0, (HALF, INTEGER): -200.0, (INTEGER, INTEGER): 0.0, (HALF, HALF): 0.0}
    found = group_prices(
        {"first": figures("abc", MOVED), "second": figures("ac", small)}, {"first": 0, "second": 1}, PAIRS
    )
    assert list(found) == [("a", "b", "c")]
    for chosen, value in MOVED.items():
        more = small[chosen[0], chosen[2]]
        assert found["a", "b", "c"].get(chosen, Moved()).activations == pytest.approx(value + more, abs=10)


def test_a_tuple_that_no_engine_shows_is_like_those_near_it_and_its_layers_like() -> None:
    unseen = (INTEGER, INTEGER, HALF)
    shown = {chosen: 600.0 * (chosen[0] == INTEGER) for chosen in MOVED if chosen != unseen}
    alone = group_prices({"one": figures("abc", shown)}, {"one": 0}, PAIRS)["a", "b", "c"][unseen]
    assert 300 < alone.activations < 600
    like = figures("bcd", {chosen: 600.0 * (chosen[0] == INTEGER) for chosen in MOVED})
    both = group_prices({"one": figures("abc", shown), "other": like}, {"one": 0, "other": 0}, PAIRS)["a", "b", "c"]
    assert both[unseen].activations == pytest.approx(600, abs=60)
    apart = group_prices({"one": figures("abc", shown), "other": like}, {"one": 0, "other": 1}, PAIRS)["a", "b", "c"]
    assert apart[unseen] == alone


def test_units_of_one_pair_are_no_part_of_a_group_and_nothing_makes_none() -> None:
    given = PAIRS | {"b": (INTEGER,)}
    shown = {chosen: value for chosen, value in MOVED.items() if chosen[1] == INTEGER}
    assert list(group_prices({"one": figures("abc", shown)}, {"one": 0}, given)) == [("a", "c")]
    same = figures("b", {(INTEGER,): 0.4})  # of a figure that hardly differs among engines
    assert group_prices({"one": same}, {"one": 0}, given) == {}
    assert group_prices({"one": figures("abc", dict.fromkeys(MOVED, 0.0))}, {"one": 0}, PAIRS) == {}
