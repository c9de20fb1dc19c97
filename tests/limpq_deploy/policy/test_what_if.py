"""Other budgets: limits that a user can type, and the policies that a search finds for them."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limpq_deploy.calibration.records import from_json, to_json
from limpq_deploy.policy.budgets import BUDGETS, COST_FILES, budgets_of, compression_budget
from limpq_deploy.policy.indicators import Indicators, LayerIndicators, PinnedLayer
from limpq_deploy.policy.recipes import Recipe
from limpq_deploy.policy.restrictions import restrict
from limpq_deploy.policy.search import PolicySearch, search_policy
from limpq_deploy.policy.what_if import (
    Swept,
    WhatIf,
    figure_of,
    front_points,
    limits_of,
    swept_budget,
    uniform_points,
)

SCALE = Recipe(importance="scale", alpha=2.0, outliers="forbid")


@pytest.fixture(scope="module")
def indicators() -> Indicators:
    layers = tuple(
        LayerIndicators(
            name=f"l{at}",
            macs=(at + 1) * 10**8,
            num_weights=1000 * (at + 1),
            weight=(3.0 + at, 1.5, 1.0),
            act=(2.0, 1.0, 0.5),
        )
        for at in range(4)
    )
    pinned = PinnedLayer(name="first", macs=10**7, num_weights=500, weight_bits=8, act_bits=8)
    return Indicators(model="m", bits=(2, 3, 4), layers=layers, pinned=(pinned,))


def swept_by(indicators: Indicators, **asked: object) -> Swept:
    return swept_budget({**dict.fromkeys((*BUDGETS, *COST_FILES)), **asked}, indicators, {})


@pytest.mark.parametrize(
    ("asked", "name", "replaced"),
    [
        ({"like": "w3a3"}, "max_gbitops", ("like",)),
        ({"max_gbitops": 5.0, "max_mib": 1.0}, "max_gbitops", ("like",)),
        ({"compression_ratio": 9.0}, "max_mib", ("compression_ratio",)),
        ({"max_avg_weight_bits": 3.0}, "max_avg_weight_bits", ()),
        ({}, "max_gbitops", ("like",)),
    ],
)
def test_the_budget_in_use_is_swept_in_its_plain_unit(
    indicators: Indicators, asked: dict[str, object], name: str, replaced: tuple[str, ...]
) -> None:
    swept = swept_by(indicators, **asked)
    assert (swept.name, swept.replaced) == (name, replaced)


@pytest.mark.parametrize("name", ["max_gbitops", "max_mib", "max_avg_weight_bits"])
def test_the_range_goes_from_the_fewest_to_the_most_bits(indicators: Indicators, name: str) -> None:
    swept = swept_by(indicators, **{name: 3.0})
    for bits, end in ((2, swept.low), (4, swept.high)):
        assert figure_of(swept, indicators, {layer.name: (bits, bits) for layer in indicators.layers}) == end


def test_restrictions_narrow_the_range(indicators: Indicators) -> None:
    restricted = restrict(indicators, min_bits=("*=3",))
    assert swept_by(restricted, like="w3a3").low > swept_by(indicators, like="w3a3").low


@given(
    low=st.fractions(Fraction(1, 1000), 10),
    width=st.fractions(Fraction(11, 10), 50),
    marks=st.lists(st.fractions(0, 500), max_size=6),
    number=st.integers(2, 14),
)
def test_limits_ascend_hold_the_ends_and_are_never_below_what_they_stand_for(
    low: Fraction, width: Fraction, marks: list[Fraction], number: int
) -> None:
    swept = Swept(name="max_gbitops", replaced=(), low=low, high=low * width, unit="G BitOps")
    limits = [Fraction(text) for text in limits_of(swept, marks, number)]
    assert limits == sorted(set(limits))
    between = {mark for mark in marks if low < mark < low * width}
    assert 2 <= len(limits) <= max(number, len(between) + 2)
    for wanted in (low, low * width, *between):
        nearest = min(limit for limit in limits if limit >= wanted)
        assert nearest <= wanted * Fraction(1001, 1000)  # four digits


def test_each_point_is_what_a_search_at_its_typed_limit_finds(indicators: Indicators) -> None:
    swept = swept_by(indicators, like="w3a3")
    limits = limits_of(swept, (), 7)
    points = front_points(
        indicators, SCALE, swept, limits, (), solve=PolicySearch(), admit=lambda indicators: indicators
    )
    assert len(points) >= 5
    for point in points:
        limit = point.settings["max_gbitops"]
        policy = search_policy(indicators, budgets_of("max_gbitops", indicators, limit), importance="scale")
        assert policy.pairs() == point.pairs()
        assert point.solver is not None
        assert point.solver.status == "optimal"
        assert point.bitops <= Fraction(limit) * 10**9
    objectives = [point.objective for point in points]
    assert objectives == sorted(objectives, reverse=True)  # type: ignore[type-var]
    assert points[0].pairs() == dict.fromkeys(points[0].bits, (2, 2))
    assert points[-1].pairs() == dict.fromkeys(points[-1].bits, (4, 4))


def test_other_budgets_hold_everywhere_and_limits_that_nothing_meets_are_left_out(indicators: Indicators) -> None:
    swept = swept_by(indicators, like="w3a3")
    size = compression_budget(indicators, 10)
    points = front_points(
        indicators,
        SCALE,
        swept,
        ("0.001", *limits_of(swept, (), 6)),
        (size,),
        solve=PolicySearch(),
        admit=lambda one: one,
    )
    assert points
    assert all(point.size_bits <= size.limit for point in points)
    assert all(point.settings["max_gbitops"] != "0.001" for point in points)


def test_uniform_bits_are_those_that_every_layer_may_take(indicators: Indicators) -> None:
    assert [one.name for one in uniform_points(indicators, None)] == ["w2a2", "w3a3", "w4a4"]
    assert [one.name for one in uniform_points(restrict(indicators, min_bits=("l1=3",)), None)] == ["w3a3", "w4a4"]


def test_the_record_survives_json(indicators: Indicators) -> None:
    swept = swept_by(indicators, like="w3a3")
    points = front_points(
        indicators, SCALE, swept, limits_of(swept, (), 3), (), solve=PolicySearch(), admit=lambda one: one
    )
    found = WhatIf(swept="max_gbitops", importance="scale", alpha=2.0, outliers="forbid", points=points)
    assert from_json(WhatIf, to_json(found), "here") == found


def test_a_front_of_no_budget_or_without_its_limits_is_refused(indicators: Indicators) -> None:
    [point] = uniform_points(indicators, None)[:1]
    words = {"importance": "scale", "alpha": 2.0, "outliers": "forbid"}
    with pytest.raises(ValueError, match=r"'max_gold' is no budget; expected one of "):
        WhatIf(swept="max_gold", points=(), **words)  # type: ignore[arg-type]
    for limit in ({}, {"max_gbitops": "all"}, {"max_gbitops": "1e999999999"}, {"max_gbitops": "1; rm"}):
        with pytest.raises(ValueError, match=r"the point 'w2a2' has the limit .* of max_gbitops"):
            WhatIf(swept="max_gbitops", points=(replace(point, settings=limit),), **words)  # type: ignore[arg-type]
